"""Histories of all lengths in one job: how they are cut into pieces changes no value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, run_spec, soak, timestamps, vectors
from helpers.aggregate_loop import ALL, DISLIKED, LIKED, STATISTICS, check
from helpers.drawn import same_bytes
from helpers.long_histories import HISTORIES, HOUR, START, write_lognormal
from helpers.outputs import ran, same

from extembed_cli.features.aggregate import cosine_statistics
from extembed_cli.histories.batches import Batch, cut
from extembed_cli.histories.visibility import Seen
from extembed_cli.jobs.layout import Layout
from extembed_cli.kernels.segments import offsets


def test_histories_of_lognormal_lengths_agree_with_the_loop(world: World) -> None:
    write_lognormal(world, 30, 60, 400)
    spec = f"""[histories.liked]\nwhere = "rating >= 4"\n[histories.disliked]\nwhere = "rating <= 2"
[[aggregate]]\n{STATISTICS}"""
    check(world, spec, {"liked": LIKED, "disliked": DISLIKED})


def test_one_candidate_of_each_user(world: World) -> None:
    write_lognormal(world, 20, 100, 200)
    one = world.table("candidates").group_by("user_id").aggregate([("item_id", "min"), ("timestamp", "max")])
    world.write("candidates", one.rename_columns(["user_id", "item_id", "timestamp"]))
    assert check(world, f"[[aggregate]]\n{STATISTICS}", ALL)["user_id"].is_unique().all()


@pytest.mark.parametrize("weighted", [soak(False), True])
def test_small_batches_give_the_same_features(world: World, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits are lowered until they apply: batches, gathered vectors, sorted rows, and long histories."""
    write_lognormal(world, 60, 12, 600, dim=20, candidates=30)
    spec = ('weight = "weight"\n' if weighted else "") + f"{HISTORIES}[[aggregate]]\n{STATISTICS}"
    one = run_spec(world.spec(spec))
    monkeypatch.setattr(cosine_statistics, "PAIRS", 200)
    monkeypatch.setattr(cosine_statistics, "FLOATS", 64 * 20)
    other = run_spec(world.spec(spec))
    means = [name for name in one.columns if "cos_mean" in name or "cos_to_mean" in name]
    same_bytes(one.drop(means), other.drop(means))
    for name in means:  # the sums have other parts
        np.testing.assert_allclose(other[name].to_numpy(), one[name].to_numpy(), atol=5e-7)
    monkeypatch.setattr(cosine_statistics, "_LONG", 50)
    third = run_spec(world.spec(spec))
    for name in one.columns:
        if one[name].dtype == pl.Float32:  # the products have other shapes
            np.testing.assert_allclose(third[name].to_numpy(), one[name].to_numpy(), atol=1e-6, rtol=1e-6)


