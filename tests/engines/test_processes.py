"""Processes that share only files compute the same bytes as the local engine, so a distributed engine is one file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from conftest import World

from extembed_cli.data import ipc
from extembed_cli.data.encode import encode
from extembed_cli.data.scratch import Scratch
from extembed_cli.data.shard_results import ShardResult
from extembed_cli.engines.base import Job, Progress, Results
from extembed_cli.engines.local import LocalEngine
from extembed_cli.features.prepare import Shared, prepare
from extembed_cli.histories.csr import Shard
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.reading import load, open_all
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

WORKER = """
import sys
from pathlib import Path
from extembed_cli.data import ipc
from extembed_cli.data.encode import encode
from extembed_cli.data.scratch import Scratch
from extembed_cli.engines.base import Job
from extembed_cli.features.prepare import Shared
from extembed_cli.spec.loading import load_spec

folder, index, as_of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
spec = load_spec(Path(sys.argv[4]))
shared = Shared.open(spec, folder / "shared")
events, candidates = (ipc.map_table(folder / f"{name}-{index}.arrow") for name in ("events", "candidates"))
shard = encode(events, candidates, shared.vocabulary, spec.event_weight, all_users=True)
Job(spec, shared, as_of).compute(shard).save(Scratch(folder, {}), index)
"""

GROUPS = """
weight = "rating"
[histories.liked]
where = "rating >= 4"
[[aggregate]]
half_lives = ["7d", "none"]
thresholds = [0.3]
[[dual]]
histories = ["liked"]
target = "rating - 3"
unobserved_weight = 0.1
bias = true
sd = true
user_vectors = "users.parquet"
[[dual]]
name = "long"
histories = ["all"]
half_life = "30d"
"""


@dataclass
class ProcessEngine:
    """An engine that starts a process for each shard and passes the rows, with their ids, as Arrow files."""

    folder: Path
    spec: Path
    tables: list[tuple[pa.Table, pa.Table]]

    def run(self, job: Job, shards: Iterable[Callable[[], Shard]], progress: Progress) -> Iterator[ShardResult]:
        job.shared.save(self.folder / "shared")
        scratch = Scratch(self.folder, {})
        for index, (events, candidates) in enumerate(self.tables):
            ipc.write_table(self.folder / f"events-{index}.arrow", events)
            ipc.write_table(self.folder / f"candidates-{index}.arrow", candidates)
            arguments = [str(self.folder), str(index), str(job.vectors_as_of), str(self.spec)]
            subprocess.run([sys.executable, "-c", WORKER, *arguments], check=True)
            result = ShardResult.load(scratch, index)
            assert result is not None
            yield result


def test_processes_give_the_same_results(world: World) -> None:
    path = world.spec(GROUPS)
    spec = load_spec(path)
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.vocabulary)
    job = Job(spec, shared, loaded.vectors_as_of)
    local = Results.of(LocalEngine(map).run(job, [lambda: loaded.shard(spec, 0)], lambda rows: None))

    events, candidates = (loaded.partition.table(kind, 0) for kind in ("events", "candidates"))
    assert events is not None
    assert candidates is not None
    tables = []
    for part in range(3):
        parts = []
        for table in (events, candidates):
            numbers = table["item_number"].to_numpy(zero_copy_only=False)
            ids = loaded.vocabulary.ids.to_numpy()[loaded.vocabulary.ranks[numbers.astype(np.int64)]]
            with_ids = table.drop(["item_number"]).append_column("item", pa.array(ids))
            parts.append(with_ids.filter(pa.array(np.asarray(table["user"]) % 3 == part)))
        tables.append((parts[0], parts[1]))
    folder = world.folder / "engine"
    folder.mkdir()
    others = Results.of(ProcessEngine(folder, path, tables).run(job, [], lambda rows: None))

    assert len(others.features) == 3
    for name in local.features[0].columns:
        whole = local.features[0].columns[name]
        for part in others.features:
            assert part.columns[name].tobytes() == whole[part.rows].tobytes(), name
    vectors = {user: row for p in others.vectors[0] for user, row in zip(p.users, p.vectors, strict=True)}
    [users] = local.vectors[0]
    assert sorted(vectors) == users.users.to_list()
    assert all(np.array_equal(vectors[user], row) for user, row in zip(users.users, users.vectors, strict=True))
    assert others.repeats == local.repeats
    assert others.tally.counts == local.tally.counts
    assert others.coverage == local.coverage


def test_ids_and_numbers_of_items_encode_alike(world: World) -> None:
    """Rows with ids, in any order, encode to the same arrays as rows that were numbered while reading."""
    spec = load_spec(world.spec(GROUPS))
    loaded = load(open_all(spec, Watch()), Watch(), Layout())
    shard = loaded.shard(spec, 0)
    vocabulary, order = loaded.vocabulary, np.random.default_rng(0)
    tables = []
    for kind in ("events", "candidates"):
        table = loaded.partition.table(kind, 0)
        assert table is not None
        numbers = table["item_number"].to_numpy(zero_copy_only=False).astype(np.int64)
        ids = pa.array(vocabulary.ids.to_numpy()[vocabulary.ranks[numbers]])
        tables.append(table.drop(["item_number"]).append_column("item", ids).take(order.permutation(len(table))))
    other = encode(*tables, vocabulary, spec.event_weight, all_users=True)
    assert other.users.equals(shard.users)
    for name in ("indptr", "times", "items"):
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
    opened = Shared.open(spec, tmp_path / "shared")
    assert opened.columns == shared.columns
    assert opened.vocabulary.ids.equals(shared.vocabulary.ids)
    for name, matrix in shared.embeddings.items():
        for part in ("vectors", "norms", "slots"):
            values = getattr(opened.embeddings[name], part)
            assert np.array_equal(values, getattr(matrix, part))
            assert isinstance(values.base, np.memmap)
    assert list(opened.vector_files) == list(shared.vector_files)
