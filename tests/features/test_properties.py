"""Properties of any input: invariance to order, splits, shifts and scales; bounds; and no leakage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_spec, soak, timestamps, vectors
from helpers.drawn import AGGREGATE, EVENT, HOUR, SPEC, START, WORLDS, Small, same_bytes, twice
from hypothesis import given


@given(WORLDS, st.integers(0, 10))
def test_the_order_of_input_rows_does_not_matter(world: Small, order: int) -> None:
    same_bytes(world.features(), replace(world, order=order).features())


@given(WORLDS, st.integers(2, 4))
def test_how_the_input_is_split_over_files_does_not_matter(world: Small, parts: int) -> None:
    same_bytes(world.features(), replace(world, parts=parts).features())


@given(WORLDS, st.integers(-(10**15), 10**15))
def test_a_shift_of_all_times_changes_nothing(world: Small, shift: int) -> None:
    same_bytes(world.features(), replace(world, shift=shift).features())


@given(WORLDS, st.sampled_from([2.0**-40, 0.001, 3.0, 2.0**50]))
def test_only_ratios_of_weights_matter(world: Small, scale: float) -> None:
    one, other = world.features(), replace(world, weight_scale=scale).features()
    for name in one.columns:
        if "decayed_count" in name or "kernel_weight" in name:
            np.testing.assert_allclose(other[name].to_numpy(), one[name].to_numpy() * scale, rtol=1e-6)
        elif np.log2(scale).is_integer():
            same_bytes(one.select(name), other.select(name))
        elif "cos_p" not in name:  # at a tie of a percentile the rounding of a weight decides
            atol = 1e-5 if "target" in name else 2e-6  # targets differ by up to 4
            np.testing.assert_allclose(other[name].to_numpy(), one[name].to_numpy(), atol=atol)


@given(WORLDS)
def test_cosines_are_bounded_and_ordered(world: Small) -> None:
    features = world.features()
    for history in ("all", "liked", "recent"):
        for half_life in ("", "__hl6h"):
            names = ["cos_min", *(f"cos_p{p}{half_life}" for p in (10, 50, 90)), "cos_max"]
            ladder = features.select(f"text__{history}__{name}" for name in names).drop_nulls().to_numpy()
            assert (np.diff(ladder, axis=1) >= 0).all()
            assert (np.abs(ladder) <= 1).all()
            shares = features.select(pl.col(f"^text__{history}__cos_share.*{half_life}$")).drop_nulls().to_numpy()
            assert ((shares >= 0) & (shares <= 1)).all()
            spread = features.select(
                f"text__{history}__{name}" for name in ("cos_min", "cos_max", f"cos_sd{half_life}")
            )
            lowest, highest, sd = spread.drop_nulls().to_numpy().T
            assert ((sd >= 0) & (sd <= (highest - lowest) / 2 + 1e-6)).all()
            assert (features[f"{history}__count"] >= features[f"text__{history}__vector_count"]).all()


@given(WORLDS)
def test_an_event_of_weight_zero_counts_as_absent(world: Small) -> None:
    with_zeros = [(u, i, h, r, 0 if r == 3 else w) for u, i, h, r, w in world.events]
    without = [event for event in with_zeros if event[4]]
    same_bytes(replace(world, events=without).features(), replace(world, events=with_zeros).features())


@twice()
@given(WORLDS, st.integers(0, 60), st.randoms(use_true_random=False))
def test_changing_events_at_or_after_the_as_of_time_changes_no_byte(world: Small, hour: int, random: object) -> None:
    def changed(event: tuple[int, int, int, int, int]) -> tuple[int, int, int, int, int]:
        user, _, _, _, _ = event
        return (user, random.randint(0, 9), random.randint(hour, 90), random.randint(1, 5), random.randint(1, 9))  # type: ignore[attr-defined]

    future = [changed(event) if event[2] >= hour else event for event in world.events]
    rows = [at <= hour for _, _, at in world.candidates]
    one, other = world.features(), replace(world, events=future).features()
    same_bytes(one.filter(rows), other.filter(rows))


@twice()
@given(WORLDS, st.integers(0, 60), st.lists(EVENT, min_size=1, max_size=60))
def test_adding_events_after_the_as_of_time_changes_no_byte(
    world: Small, hour: int, more: list[tuple[int, ...]]
) -> None:
    future = [*world.events, *((u, i, max(h, hour), r, w) for u, i, h, r, w in more)]
    rows = [at <= hour for _, _, at in world.candidates]
    one, other = world.features(), replace(world, events=future).features()
    same_bytes(one.filter(rows), other.filter(rows))


@pytest.mark.parametrize("weighted", [soak(False), True])
@pytest.mark.parametrize("half_life", [soak("2h"), "20d"])
def test_later_events_change_no_byte_of_long_histories(tmp_path: Path, half_life: str, weighted: bool) -> None:
    """Candidates before and after the time are in the same pieces; some of hundreds of events have no vector."""
    rng = np.random.default_rng(3)
    users, hour = 6, 400
    table = {"item_id": np.arange(50), "embedding": vectors(rng.standard_normal((50, 60)))}
    pq.write_table(pa.table(table), tmp_path / "text.parquet")
    candidates = {
        "user_id": np.repeat(np.arange(users), 45),
        "item_id": rng.integers(0, 50, users * 45),
        "timestamp": timestamps(START + np.sort(rng.integers(0, 800, (users, 45))).ravel() * HOUR),
        "row": np.arange(users * 45),
    }
    pq.write_table(pa.table(candidates), tmp_path / "candidates.parquet")
    rows = np.array(candidates["timestamp"].cast(pa.int64())) <= START + hour * HOUR

    def features(events: np.ndarray) -> pl.DataFrame:
        columns = dict(zip(("user_id", "item_id", "rating", "weight"), events[:, :4].T, strict=True))
        columns["timestamp"] = timestamps(START + events[:, 4] * HOUR)
        pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
        spec = SPEC.format(
            interactions='"interactions.parquet"', candidates='"candidates.parquet"', text='"text.parquet"'
        )
        spec = spec.replace('weight = "weight"\n', "") if not weighted else spec
        (tmp_path / "spec.toml").write_text(spec + AGGREGATE.replace('"6h"', f'"{half_life}"'))
        return run_spec(tmp_path / "spec.toml").sort("row").drop("row", "timestamp").filter(rows)

    def drawn(number: int, low: int, high: int) -> np.ndarray:
        return np.stack(
            [
                rng.integers(0, users, number),
                rng.integers(0, 60, number),
                rng.integers(1, 6, number),
                rng.integers(1, 4, number),
                rng.integers(low, high, number),
            ],
            axis=1,
        )

    past = drawn(1200, 0, hour)
    expected = features(past)
    for number in (1, 300, 2000):
        same_bytes(expected, features(np.concatenate([past, drawn(number, hour, 800)])))
