"""Processes that share only files compute the same bytes as the local engine, so a distributed engine is one file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import World
from helpers.engines import EVERY_KEY_OF_A_FIT

from extembed_cli.data.inputs.encode import encode
from extembed_cli.data.outputs.shard_results import ShardResult
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.engines.base import Job, Progress, ShardInput
from extembed_cli.features.prepare import Shared, prepare
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.local_passes import local_passes
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import load, open_all
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

WORKER = """
import pickle
import sys
from pathlib import Path
from extembed_cli.data.shards import ipc
from extembed_cli.data.inputs.encode import encode
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.engines.base import Job
from extembed_cli.features.prepare import Shared

folder, index, as_of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
spec, columns = pickle.loads((folder / "spec.pickle").read_bytes())
shared = Shared.open(spec, columns, folder / "shared")
events, candidates = (ipc.map_table(folder / f"{name}-{index}.arrow") for name in ("events", "candidates"))
shard = encode(spec, events, candidates, shared.vocabulary)
Job(spec, shared, as_of).compute(shard).save(Scratch(folder, {}), index)
"""

GROUPS = f"""
weight = "rating"
[histories.liked]
where = "rating >= 4"
[[aggregate]]
half_lives = ["7d", "none"]
thresholds = [0.3]
{EVERY_KEY_OF_A_FIT}[[dual]]
name = "long"
histories = ["all"]
half_life = "30d"
"""


@dataclass
class ProcessEngine:
    """Starts a process for each shard. They share nothing but files."""

    folder: Path

    def run(self, job: Job, shards: Iterable[ShardInput], progress: Progress) -> Iterator[ShardResult]:
        job.shared.save(self.folder / "shared")
        (self.folder / "spec.pickle").write_bytes(pickle.dumps((job.spec, job.shared.columns)))
        scratch = Scratch(self.folder, {})
        for index, shard in enumerate(shards):
            for name, table in zip(("events", "candidates"), shard.tables(), strict=True):
                ipc.write_table(self.folder / f"{name}-{index}.arrow", table)
            arguments = [str(self.folder), str(index), str(job.vectors_as_of)]
            subprocess.run([sys.executable, "-c", WORKER, *arguments], check=True)
            result = ShardResult.load(scratch, index)
            assert result is not None
            yield result


@pytest.mark.soak
def test_processes_write_the_bytes_of_the_local_engine(world: World) -> None:
    path = world.spec(GROUPS)
    run_job(load_spec(path), RunOptions(workers=2), Watch())
    files = [world.folder / name for name in ("out.parquet", "users.parquet")]
    local = [file.read_bytes() for file in files]
    report = json.loads((world.folder / "out.parquet.run.json").read_text())
    folder = world.folder / "engine"
    folder.mkdir()
    run_job(
        load_spec(path),
        RunOptions(workers=2, layout=Layout(shards=3)),
        Watch(),
        partial(local_passes, start_engine=lambda mapped, scratch: ProcessEngine(folder)),
    )
    assert [file.read_bytes() for file in files] == local
    other = json.loads((world.folder / "out.parquet.run.json").read_text())
    assert other["shards"] == 3
    for key in ("inputs", "cosines", "dual", "candidates_in_own_history"):
        assert other[key] == report[key]


def test_ids_and_numbers_of_partners_encode_alike(world: World) -> None:
    """Rows with ids, in any order, encode to the same arrays as rows that were numbered while reading."""
    spec = load_spec(world.spec(GROUPS))
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shard = loaded.shard(spec, 0)
    vocabulary, order = loaded.vocabulary, np.random.default_rng(0)
    tables = []
    for kind in ("events", "candidates"):
        table = loaded.partition.table(kind, 0)
        assert table is not None
        numbers = table["partner_number"].to_numpy(zero_copy_only=False).astype(np.int64)
        ids = pa.array(vocabulary.ids.to_numpy()[vocabulary.ranks[numbers]])
        tables.append(table.drop(["partner_number"]).append_column("partner", ids).take(order.permutation(len(table))))
    other = encode(spec, *tables, vocabulary)
    assert other.owners.equals(shard.owners)
    for name in ("indptr", "times", "partners"):
        assert np.array_equal(getattr(other.history, name), getattr(shard.history, name))
        assert np.array_equal(getattr(other.candidates, name), getattr(shard.candidates, name))
    assert other.history.values.keys() == shard.history.values.keys()
    for expression, values in shard.history.values.items():
        assert np.array_equal(other.history.values[expression], values)


def test_saved_state_opens_unchanged(world: World, tmp_path: Path) -> None:
    spec = load_spec(world.spec(GROUPS))
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary)
    shared.save(tmp_path / "shared")
    opened = Shared.open(spec, shared.columns, tmp_path / "shared")
    assert opened.columns == shared.columns
    assert opened.vocabulary.ids.equals(shared.vocabulary.ids)
    for name, matrix in shared.embeddings.items():
        for part in ("vectors", "norms", "slots"):
            values = getattr(opened.embeddings[name], part)
            assert np.array_equal(values, getattr(matrix, part))
            assert isinstance(values.base, np.memmap)
    assert list(opened.vector_files) == list(shared.vector_files)
