"""The same inputs give the same bytes for every run, any number of workers and any order of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import World, run_spec
from helpers.faults import FILE, arguments, build, start, state

SPEC = """weight = "rating"
[embeddings.text]
path = "text.parquet"
center = true
[histories.liked]
where = "rating >= 4"
max_events = 20
[[aggregate]]
half_lives = ["7d", "none"]
percentiles = [10, 50, 90]
thresholds = [0.0, 0.3]
"""


@pytest.fixture
def many(tmp_path: Path) -> World:
    """Provides inputs for several batches, with ties in time and users with one to hundreds of events."""
    world = build(tmp_path, 20_000, 20_000, 32)
    table = world.table("interactions")
    hours = pl.from_arrow(table)["timestamp"].dt.truncate("1d")
    users = (np.arange(len(table)) % 331) ** 2 // 331
    world.write("interactions", table.set_column(0, "user_id", [users]).set_column(2, "timestamp", hours.to_arrow()))
    world.spec(SPEC)
    return world


@pytest.mark.soak
def test_two_runs_give_the_same_bytes(many: World) -> None:
    outputs = []
    for seed in ("1", "2"):
        with start(*arguments(many, FILE), env={"PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}"}) as run:
            run.end().ok()
        outputs.append(state(many.folder / FILE))
    assert outputs[0] == outputs[1]


def test_any_number_of_workers_gives_the_same_bytes(many: World) -> None:
    outputs = []
    for workers in (1, 2, 4):
        run_spec(many.folder / "spec.toml", workers)
        outputs.append((many.folder / "out.parquet").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("name", ["interactions", "text"])
def test_the_order_of_rows_does_not_matter(many: World, name: str) -> None:
    before = run_spec(many.folder / "spec.toml")
    table = many.table(name)
    many.write(name, table.take(np.random.default_rng(3).permutation(len(table))), row_group_size=777)
    after = run_spec(many.folder / "spec.toml")
    assert bits(after).equals(bits(before))


def test_the_order_of_candidates_only_reorders_rows(many: World) -> None:
    before = run_spec(many.folder / "spec.toml")
    order = np.random.default_rng(4).permutation(len(before))
    many.write("candidates", many.table("candidates").take(order))
    assert bits(run_spec(many.folder / "spec.toml")).equals(bits(before[order]))


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with float columns as their bits, so that they are compared exactly."""
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null()).then(pl.Series(name, frame[name].fill_null(0).to_numpy().view(np.uint32)))
        for name, kind in frame.schema.items()
        if kind == pl.Float32
    )
