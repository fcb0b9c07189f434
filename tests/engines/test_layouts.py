"""A run writes the same bytes for any number of workers and shards, in memory and on disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, soak, timestamps, vectors
from helpers.outputs import Ran, ran, same

from extembed_cli.data.inputs.inputs import Sharded
from extembed_cli.data.outputs import feature_file
from extembed_cli.engines import base
from extembed_cli.features.compute import compute_shard
from extembed_cli.features.prepare import Shared
from extembed_cli.histories.csr import Shard
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.sample import write_sample

DAY, START = 86_400_000_000, 1_700_000_000_000_000
CUTS = [
    (2, Layout()),
    soak(1, Layout(rows=1_000)),
    soak(4, Layout(shards=7)),
    soak(2, Layout(shards=40, rows=700)),  # more shards than users: some are empty
    (3, Layout(shards=3, mapped=True)),
    soak(2, Layout(mapped=True)),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides the sample data with an eighth of its users."""
    folder: Path = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    for name in ("interactions", "candidates"):
        table = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(table.filter(pc.less(table["user_id"], 30)), folder / f"{name}.parquet")
    spec = folder / "spec.toml"
    group = '[[dual]]\nembeddings = ["image"]\nhistories = ["liked"]\nunobserved_weight = 0.01\nsd = true\n'
    rated = "CASE WHEN event = 'like' THEN 1.0 WHEN event = 'dislike' THEN -1.0 END"
    targets = f'[[aggregate]]\nname = "said"\ncenter = false\ntarget = "{rated}"\nresidual = "item+user"\ntop = [3]\n'
    spec.write_text(spec.read_text() + group + 'user_vectors = "users.parquet"\n' + targets)
    return spec


@pytest.fixture(scope="module")
def one(sample: Path) -> Ran:
    """Provides the outputs of one worker without shards."""
    return ran(sample, 1, Layout())


@pytest.mark.parametrize(("workers", "cut"), CUTS)
def test_workers_shards_and_files_change_no_byte(sample: Path, one: Ran, workers: int, cut: Layout) -> None:
    same(one, ran(sample, workers, cut))


