"""Every aggregate column of a whole run agrees with the float64 loop of `reference.py`."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, run_spec, soak, timestamps, vectors
from helpers.aggregate_loop import ALL, DISLIKED, HOUR, LIKED, START, STATISTICS, assert_close, check, events_of, micros
from helpers.drawn import same_bytes
from helpers.reference import ReferenceHistory, features, unit_vectors

pytestmark = pytest.mark.usefixtures("engine")


def test_all_statistics_of_all_events(world: World) -> None:
    output = check(world, f"[[aggregate]]\n{STATISTICS}", ALL)
    # The world has the hard cases: ties, users without events, items without a vector.
    assert output["all__count"].min() == 0
    assert output["text__all__cos_mean"].null_count() > (output["all__count"] == 0).sum()


def test_named_histories(world: World) -> None:
    spec = f"""[histories.liked]\nwhere = "rating >= 4"\n[histories.disliked]\nwhere = "rating <= 2"
[[aggregate]]\n{STATISTICS}"""
    check(world, spec, {"liked": LIKED, "disliked": DISLIKED})


@pytest.mark.parametrize("lag", ["1h", "36h", "30d"])
def test_lag(world: World, lag: str) -> None:
    check(world, f'lag = "{lag}"\n[[aggregate]]\n{STATISTICS}', ALL, lag=lag)


def test_window(world: World) -> None:
    spec = f"""[histories.recent]\nwindow = "9d"\n[histories.liked]\nwhere = "rating >= 4"\nwindow = "20d"
[[aggregate]]\n{STATISTICS}"""
    recent = ReferenceHistory(window="9d")
    liked = ReferenceHistory(LIKED.where, window="20d")
    check(world, spec, {"recent": recent, "liked": liked})


def test_window_shorter_than_the_lag_sees_nothing(world: World) -> None:
    spec = f'lag = "5d"\nrequire.allow_empty = true\n[histories.recent]\nwindow = "2d"\n[[aggregate]]\n{STATISTICS}'
    output = check(world, spec, {"recent": ReferenceHistory(window="2d")}, lag="5d")
    assert output["recent__count"].to_list() == [0] * len(output)


@pytest.mark.parametrize("most", [1, 2, 7])
def test_newest_events_only(world: World, most: int) -> None:
    spec = f"""[histories.all]\nmax_events = {most}\n[histories.liked]\nwhere = "rating >= 4"\nmax_events = {most}
window = "30d"\n[[aggregate]]\n{STATISTICS}"""
    histories = {
        "all": ReferenceHistory(max_events=most),
        "liked": ReferenceHistory(LIKED.where, window="30d", max_events=most),
    }
    check(world, spec, histories)


def test_ties_in_time_and_item_at_the_edge_of_max_events(world: World) -> None:
    # A user's events are at two times and on few items, so only the order by item and rating can decide.
    rng = np.random.default_rng(3)
    world.write(
        "interactions",
        {
            "user_id": rng.integers(0, 5, 200),
            "item_id": rng.integers(0, 6, 200),
            "timestamp": timestamps(START + rng.integers(0, 2, 200) * HOUR),
            "rating": rng.integers(1, 6, 200),
        },
    )
    spec = f"""[histories.newest]\nmax_events = 9\n[[aggregate]]\n{STATISTICS}"""
    check(world, spec, {"newest": ReferenceHistory(max_events=9)})


def test_as_of_step_floors_the_as_of_times(world: World) -> None:
    check(world, f'as_of_step = "1d"\n[[aggregate]]\n{STATISTICS}', ALL, as_of_step="1d")


def test_one_as_of_for_all(world: World) -> None:
    moment = START + 30 * 24 * HOUR
    check(world, f'as_of = "2023-12-14T22:13:20"\n[[aggregate]]\n{STATISTICS}', ALL, as_of=moment)


def test_center(world: World) -> None:
    spec = f'[embeddings.text]\npath = "text.parquet"\ncenter = true\n[[aggregate]]\n{STATISTICS}'
    check(world, spec, ALL, center=True)


def test_two_tables_share_a_history(world: World) -> None:
    rng = np.random.default_rng(5)
    world.write("image", {"item_id": np.arange(10, 40), "embedding": vectors(rng.standard_normal((30, 3)))})
    spec = f"""[embeddings.text]\npath = "text.parquet"\n[embeddings.image]\npath = "image.parquet"
