"""The same bytes on any number of workers and shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from extembed_cli.data.histories import Candidates, History
from extembed_cli.engines import local
from extembed_cli.features.shard import Shared, prepare
from extembed_cli.job import Watch, load
from extembed_cli.sample import write_sample
from extembed_cli.spec import Spec
from extembed_cli.spec_loading import load_spec

Job = tuple[Spec, Shared, History, Candidates, int, int]


def compute(job: Job, workers: int, shard_rows: int) -> local.Features:
    *inputs, rows = job
    with local.threads(workers) as mapped:
        return local.compute(*inputs, mapped, rows=rows, shard_rows=shard_rows)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder: Path = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    spec = load_spec(folder / "spec.toml")
    loaded = load(spec, Watch())
    shared = prepare(spec, loaded.inputs.embeddings, loaded.ids, loaded.encoded.vocabulary)
    return spec, shared, loaded.history, loaded.asked, loaded.vectors_as_of, len(loaded.candidates)


@pytest.fixture(scope="module")
def one(job: Job) -> local.Features:
    return compute(job, workers=1, shard_rows=10**9)


@pytest.mark.parametrize(("workers", "shard_rows"), [(2, 10**9), (4, 10**9), (1, 1), (2, 3_000), (3, 20_000)])
def test_workers_and_shards_change_no_byte(job: Job, one: local.Features, workers: int, shard_rows: int) -> None:
    other = compute(job, workers, shard_rows)
    assert one.in_own_history == other.in_own_history
    assert one.done.cosines == other.done.cosines
    for name, values in one.columns.items():
        assert values.tobytes() == other.columns[name].tobytes(), name


def test_shards_cover_all_users_once(job: Job) -> None:
    _, _, history, candidates, *_ = job
    for rows in (1, 5_000, 10**9):
        cuts = local.shards(history, candidates, rows)
        assert [low for low, _ in cuts] == [0, *(high for _, high in cuts[:-1])]
        assert cuts[-1][1] == len(history.indptr) - 1


def test_an_error_in_a_batch_ends_the_run(job: Job) -> None:
    spec, shared, *rest = job
    broken = {name: replace(matrix, vectors=matrix.vectors[:1]) for name, matrix in shared.embeddings.items()}
    with pytest.raises(IndexError):
        compute((spec, replace(shared, embeddings=broken), *rest), workers=2, shard_rows=10**9)
