"""Compares the aggregate columns of a run with the float64 loop of `reference.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from conftest import World, run_spec

from helpers.reference import Event, ReferenceHistory, features

STATISTICS = """half_lives = ["7d", "none"]
percentiles = [5, 10, 50, 90, 99]
thresholds = [-0.2, 0.0, 0.3]
sd = true
"""
HOUR = 3_600_000_000
START = 1_700_000_000_000_000
TOLERANCE = 2e-5  # of float32 cosines of unit vectors and their sums over a history


def events_of(world: World, weight: Callable[[dict[str, Any]], float] = lambda row: 1.0) -> list[Event]:
    rows = world.table("interactions").to_pylist()
    return [Event(r["user_id"], r["item_id"], micros(r["timestamp"]), weight(r), {"rating": r["rating"]}) for r in rows]


def micros(moment: Any) -> int:
    return int(np.datetime64(moment, "us").astype(np.int64))


def check(
    world: World,
    spec: str,
    histories: dict[str, ReferenceHistory],
    *,
    weight: Callable[[dict[str, Any]], float] = lambda row: 1.0,
    tables: tuple[str, ...] = ("text",),
    half_lives: tuple[str, ...] = ("7d", "none"),
    as_of: int | None = None,
    **options: Any,
) -> pl.DataFrame:
    """Run a spec and compare every column with the loop, nulls included."""
    output = run_spec(world.spec(spec))
    candidates = [
        (r["user_id"], r["item_id"], as_of if as_of is not None else micros(r["timestamp"]))
        for r in world.table("candidates").to_pylist()
    ]
    embeddings = {
        name: {r["item_id"]: r["embedding"] for r in world.table(name).to_pylist() if r["embedding"] is not None}
        for name in tables
    }
    expected = features(
        events_of(world, weight), candidates, embeddings, histories, half_lives, (5, 10, 50, 90, 99), (-0.2, 0.0, 0.3),
        **options,
    )  # fmt: skip
    assert {name for name in output.columns if "__" in name} == set(expected)
    for name, values in expected.items():
        assert_close(output[name], values)
    return output


def assert_close(actual: pl.Series, expected: list[float | None]) -> None:
    counts = actual.name.endswith(("count", "age_last_s")) or "decayed_count" in actual.name
    for row, (value, reference) in enumerate(zip(actual.to_list(), expected, strict=True)):
        if reference is None or value is None:
            assert value is None and reference is None, f"{actual.name} row {row}: {value} is not {reference}"
        else:
            slack = TOLERANCE * max(1.0, abs(reference)) if counts else TOLERANCE
            assert abs(value - reference) <= slack, f"{actual.name} row {row}: {value} is not {reference}"


ALL = {"all": ReferenceHistory()}
LIKED = ReferenceHistory(lambda e: e.values["rating"] >= 4)
DISLIKED = ReferenceHistory(lambda e: e.values["rating"] <= 2)