def test_other_users_of_a_batch_change_no_byte(tmp_path: Path) -> None:
    """Histories of a day and of a year are in one batch. Each user's rows are those of a run for that user only."""
    rng = np.random.default_rng(5)
    world, users, each = World(tmp_path), 60, 40
    span = np.where(np.arange(users) % 2, 1, 365)[:, None] * DAY
    rows = {
        "interactions": START + rng.integers(0, DAY, (users, each)) * (span // DAY),
        "candidates": START + (span * rng.uniform(0.2, 1.1, (users, each))).astype(np.int64),
    }
    for name, times in rows.items():
        world.write(
            name,
            {
                "user_id": np.repeat(np.arange(users), each),
                "item_id": rng.integers(0, 90, users * each),
                "timestamp": timestamps(times.ravel()),
            },
        )
    world.write("text", {"item_id": np.arange(80), "embedding": vectors(rng.standard_normal((80, 48)))})
    spec = world.spec(
        '[[aggregate]]\nhalf_lives = ["5d"]\npercentiles = [50]\nthresholds = [0.1]\nsd = true\n[[dual]]\n'
    )
    together = ran(spec, 1, Layout())
    for shards in (3, 40):
        same(together, ran(spec, 2, Layout(shards=shards)))
    whole, candidates = world.output(), world.table("candidates")
    for user in range(8):
        world.write("candidates", candidates.filter(pc.equal(candidates["user_id"], user)))
        ran(spec, 1, Layout())
        assert world.output().equals(whole.filter(whole["user_id"] == user), null_equal=True)


@pytest.mark.parametrize("user", ["large uint64", *map(soak, ("string", "binary", "int16", "dictionary", "uint64"))])
def test_user_ids_of_any_type_survive_sharding(world: World, user: str) -> None:
    """Some ids need 128 bits internally, which Arrow does not have, or 64 bits in one file and 128 in another."""
    to: dict[str, Callable[[np.ndarray], pa.Array]] = {
        "int16": lambda ids: pa.array(ids.astype(np.int16)),
        "string": lambda ids: pa.array([f"user {i}" for i in ids]),
        "dictionary": lambda ids: pa.array([f"user {i}" for i in ids]).dictionary_encode(),
        "binary": lambda ids: pa.array([bytes([i, 255]) for i in ids]),
        "uint64": lambda ids: pa.array(ids.astype(np.uint64)),
        "large uint64": lambda ids: pa.array(ids.astype(np.uint64) + np.uint64(2**64 - 40)),
    }
    for name in ("interactions", "candidates"):
        table = world.table(name)
        world.write(name, table.set_column(0, "user_id", to[user](table["user_id"].to_numpy())))
    text = '[[aggregate]]\n[[dual]]\ntarget = "rating - 3"\nuser_vectors = "users.parquet"\n'
    spec = world.spec(text)
    same(ran(spec, 2, Layout()), ran(spec, 2, Layout(shards=5, rows=100)))
    assert len(world.table("users")) == 30


def test_a_log_in_many_files_with_nulls_gives_the_same_bytes(world: World) -> None:
    table = world.table("interactions").to_pydict()
    for row in range(0, 600, 7):
        table["user_id"][row] = None
        table["item_id"][row + 1] = None
    (world.folder / "log").mkdir()
    for part in range(6):
        rows = slice(100 * part, 100 * part + 100)
        world.write(f"log/part-{part}", {name: values[rows] for name, values in table.items()})
    candidates = world.table("candidates").to_pydict()
    candidates["user_id"][5] = candidates["item_id"][6] = candidates["timestamp"][7] = None
    world.write("candidates", candidates)
    top = 'interactions = "log"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
    spec = world.spec(
        top + '[embeddings.text]\npath = "text.parquet"\n[histories.liked]\nwhere = "rating >= 4"\n[[aggregate]]\n'
    )
    same(ran(spec, 1, Layout()), ran(spec, 2, Layout(shards=11, rows=33)))
    assert world.output()["liked__count"].null_count() == 2


@pytest.mark.parametrize("name", ["interactions", "candidates"])
def test_empty_inputs_give_the_same_bytes_in_shards(world: World, name: str) -> None:
    world.write(name, world.table(name).slice(0, 0))
    spec = world.spec('require.allow_empty = true\n[[aggregate]]\n[[dual]]\nuser_vectors = "users.parquet"\n')
    same(ran(spec, 1, Layout()), ran(spec, 2, Layout(shards=3)))


def test_an_error_in_a_batch_ends_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a thread is raised, and the files of the shards are removed."""

    def broken(spec: Any, shared: Shared, *rest: Any) -> Any:
        tables = {name: replace(matrix, vectors=matrix.vectors[:1]) for name, matrix in shared.embeddings.items()}
        return compute_shard(spec, replace(shared, embeddings=tables), *rest)

    monkeypatch.setattr(base, "compute_shard", broken)
    with pytest.raises(IndexError):
        ran(world.spec(), 2, Layout(shards=2))
    assert not list(world.folder.glob(".extembed-*"))
    assert not (world.folder / "out.parquet").exists()


def test_users_are_spread_over_shards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Shard] = []
    encode = Sharded.shard

    def watching(loaded: Sharded, spec: Any, index: int) -> Shard:
        seen.append(encode(loaded, spec, index))
        return seen[-1]

    monkeypatch.setattr(Sharded, "shard", watching)
    ran(world.spec(), 1, Layout(shards=4))
    users = [user for shard in seen for user in shard.owners.to_list()]
    assert len(users) == len(set(users)) == world.output()["user_id"].n_unique()
    assert all(len(shard.owners) for shard in seen)


def test_row_groups_do_not_depend_on_the_files_of_the_candidates(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_file, "ROW_GROUP", 64)
    monkeypatch.setattr(feature_file, "PART_ROWS", 128)
    whole, candidates = world.run(), world.table("candidates")
    candidates = candidates.append_column("kind", candidates["label"].cast(pa.string()).dictionary_encode())
    for number, (low, high) in enumerate(itertools.pairwise([0, 1, 70, 70, 200, 300])):
        world.write(f"cut/{number}", candidates.slice(low, high - low), row_group_size=50)
    for output in ("cut.parquet", "cut_parts"):
        extembed("run", world.spec(), "--set", f'candidates="{world.folder}/cut"', "-o", world.folder / output).ok()
        files = [pq.ParquetFile(path) for path in sorted((world.folder / output).glob("*.parquet"))]
        files = files or [pq.ParquetFile(world.folder / output)]
        groups = [file.metadata.row_group(group).num_rows for file in files for group in range(file.num_row_groups)]
        assert groups == [64, 64, 64, 64, 44]
        rows = pa.concat_tables([file.read() for file in files], promote_options="permissive")
        assert pl.DataFrame(pl.from_arrow(rows.drop(["kind"]))).equals(whole)
        assert rows["kind"].cast(pa.string()).to_pylist() == candidates["kind"].cast(pa.string()).to_pylist()
