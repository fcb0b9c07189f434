"""Runs over larger logs keep to `--memory`: their peak of anonymous memory is measured from outside."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, extembed_process, timestamps, vectors

sys.path.insert(0, str(ROOT / "benchmarks"))
from processes import Cost, measure

START = 1_700_000_000_000_000
YEAR = 365 * 86_400_000_000
MIB = 2**20
SLACK = 1.15
AGGREGATE = ["aggregate", "--half-life", "30d", "--threshold", "0.3", "--history", "liked=rating >= 4"]
DUAL = ["dual", "--target", "rating - 3", "--sd"]
LOGISTIC = ["dual", "--target", "rating - 3", "--loss", "logistic"]
RESIDUAL = [*AGGREGATE, "--target", "rating", "--residual", "item+user", "--top", "5"]
EVERYBODY = ["dual", "--side", "all", "--target", "rating - 3", "--sd", "--half-life", "30d", "--refit-every", "6h"]
LARGE = [AGGREGATE, DUAL, LOGISTIC, RESIDUAL, EVERYBODY]


def write(folder: Path, users: np.ndarray, candidates: np.ndarray, dim: int, items: int = 20_000) -> None:
    """Write one event for each of `users`, and one candidate for each of `candidates`."""
    rng = np.random.default_rng(0)
    ids = {"user_id": users, "item_id": rng.integers(0, items, len(users)), "rating": rng.integers(1, 6, len(users))}
    pq.write_table(
        pa.table({**ids, "timestamp": timestamps(START + rng.integers(0, YEAR, len(users)))}),
        folder / "interactions.parquet",
    )
    columns = {"user_id": candidates, "item_id": rng.integers(0, items, len(candidates))}
    times = timestamps(START + rng.integers(YEAR // 2, YEAR, len(candidates)))
    pq.write_table(pa.table({**columns, "timestamp": times}), folder / "candidates.parquet")
    table = {"item_id": np.arange(items), "embedding": vectors(rng.standard_normal((items, dim)))}
    pq.write_table(pa.table(table), folder / "items.parquet")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Provides 3 M events and 300,000 candidates of 100,000 users."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(1)
    write(folder, rng.integers(0, 100_000, 3_000_000), rng.integers(0, 100_000, 300_000), dim=32)
    yield folder
    shutil.rmtree(folder)


def run(folder: Path, command: list[str], memory: int, *more: str) -> tuple[Cost, dict[str, object]]:
    """Run a command and return its cost and its report."""
    inputs = ["-i", str(folder / "interactions.parquet"), "-c", str(folder / "candidates.parquet")]
    inputs += ["-e", f"text={folder / 'items.parquet'}", "-o", str(folder / "out.parquet"), "--workers", "2"]
    cost = measure([sys.executable, "-m", "extembed_cli", *command, *inputs, "-q", "--memory", f"{memory}MiB", *more])
    return cost, json.loads((folder / "out.parquet.run.json").read_text())


@pytest.mark.soak
@pytest.mark.parametrize("command", LARGE, ids=["aggregate", "dual", "logistic", "residual", "everybody"])
def test_a_log_larger_than_memory_keeps_to_memory(large: Path, command: list[str]) -> None:
    """With less memory a run uses less, and the bytes are the same."""
    digests = set()
    for memory in (250, 4000):
        cost, report = run(large, command, memory)
        assert cost.anonymous_mib <= memory * SLACK, f"{cost} for {memory} MiB"
        digests.add(report["output_sha256"])
        assert (report["shards"] == 1) == (memory == 4000)  # type: ignore[comparison-overlap]
    assert len(digests) == 1


@pytest.mark.soak
def test_vectors_larger_than_memory_keep_to_memory(tmp_path: Path) -> None:
    """300,000 vectors of 256 dimensions are 293 MiB, and as much again for the rotated vectors."""
    rng = np.random.default_rng(2)
    write(tmp_path, rng.integers(0, 2000, 200_000), rng.integers(0, 2000, 20_000), dim=256, items=300_000)
    digests = set()
    for memory in (350, 4000):
        for command in (AGGREGATE, [*DUAL, "--unobserved-weight", "0.01", "--center"]):
            cost, report = run(tmp_path, command, memory)
            assert cost.anonymous_mib <= memory * SLACK, f"{cost} for {memory} MiB"
            digests.add(report["output_sha256"])
    assert len(digests) == 2


@pytest.mark.soak
@pytest.mark.parametrize("command", [AGGREGATE, DUAL], ids=["aggregate", "dual"])
def test_a_user_with_a_million_events_keeps_to_memory(tmp_path: Path, command: list[str]) -> None:
    """There are also 2,000 ordinary users."""
    rng = np.random.default_rng(3)
    users = np.concatenate([np.zeros(1_000_000, np.int64), rng.integers(1, 2000, 100_000)])
    candidates = np.concatenate([np.zeros(60, np.int64), rng.integers(1, 2000, 20_000)])
    write(tmp_path, users, candidates, dim=64)
    cost, report = run(tmp_path, command, 800)
    assert cost.anonymous_mib <= 800 * SLACK, str(cost)
    output = pq.read_table(tmp_path / "out.parquet")
    column = next(name for name in output.column_names if name.endswith(("dual_score", "cos_mean__hl30d")))
    assert output[column].null_count < 100
    assert report["rows_out"] == len(candidates)


@pytest.mark.soak
def test_a_mean_that_cancels_keeps_to_memory(tmp_path: Path) -> None:
    """The mean of 200,000 random vectors is so short that it is summed again in float64."""
    write(tmp_path, np.zeros(200_000, np.int64), np.zeros(24, np.int64), dim=256)
    cost, _ = run(tmp_path, ["aggregate", "--half-life", "none"], 400)
    assert cost.anonymous_mib <= 400 * SLACK, str(cost)


@pytest.mark.soak
def test_a_training_on_a_log_larger_than_memory_keeps_to_memory(large: Path) -> None:
    """With less memory a training uses less, and the weights are the same."""
    candidates = pq.read_table(large / "candidates.parquet")
    label = pa.array(np.random.default_rng(4).integers(0, 2, len(candidates)))
    pq.write_table(candidates.append_column("label", label), large / "labelled.parquet")
    (large / "spec.toml").write_text(
        'interactions = "interactions.parquet"\ncandidates = "labelled.parquet"\n'
        '[embeddings.text]\npath = "items.parquet"\n[histories.liked]\nwhere = "rating >= 4"\n'
    )
    command = [sys.executable, "-m", "extembed_cli", "neural", "train", str(large / "spec.toml"), "--label", "label"]
    command += ["--encoder", "mean", "--dim", "8", "--epochs", "1", "--max-events", "20", "--device", "cpu"]
    command += ["--workers", "2", "-q", "--model"]
    peaks = {}
    for memory in (600, 4000):
        cost = measure([*command, str(large / f"model{memory}"), "--memory", f"{memory}MiB"])
        peaks[memory] = cost.anonymous_mib
        assert cost.anonymous_mib <= memory * SLACK, f"{cost} for {memory} MiB"
    assert peaks[600] < peaks[4000]
    weights = [(large / f"model{memory}" / "model.safetensors").read_bytes() for memory in peaks]
    assert weights[0] == weights[1]


@pytest.mark.soak
def test_short_histories_of_many_users_keep_to_memory(tmp_path: Path) -> None:
    """Each user has one event and two candidates at different times, which gives pieces of the smallest shape."""
    users = np.arange(100_000)
    write(tmp_path, users, np.repeat(users, 2), dim=128)
    cost, _ = run(tmp_path, AGGREGATE, 300)
    assert cost.anonymous_mib <= 300 * SLACK, str(cost)


@pytest.mark.soak
def test_a_history_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A user cannot be cut into shards."""
    write(tmp_path, np.zeros(400_000, np.int64), np.zeros(10, np.int64), dim=8)
    flags = ["-i", tmp_path / "interactions.parquet", "-c", tmp_path / "candidates.parquet"]
    flags += ["-e", f"text={tmp_path / 'items.parquet'}", "-o", tmp_path / "out.parquet", "--workers", "2"]
    done = extembed_process("aggregate", *flags, "--memory", "290MiB")
    done.failed(5, "one user has about 400,000 interactions", "may use only 290 MiB", "max_events")
    assert not list(tmp_path.glob(".*"))
    extembed_process("aggregate", *flags, "--memory", "290MiB", "--max-events", "1000").ok()
    extembed_process("aggregate", *flags, "--memory", "400MiB").ok()