[histories.liked]\nwhere = "rating >= 4"\n[[aggregate]]\n{STATISTICS}"""
    check(world, spec, {"liked": LIKED}, tables=("text", "image"))


def test_weights(world: World) -> None:
    spec = f'weight = "rating - 1"\n[[aggregate]]\n{STATISTICS}'  # a rating of 1 has weight 0 and counts as absent
    check(world, spec, ALL, weight=lambda row: row["rating"] - 1.0)


def test_weights_of_any_size(world: World) -> None:
    spec = f'weight = "CASE WHEN rating >= 4 THEN 1e-60 ELSE 1e-70 END"\n[[aggregate]]\n{STATISTICS}'
    output = run_spec(world.spec(spec))
    expected = run_spec(
        world.spec(f'weight = "CASE WHEN rating >= 4 THEN 1e0 ELSE 1e-10 END"\n[[aggregate]]\n{STATISTICS}')
    )
    for name in output.columns:
        if "cos_" in name:
            assert_close(output[name], expected[name].to_list())


def test_a_group_name_goes_before_the_statistic(world: World) -> None:
    check(world, f'[[aggregate]]\nname = "short"\n{STATISTICS}', ALL, prefix="short_")


@pytest.mark.parametrize("half_life", ["1s", "1h", "5000d"])
def test_half_lives_far_from_the_length_of_the_history(world: World, half_life: str) -> None:
    # Sixty days are five million half-lives of a second. Weights relative to the as-of time would give 0/0.
    spec = f"[[aggregate]]\n{STATISTICS.replace('7d', half_life)}"
    output = check(world, spec, ALL, half_lives=(half_life, "none"))
    seen = output.filter(pl.col("text__all__vector_count") > 0, pl.col("item_id") < 35)
    assert seen[f"text__all__cos_mean__hl{half_life}"].null_count() == 0


@pytest.mark.parametrize("many", [10_000, soak(100_000)])
def test_one_event_and_very_many(world: World, many: int) -> None:
    rng = np.random.default_rng(11)
    world.write(
        "interactions",
        {
            "user_id": np.r_[np.zeros(many, np.int64), 1],
            "item_id": np.r_[rng.integers(0, 40, many), 7],
            "timestamp": timestamps(START + np.r_[rng.integers(0, 10_000, many), 0] * HOUR),
            "rating": np.r_[rng.integers(1, 6, many), 5],
        },
    )
    world.write(
        "candidates",
        {
            "user_id": [0, 0, 0, 1, 1],
            "item_id": [3, 4, 39, 3, 7],
            "timestamp": timestamps(START + np.array([9_000, 20_000, 20_000, 5_000, 0]) * HOUR),
        },
    )
    spec = f'[histories.liked]\nwhere = "rating >= 4"\n[histories.last]\nmax_events = 30\n[[aggregate]]\n{STATISTICS}'
    check(world, spec, {"liked": LIKED, "last": ReferenceHistory(max_events=30)})


def test_opposite_vectors_give_a_null_cos_to_mean(world: World) -> None:
    world.write("text", {"item_id": [1, 2, 3], "embedding": vectors(np.array([[1.0, 2.0], [-2.0, -4.0], [3.0, 1.0]]))})
    world.write("interactions", {"user_id": [1, 1], "item_id": [1, 2], "timestamp": timestamps([START] * 2)})
    world.write("candidates", {"user_id": [1], "item_id": [3], "timestamp": timestamps([START + HOUR])})
    output = run_spec(world.spec('[[aggregate]]\nhalf_lives = ["7d"]'))
    assert output["text__all__cos_to_mean__hl7d"].to_list() == [None]
    assert output["text__all__cos_mean__hl7d"][0] == pytest.approx(0, abs=1e-7)


def test_exact_ties_at_a_threshold_and_a_percentile(world: World) -> None:
    # The cosines are exactly 1, 0.5 and 0, which float32 products miss by a bit.
    tags = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.float64)
    world.write("text", {"item_id": np.arange(4), "embedding": vectors(tags)})
    world.write("interactions", {"user_id": [1] * 4, "item_id": np.arange(4), "timestamp": timestamps([START] * 4)})
    world.write("candidates", {"user_id": [1], "item_id": [0], "timestamp": timestamps([START + HOUR])})
    output = run_spec(
        world.spec('[[aggregate]]\nhalf_lives = ["7d"]\npercentiles = [25, 26, 50, 51]\nthresholds = [0.0, 0.5, 1.0]')
    ).row(0, named=True)
    shares = [output[f"text__all__cos_share_ge_{t}__hl7d"] for t in ("000", "050", "100")]
    assert shares == [1.0, 0.75, 0.5]
    percentiles = [output[f"text__all__cos_p{p}__hl7d"] for p in (25, 26, 50, 51)]
    assert percentiles == pytest.approx([0.0, 0.5, 0.5, 1.0], abs=1e-6)


def test_one_item_a_hundred_thousand_times(world: World) -> None:
    many = 100_000
    world.write(
        "interactions",
        {
            "user_id": np.ones(many, np.int64),
            "item_id": np.zeros(many, np.int64),
            "timestamp": timestamps([START] * many),
        },
    )
    candidates = {"user_id": [1] * 9, "item_id": np.arange(9), "timestamp": timestamps([START + HOUR] * 9)}
    world.write("candidates", candidates)
    output = run_spec(world.spec('[[aggregate]]\nhalf_lives = ["none"]\nthresholds = [0.0]'))
    units = unit_vectors({r["item_id"]: r["embedding"] for r in world.table("text").to_pylist()})
    for name in ("cos_mean", "cos_to_mean", "cos_min", "cos_p50"):
        assert_close(output[f"text__all__{name}"], [float(units[0] @ units[i]) for i in range(9)])


def test_orthogonal_vectors_reach_a_threshold_of_zero(world: World) -> None:
    # Products of small integers are exactly 0. Those of their float32 unit vectors are slightly off.
    rng = np.random.default_rng(4)
    raw = rng.integers(-3, 4, (40, 5)).astype(np.float64)
    raw[:, 0] += 7 * (np.abs(raw).sum(1) == 0)
    world.write("text", {"item_id": np.arange(40), "embedding": vectors(raw)})
    output = run_spec(world.spec('[[aggregate]]\nhalf_lives = ["none"]\nthresholds = [0.0]'))
    events = events_of(world)
    for row, r in enumerate(world.table("candidates").to_pylist()):
        seen = [e.item for e in events if e.user == r["user_id"] and e.time < micros(r["timestamp"])]
        if seen:
            share = np.mean([raw[i] @ raw[r["item_id"]] >= 0 for i in seen])
            assert output["text__all__cos_share_ge_000"][row] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("dim", [5, 384])
@pytest.mark.parametrize("half_life", ["6h", "7d", "none"])
@pytest.mark.few(3)
def test_the_deviation_of_cosines_that_are_almost_equal(world: World, dim: int, half_life: str) -> None:
    """The cosines differ by less than 1e-4: Σ w c² / Σ w − m² would lose all digits in float32."""
    rng = np.random.default_rng(21)
    near = rng.standard_normal(dim) + 1e-5 * rng.standard_normal((40, dim))
    world.write("text", {"item_id": np.arange(40), "embedding": vectors(near)})
    output = run_spec(world.spec(f'weight = "rating"\n[[aggregate]]\nhalf_lives = ["{half_life}"]\nsd = true\n'))
    seen = output.filter(pl.col("text__all__cos_min").is_not_null())
    assert (seen["text__all__cos_max"] - seen["text__all__cos_min"]).max() < 1e-4
    embeddings = {"text": {r["item_id"]: r["embedding"] for r in world.table("text").to_pylist()}}
    candidates = [(r["user_id"], r["item_id"], micros(r["timestamp"])) for r in world.table("candidates").to_pylist()]
    log = events_of(world, lambda row: float(row["rating"]))
    name = "text__all__cos_sd" + ("" if half_life == "none" else f"__hl{half_life}")
    expected = features(log, candidates, embeddings, ALL, [half_life], [], [])[name]
    assert output[name].is_null().to_list() == [value is None for value in expected]
    known = output[name].is_not_null()
    np.testing.assert_allclose(
        output[name].drop_nulls().to_numpy(), pl.Series(expected).filter(known).to_numpy(), rtol=0, atol=1e-6
    )


def test_the_deviation_of_one_event_is_zero_and_of_none_null(world: World) -> None:
    moments = timestamps([START, START, START + HOUR])
    world.write("interactions", {"user_id": [1, 2, 2], "item_id": [5, 6, 39], "timestamp": moments})
    candidates = {"user_id": [1, 2, 1, 3, 1], "item_id": [3, 3, 39, 3, 3]}
    candidates["timestamp"] = timestamps([*[START + 2 * HOUR] * 4, START])
    world.write("candidates", candidates)
    output = run_spec(world.spec('weight = "1 / 3"\n[[aggregate]]\nsd = true\n'))
    # Item 39 has no vector, user 3 has no event, and the last candidate sees none.
    assert output["text__all__vector_count"].to_list() == [1, 1, 1, 0, 0]
    assert output["text__all__cos_sd__hl30d"].to_list() == [0, 0, None, None, None]
    assert output.schema["text__all__cos_sd__hl30d"] == pl.Float32


def test_deviations_are_off_by_default(world: World) -> None:
    without = run_spec(world.spec("[[aggregate]]\n"))
    plain = (world.folder / "out.parquet").read_bytes()
    run_spec(world.spec("[[aggregate]]\nsd = false\n"))
    assert (world.folder / "out.parquet").read_bytes() == plain
    assert b'"sd"' not in plain  # the metadata does not have the key either
    both = run_spec(world.spec("[[aggregate]]\nsd = true\n"))
    assert set(both.columns) - set(without.columns) == {"text__all__cos_sd__hl30d"}
    same_bytes(without, both.select(without.columns))


def test_candidates_in_their_own_history_are_counted(world: World) -> None:
    run_spec(world.spec())
    seen = {(e.user, e.item, e.time) for e in events_of(world)}
    own = sum(
        any(u == r["user_id"] and i == r["item_id"] and t < micros(r["timestamp"]) for u, i, t in seen)
        for r in world.table("candidates").to_pylist()
    )
    report = pl.read_json(world.folder / "out.parquet.run.json")
    assert report["candidates_in_own_history"].item() == own > 0


def test_a_column_that_two_groups_share_is_written_once(world: World) -> None:
    output = run_spec(world.spec('[[aggregate]]\nhalf_lives = ["7d"]\n[[aggregate]]\nhalf_lives = ["7d", "1d"]'))
    assert sum(name == "text__all__cos_mean__hl7d" for name in output.columns) == 1
    assert "text__all__cos_mean__hl1d" in output.columns


def test_no_interactions_at_all(world: World) -> None:
    world.write("interactions", world.table("interactions").slice(0, 0))
    output = run_spec(world.spec("require.allow_empty = true\n"))
    assert output["all__count"].to_list() == [0] * 300
    assert output["all__decayed_count__hl30d"].to_list() == [0.0] * 300
    assert output["text__all__vector_count"].to_list() == [0] * 300
    assert output["all__age_last_s"].null_count() == output["text__all__cos_mean__hl30d"].null_count() == 300


def test_no_candidates_at_all(world: World) -> None:
    world.write("candidates", world.table("candidates").slice(0, 0))
    output = run_spec(world.spec())
    assert len(output) == 0
    assert output.schema["text__all__cos_mean__hl30d"] == pl.Float32
    assert output.schema["all__count"] == pl.UInt32


def test_types_and_nulls_of_the_file(world: World) -> None:
    run_spec(world.spec())
    table = world.table("out")
    assert table.schema.field("all__count").type == pa.uint32()
    for name in table.column_names[4:]:
        assert np.isfinite(table.column(name).drop_null().to_numpy()).all(), name
