"""Columns with a target, and residuals, against a float64 loop over candidates and events, through files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, run_spec, soak, timestamps, vectors
from helpers.aggregate_loop import micros
from helpers.reference import Event, ReferenceHistory, unit_vectors
from helpers.reference_targets import Values, residuals, target_columns

pytestmark = pytest.mark.usefixtures("engine")

HOUR, START = 3_600_000_000, 1_700_000_000_000_000
HALF_LIVES = ("20h", "none")
TEMPERATURES, THRESHOLDS, TOP = (0.03, 0.1, 0.3), (-0.2, 0.3), (1, 3)
KEYS = f"""target = "rating"
half_lives = ["20h", "none"]
percentiles = []
temperatures = {list(TEMPERATURES)}
thresholds = {list(THRESHOLDS)}
top = {list(TOP)}
"""
HISTORIES = {
    "all": ReferenceHistory(),
    "loud": ReferenceHistory(lambda e: e.values["loud"]),
    "recent": ReferenceHistory(window="60h"),
    "newest": ReferenceHistory(max_events=4),
}
TABLES = """
[histories.loud]
where = "loud"
[histories.recent]
window = "60h"
[histories.newest]
max_events = 4
"""
ARGUMENTS = {"temperatures": TEMPERATURES, "thresholds": THRESHOLDS, "top": TOP}
TOLERANCE = 2e-5  # of float32 results of the size of a rating


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Provides events whose times tie, a third of them without a rating, some items without a vector."""
    world, rng = World(tmp_path_factory.mktemp("rated")), np.random.default_rng(3)
    n, q = 260, 90
    ratings = [None if rng.random() < 0.3 else float(r) for r in rng.integers(1, 6, n)]
    world.write(
        "interactions",
        {
            "user_id": rng.integers(0, 7, n),
            "item_id": rng.integers(0, 14, n),
            "timestamp": timestamps(START + rng.integers(0, 150, n) * HOUR),
            "rating": pa.array(ratings, pa.float64()),
            "loud": rng.random(n) < 0.5,
            "weight": rng.integers(1, 4, n).astype(np.float64),
        },
    )
    world.write(
        "candidates",
        {
            "user_id": rng.integers(0, 8, q),
            "item_id": rng.integers(0, 16, q),
            "timestamp": timestamps(START + rng.integers(0, 170, q) * HOUR),
        },
    )
    world.write("text", {"item_id": np.arange(12), "embedding": vectors(rng.standard_normal((12, 6)))})
    return world


def logged(world: World, *, weighted: bool) -> tuple[list[Event], Values]:
    rows = sorted(
        world.table("interactions").to_pylist(),
        key=lambda r: (r["timestamp"], r["item_id"], r["weight"], r["rating"] is None, r["rating"]),
    )
    events = [
        Event(
            r["user_id"],
            r["item_id"],
            micros(r["timestamp"]),
            r["weight"] if weighted else 1.0,
            {"loud": r["loud"], "rating": r["rating"]},
        )
        for r in rows
    ]
    return events, {i: r["rating"] for i, r in enumerate(rows)}


def candidates_of(world: World) -> list[tuple[Any, Any, int | None]]:
    return [(r["user_id"], r["item_id"], micros(r["timestamp"])) for r in world.table("candidates").to_pylist()]


def check(output: pl.DataFrame, expected: dict[str, list[float | None]]) -> None:
    for name, values in expected.items():
        for row, (value, reference) in enumerate(zip(output[name].to_list(), values, strict=True)):
            if value is None or reference is None:
                assert value is reference, f"{name} row {row}: {value} is not {reference}"
            else:
                slack = TOLERANCE * max(1.0, abs(reference))
                assert abs(value - reference) <= slack, f"{name} row {row}: {value} is not {reference}"


@pytest.mark.parametrize("weighted", [soak(False), True])
@pytest.mark.parametrize(
    "residual",
    [
        {},
        soak({"residual": "item"}),
        soak({"residual": "user", "prior_events": 2.0}),
        {"residual": "item+user", "residual_half_life": "50h"},
        soak({"residual": "item", "prior_events": 0.0}),
        soak({"residual": "item+user", "prior_events": 0.5}),
        soak({"residual": "user", "residual_half_life": "1h"}),
    ],
    ids=str,
)
def test_columns_with_a_target(rated: World, residual: dict[str, Any], weighted: bool) -> None:
    keys = "".join(f"{key} = {value!r}\n" for key, value in residual.items())
    top = 'weight = "weight"\n' if weighted else ""
    output = run_spec(rated.spec(f"{top}{TABLES}[[aggregate]]\nhistories = {list(HISTORIES)}\n{KEYS}{keys}"))
    events, values = logged(rated, weighted=weighted)
    if residual:
        options = {"residual_half_life": "half_life", "residual": "by"}
        values = residuals(events, values, **{options.get(key, key): value for key, value in residual.items()})
    table = {r["item_id"]: r["embedding"] for r in rated.table("text").to_pylist()}
    expected = target_columns(
        events, values, candidates_of(rated), unit_vectors(table), HISTORIES, **ARGUMENTS, half_lives=HALF_LIVES
    )
    assert {name for name in output.columns if "target" in name or "_top" in name} == set(expected)
    check(output, expected)
    if residual:
        report = json.loads((rated.folder / "out.parquet.run.json").read_text())
        counts = {text: n for text, n in report["inputs"]["interactions"]["null_targets"].items() if "mean" in text}
        assert list(counts.values()) == [sum(value is None for value in values.values())]


def test_top_cosines_without_a_target(rated: World) -> None:
    output = run_spec(rated.spec("[[aggregate]]\ntop = [1, 4]\nhistories = ['all']\n"))
    events, _ = logged(rated, weighted=False)
    table = {r["item_id"]: r["embedding"] for r in rated.table("text").to_pylist()}
    ones: Values = dict.fromkeys(range(len(events)), 1.0)
    histories = {"all": ReferenceHistory()}
    none = dict.fromkeys(("half_lives", "temperatures", "thresholds"), ())
    expected = target_columns(events, ones, candidates_of(rated), unit_vectors(table), histories, **none, top=(1, 4))
    check(output, {name: values for name, values in expected.items() if "__cos_top" in name})
    assert output["text__all__cos_top1_mean"].equals(output["text__all__cos_max"], null_equal=True)


def test_a_residual_of_a_dual_fit_is_its_target(rated: World, tmp_path: Path) -> None:
    """A fit of residuals is the fit of a column that holds them."""
    keys = '[[dual]]\ntarget = "rating"\nresidual = "item"\nprior_events = 2.0\nhistories = ["all"]\n'
    output = run_spec(rated.spec(keys))
    rows = rated.table("interactions").to_pylist()
    events = [Event(r["user_id"], r["item_id"], micros(r["timestamp"])) for r in rows]
    found = residuals(events, {i: r["rating"] for i, r in enumerate(rows)}, "item", 2.0)
    other = World(tmp_path)
    column = pa.array([found[i] for i in range(len(rows))], pa.float64())
    other.write("interactions", rated.table("interactions").append_column("residual", column))
    for name in ("candidates", "text"):
        other.write(name, rated.table(name))
    same = run_spec(other.spec('[[dual]]\ntarget = "residual"\nhistories = ["all"]\n'))
    for one, two in zip(output["text__all__dual_score"], same["text__all__dual_score"], strict=True):
        assert (one is None) == (two is None)
        assert one is None or abs(one - two) < TOLERANCE
