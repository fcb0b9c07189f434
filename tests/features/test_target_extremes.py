"""Targets and times of very different sizes: no earlier or hidden event changes a mean by its rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, run_spec, timestamps, vectors

START, DAY = 1_700_000_000_000_000, 86_400_000_000


def run_user(folder: Path, targets: list[float], days: list[float], groups: str) -> dict[str, float]:
    """Run the spec of one user, whose events are of items 0, 1, ... on some days, and return the last row."""
    world, n = World(folder), len(targets)
    times = [START + int(day * DAY) for day in days]
    world.write(
        "interactions",
        {
            "user_id": np.zeros(n, np.int64),
            "item_id": np.arange(n),
            "timestamp": timestamps(np.array(times)),
            "y": pa.array(targets, pa.float64()),
        },
    )
    world.write(
        "candidates", {"user_id": [0], "item_id": [n - 1], "timestamp": timestamps(np.array([times[-1] + DAY]))}
    )
    angles = np.linspace(np.pi, 0, n)
    world.write("text", {"item_id": np.arange(n), "embedding": vectors(np.stack([np.cos(angles), np.sin(angles)], 1))})
    return run_spec(world.spec(f"require.allow_empty = true\n{groups}")).row(0, named=True)


@pytest.mark.parametrize("first", [0.0, 86_400_000.0, 1e12, 1e17])
def test_an_outlier_that_is_not_chosen_has_no_influence(tmp_path: Path, first: float) -> None:
    groups = """[histories.last]
max_events = 3
[[aggregate]]
histories = ["all", "last"]
target = "y"
half_lives = ["none"]
temperatures = [0.03]
thresholds = [0.0]
top = [2]
"""
    row = run_user(tmp_path, [first, 1.0, 2.0, 3.5], [0, 1, 2, 3], groups)
    assert row["last__target_mean"] == pytest.approx(6.5 / 3, rel=1e-6)
    for history in ("all", "last"):
        assert row[f"text__{history}__target_top2_mean"] == pytest.approx(2.75, rel=1e-6)
        assert row[f"text__{history}__target_share_ge_000"] == pytest.approx(2.75, rel=1e-6)
    assert row["text__last__target_kernel_mean_t003"] == pytest.approx(3.5, rel=1e-5)


@pytest.mark.parametrize("gap", [1.0, 44.0, 60.0, 4000.0])
@pytest.mark.parametrize("prior_events", [0.0, 5.0])
@pytest.mark.few(3)
def test_a_long_pause_does_not_lose_what_was_before(tmp_path: Path, gap: float, prior_events: float) -> None:
    """With a half-life of an hour all weight of the first event is gone, but the mean before is still its value."""
    group = f'target = "y"\nresidual = "item"\nresidual_half_life = "1h"\nprior_events = {prior_events}\n'
    groups = f'[[counters]]\nhalf_lives = ["none"]\n{group}'
    row = run_user(tmp_path, [4.3, 5.0], [0, gap], groups)
    expected = None if prior_events == 0 else 0.7  # without prior events nothing is known of the second item
    assert row["all__target_mean"] == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_a_table_with_the_name_of_a_centred_one(tmp_path: Path, world: World) -> None:
    from extembed_cli.jobs.layout import Layout
    from extembed_cli.jobs.options import RunOptions
    from extembed_cli.jobs.run import run_job
    from extembed_cli.spec.loading import load_spec
    from extembed_cli.system.progress import Watch

    world.write("other", world.table("text").slice(0, 30))
    spec = world.spec('[embeddings.text-centred]\npath = "other.parquet"\n[[aggregate]]\n')
    spec.write_text(spec.read_text().replace('path = "text.parquet"', 'path = "text.parquet"\ncenter = true'))
    outputs = []
    for mapped in (False, True):
        run_job(load_spec(spec), RunOptions(workers=1, layout=Layout(mapped=mapped)), Watch())
        outputs.append(pl.read_parquet(world.folder / "out.parquet"))
    assert outputs[0].equals(outputs[1], null_equal=True)