def test_huge_weights_outside_the_window_have_no_effect(world: World) -> None:
    """A sum over visible events must not be computed as a difference of sums that are 10^18 times as large."""
    rating = np.array([5, 5, 3, 4, 5, 3])
    moments = timestamps(START + np.arange(6) * 24 * HOUR)
    world.write("interactions", {"user_id": [1] * 6, "item_id": np.arange(6), "timestamp": moments, "rating": rating})
    candidates = {"user_id": [1] * 9, "item_id": np.arange(9), "timestamp": timestamps([START + 150 * HOUR] * 9)}
    world.write("candidates", candidates)
    weight = "CASE WHEN item_id < 2 THEN 1e18 ELSE rating END"
    spec = f'weight = "{weight}"\n[histories.newest]\nmax_events = 3\n[[aggregate]]\n{STATISTICS}'
    features = run_spec(world.spec(spec))
    expected = run_spec(world.spec(spec.replace(weight, "rating")))
    for name in (name for name in features.columns if features[name].dtype == pl.Float32):
        np.testing.assert_allclose(features[name].to_numpy(), expected[name].to_numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_later_events_change_no_byte_of_any_length(tmp_path: Path, weighted: bool) -> None:
    """One user has a history from one event to a long one, also in windows."""
    rng = np.random.default_rng(3)
    events, candidates = 7000, 150
    pq.write_table(
        pa.table({"item_id": np.arange(40), "embedding": vectors(rng.standard_normal((40, 130)))}),
        tmp_path / "text.parquet",
    )
    hours = np.sort(rng.integers(0, events, candidates))
    columns = {"user_id": np.ones(candidates, np.int64), "item_id": rng.integers(0, 40, candidates)}
    columns["timestamp"] = timestamps(START + hours * HOUR)
    pq.write_table(pa.table(columns), tmp_path / "candidates.parquet")
    log = {
        "user_id": np.ones(events, np.int64),
        "item_id": rng.integers(0, 45, events),
        "rating": rng.integers(1, 6, events),
        "weight": rng.integers(1, 5, events),
    }
    spec = f"""interactions = "interactions.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"
{'weight = "weight"' if weighted else ""}\n[embeddings.text]\npath = "text.parquet"\n{HISTORIES}
[[aggregate]]\nhistories = ["all", "liked", "newest", "recent"]\nhalf_lives = ["20d"]\npercentiles = [50]
thresholds = [0.1]
sd = true"""
    (tmp_path / "spec.toml").write_text(spec)
    outputs = []
    for length in (3000, 4500, 7000):
        table = pa.table({**log, "timestamp": timestamps(START + np.arange(events) * HOUR)})
        pq.write_table(table.slice(0, length), tmp_path / "interactions.parquet")
        outputs.append(run_spec(tmp_path / "spec.toml"))
    for few, more, length in ((0, 1, 3000), (1, 2, 4500), (0, 2, 3000)):
        rows = pl.Series(hours <= length)
        same_bytes(outputs[few].filter(rows), outputs[more].filter(rows))


@pytest.mark.soak
def test_many_candidates_of_one_user(tmp_path: Path) -> None:
    """100,000 candidates of a user with 300 events: some rows are compared with a run for those rows only."""
    rng = np.random.default_rng(9)
    world = World(tmp_path)
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, 8)))})
    world.write(
        "interactions",
        {
            "user_id": np.ones(300, np.int64),
            "item_id": rng.integers(0, 40, 300),
            "timestamp": timestamps(START + rng.integers(0, 1000, 300) * HOUR),
            "rating": rng.integers(1, 6, 300),
        },
    )
    many = 100_000
    candidates = pa.table(
        {
            "user_id": np.ones(many, np.int64),
            "item_id": rng.integers(0, 40, many),
            "timestamp": timestamps(START + rng.integers(0, 1000, many) * HOUR),
        }
    )
    world.write("candidates", candidates)
    spec = f"[[aggregate]]\n{STATISTICS}"
    features = run_spec(world.spec(spec))
    some = rng.choice(many, 40, replace=False)
    world.write("candidates", candidates.take(some))
    few = check(world, spec, ALL)
    for name in few.columns[3:]:
        np.testing.assert_allclose(features[name].to_numpy()[some], few[name].to_numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.soak
def test_workers_and_shards_change_no_byte(world: World) -> None:
    write_lognormal(world, 60, 60, 600, dim=20, candidates=20)
    dual = '[[dual]]\nhistories = ["liked"]\nhalf_life = "20d"\nsd = true\nuser_vectors = "u.parquet"\n'
    spec = world.spec(f'weight = "weight"\n{HISTORIES}[[aggregate]]\n{STATISTICS}{dual}')
    one = ran(spec, 1, Layout())
    for workers, layout in ((2, Layout()), (4, Layout(shards=5)), (2, Layout(shards=15, rows=500, mapped=True))):
        same(one, ran(spec, workers, layout))


@pytest.mark.parametrize("dim", [8, soak(64)])
def test_equal_candidates_have_equal_bytes(world: World, dim: int) -> None:
    """So the order of rows changes no value, even if a user, time and item is repeated."""
    write_lognormal(world, 80, 40, 600, dim=dim, candidates=40)
    one = world.table("candidates")
    rng = np.random.default_rng(2)
    order = rng.permutation(np.repeat(np.arange(len(one)), 3))
    world.write("candidates", one.take(order))
    spec = world.spec(f"{HISTORIES}[[aggregate]]\n{STATISTICS}[[dual]]\nregularization = 1e-6\nsd = true\n")
    features = run_spec(spec).with_columns(copy=pl.Series(order)).sort("copy").drop("copy")
    same_bytes(features[::3], features[1::3])
    same_bytes(features[::3], features[2::3])


@pytest.mark.soak
@pytest.mark.parametrize("dim", [2, 4])
def test_sums_of_very_many_events_do_not_drift(tmp_path: Path, dim: int) -> None:
    """With 500,000 events of one item and no decay, its cosine with the mean is 1, even with float32 sums."""
    world, many = World(tmp_path), 500_000
    times = timestamps(START + np.arange(many) * 1_000_000)
    log = {"user_id": np.ones(many, np.int64), "item_id": np.zeros(many, np.int64), "timestamp": times}
    world.write("interactions", log)
    as_of = timestamps([START + (many + 5) * 1_000_000])
    world.write("candidates", {"user_id": [1], "item_id": [0], "timestamp": as_of})
    for seed in range(4):
        vector = np.random.default_rng(seed).standard_normal((1, dim))
        world.write("text", {"item_id": [0], "embedding": vectors(vector)})
        features = run_spec(world.spec('[[aggregate]]\nhalf_lives = ["none"]\n'))
        for name in ("cos_mean", "cos_to_mean"):
            assert features[f"text__all__{name}"][0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("window", [10, 50])
def test_windows_take_no_more_products_than_they_need(window: int) -> None:
    """The candidates are spread over a history of 3,000 events."""
    end = np.linspace(0, 3000, 60).astype(np.int64)
    seen = Seen(np.arange(3000), np.array([0, 3000]), np.maximum(end - window, 0), end, moves=True)
    pieces = cut(np.array([0, 60]), seen, np.ones(60, np.bool_), 8, 8)
    assert pieces.cosines.sum() <= 60 * 8 * 2 * max(window, 32)


def test_every_candidate_with_a_visible_event_is_in_exactly_one_piece() -> None:
    rng = np.random.default_rng(6)
    counts, events = rng.integers(0, 300, 40), rng.integers(0, 90, 40)
    indptr, last = offsets(counts), np.cumsum(events)
    seen_by = np.concatenate([np.sort(rng.integers(0, n + 1, c)) for n, c in zip(events, counts, strict=True)])
    first = np.repeat(last - events, counts)
    seen = Seen(np.arange(events.sum()), offsets(events), np.maximum(first, first + seen_by - 20), first + seen_by)
    selected = rng.random(len(seen_by)) < 0.9
    later = np.concatenate(
        [np.arange(n) >= n // 2 for n in counts]
    )  # the second half of each user, as if it had a long history
    batches = []
    for chosen, most, shape in ((selected & ~later, 64, None), (selected & later, 8, 8)):
        pieces = cut(indptr, seen, chosen, most, shape)
        assert ((pieces.last - pieces.first) <= most).all()
        assert (pieces.events % pieces.block == 0).all()
        batches += [Batch(part, seen, chosen) for part in pieces.batches(pieces.cosines, 2000)]
    rows = np.concatenate([batch.q for batch in batches])
    assert sorted(rows) == np.flatnonzero(selected & (seen_by > 0)).tolist()
    for batch in batches:
        events_of, padding = batch.events()
        for row, q in enumerate(batch.q):
            at = np.arange(batch.place[row], batch.place[row] + batch.counts[row])
            assert events_of[at].tolist() == list(range(seen.start[q], seen.end[q]))
            assert not padding[at].any()
        parts = list(batch.slices(64))
        covered = [place for part in parts for place in range(part.events.start, part.events.stop)]
        assert covered == list(range(batch.events_at[-1]))
