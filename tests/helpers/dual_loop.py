"""Compares the dual columns of a run with the normal equations of `reference_dual.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from conftest import World, run_spec, vectors

from helpers.aggregate_loop import events_of, micros
from helpers.reference import ReferenceHistory
from helpers.reference_dual import ReferenceFit, item_vectors, scores

TOLERANCE = 1e-5  # of scores of order 1, with vectors kept in float32
DAY = 86_400_000_000
START = 1_700_000_000_000_000
RATING = lambda e: e.values["rating"] - 3.0  # noqa: E731
LIKED = ReferenceHistory(lambda e: e.values["rating"] >= 4)


def raw_vectors(world: World, name: str = "text") -> dict[Any, list[float]]:
    return {r["item_id"]: r["embedding"] for r in world.table(name).to_pylist() if r["embedding"] is not None}


def candidates_of(world: World) -> list[tuple[Any, Any, int | None]]:
    rows = world.table("candidates").to_pylist()
    return [(r["user_id"], r["item_id"], None if r["timestamp"] is None else micros(r["timestamp"])) for r in rows]


def compare(actual: pl.Series, expected: list[float | None], tolerance: float = TOLERANCE) -> None:
    for row, (value, reference) in enumerate(zip(actual.to_list(), expected, strict=True)):
        if value is None or reference is None:
            assert value is reference, f"{actual.name} row {row}: {value} is not {reference}"
        else:
            assert abs(value - reference) <= tolerance * max(1.0, abs(reference)), (
                f"{actual.name} row {row}: {value}, {reference}"
            )


def check(
    world: World,
    keys: str,
    fit: ReferenceFit,
    *,
    top: str = "",
    history: ReferenceHistory | None = None,
    column: str = "text__all__dual",
    weight: Callable[[dict[str, Any]], float] = lambda row: 1.0,
    table: dict[str, bool] | None = None,
    tolerance: float = TOLERANCE,
    lag: str = "0s",
) -> pl.DataFrame:
    """Run one [[dual]] group with sd and compare both columns with the loop, nulls included."""
    output = run_spec(world.spec(f"{top}\n[[dual]]\nsd = true\n{keys}"))
    items = item_vectors(raw_vectors(world), bias=fit.bias, **(table or {}))
    score, sd = scores(events_of(world, weight), candidates_of(world), items, fit, history, lag)
    compare(output[f"{column}_score"], score, tolerance)
    compare(output[f"{column}_sd"], sd, tolerance)
    assert output[f"{column}_score"].null_count() < len(output) / 2
    return output


def with_dim(world: World, dim: int) -> None:
    """Write vectors of another length, and keep a third of the candidates, because the loop is slow."""
    world.write("candidates", world.table("candidates").slice(0, 100))
    rng = np.random.default_rng(dim)
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, dim)) + 0.5)})