def test_too_little_memory_is_refused_before_work_starts(tmp_path: Path) -> None:
    write(tmp_path, np.arange(100), np.arange(100), dim=4, items=50)
    flags = ["-i", tmp_path / "interactions.parquet", "-c", tmp_path / "candidates.parquet"]
    flags += ["-e", f"text={tmp_path / 'items.parquet'}", "-o", tmp_path / "out.parquet", "--memory", "100MiB"]
    done = extembed_process("aggregate", *flags, "--workers", "2")
    done.failed(
        5, "needs at least", "libraries", "batches of", "may use only 100 MiB", "Raise --memory or lower --workers"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"interactions.parquet", "candidates.parquet", "items.parquet"}


@pytest.mark.soak
@pytest.mark.parametrize("many", ["item", "day"])
def test_residuals_of_a_popular_item_or_a_busy_day_keep_to_memory(tmp_path: Path, many: str) -> None:
    rng, n = np.random.default_rng(4), 600_000
    items, seconds = rng.integers(0, 20_000, n), rng.integers(0, YEAR // 10**6, n)
    often = rng.random(n) < 0.5
    (items if many == "item" else seconds)[often] = 7
    log = {"user_id": rng.integers(0, 50_000, n), "item_id": items, "rating": rng.integers(1, 6, n)}
    pq.write_table(pa.table({**log, "timestamp": timestamps(START + seconds * 10**6)}), tmp_path / "log.parquet")
    few = {"user_id": np.arange(100), "item_id": np.arange(100), "timestamp": timestamps(START + YEAR + np.arange(100))}
    pq.write_table(pa.table(few), tmp_path / "candidates.parquet")
    (tmp_path / "spec.toml").write_text(
        'interactions = "log.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
        '[[counters]]\ntarget = "rating"\nresidual = "item"\n'
    )
    command = ("run", tmp_path / "spec.toml", "--workers", "1", "--memory")
    whose = "a shard of items" if many == "item" else "one day"
    extembed_process(*command, "190MiB").failed(5, f"interactions of {whose}", "Raise --memory")
    limit = 270
    cost = measure([sys.executable, "-m", "extembed_cli", *map(str, command), f"{limit}MiB", "-q"])
    assert cost.anonymous_mib <= limit * SLACK
    assert json.loads((tmp_path / "out.parquet.run.json").read_text())["shards"] == 2


@pytest.mark.soak
def test_the_audience_of_a_hot_item_keeps_to_memory(tmp_path: Path) -> None:
    """An item with a million events, whose users' vectors are derived from the log."""
    rng, n = np.random.default_rng(6), 1_500_000
    items = np.where(rng.random(n) < 0.7, 7, rng.integers(0, 5_000, n))
    times = START + rng.integers(0, YEAR, n)
    log = {"user_id": rng.integers(0, 200_000, n), "item_id": items, "rating": rng.integers(1, 6, n)}
    pq.write_table(pa.table({**log, "timestamp": timestamps(times)}), tmp_path / "log.parquet")
    few = {"user_id": np.arange(200), "item_id": np.where(np.arange(200) < 20, 7, np.arange(200))}
    asked = {**few, "timestamp": timestamps(START + YEAR // 2 + np.arange(200))}
    pq.write_table(pa.table(asked), tmp_path / "candidates.parquet")
    table = {"item_id": np.arange(5_000), "embedding": vectors(rng.standard_normal((5_000, 16)))}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    (tmp_path / "spec.toml").write_text(
        'interactions = "log.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
        '[embeddings.text]\npath = "items.parquet"\n'
        '[user_embeddings.taste]\nfrom = {embedding = "text", half_life = "30d"}\n'
        '[[aggregate]]\nside = "item"\n'
    )
    digests = set()
    for limit in (900, 4000):
        command = [sys.executable, "-m", "extembed_cli", "run", str(tmp_path / "spec.toml"), "-q", "--workers", "1"]
        cost = measure([*command, "--memory", f"{limit}MiB"])
        assert cost.anonymous_mib <= limit * SLACK, f"{cost} for {limit} MiB"
        digests.add(json.loads((tmp_path / "out.parquet.run.json").read_text())["output_sha256"])
    assert len(digests) == 1
