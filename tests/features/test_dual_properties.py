"""Properties of any dual fit on any input: invariance to order, splits and layout, and no leakage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import World, run_spec, soak, timestamps, vectors
from helpers.drawn import EVENT, WORLDS, Small, same_bytes, twice
from helpers.outputs import ran, same
from hypothesis import given

from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

HOUR = 3_600_000_000
START = 1_700_000_000_000_000
GROUPS = """
[[dual]]
histories = ["all", "liked", "recent"]
sd = true
target = "rating - 3"
regularization = {strength}
unobserved_weight = {w0}
[[dual]]
name = "bias"
histories = ["all", "liked"]
sd = true
bias = true
regularization = {strength}
unobserved_weight = {w0}
[[dual]]
name = "decayed"
sd = true
half_life = "6h"
scaling = {scaling}
target = "CASE WHEN rating = 3 THEN NULL ELSE rating - 3 END"
regularization = {strength}
unobserved_weight = {w0}
[[dual]]
name = "fast"
sd = true
half_life = "6h"
target = "rating - 3"
regularization = {strength}
unobserved_weight = {w0}
[[dual]]
name = "slow"
sd = true
half_life = "20000d"
target = "rating - 3"
regularization = {strength}
unobserved_weight = {w0}
[[dual]]
name = "logistic"
sd = true
loss = "logistic"
target = "rating - 3"
regularization = {strength}
unobserved_weight = {w0}
[[dual]]
name = "refit"
refit_every = "5h"
histories = ["all"]
regularization = {strength}
"""


def groups(strength: float = 2.0, w0: float = 0.1, scaling: float = 0.0) -> str:
    return GROUPS.format(strength=strength, w0=w0, scaling=scaling)


DUALS = WORLDS.map(lambda world: replace(world, groups=groups(scaling=0.5)))


@given(DUALS, st.integers(0, 10), st.integers(1, 3))
def test_order_and_files_do_not_matter(world: Small, order: int, parts: int) -> None:
    same_bytes(world.features(), replace(world, order=order, parts=parts).features())


@given(DUALS)
def test_an_event_of_weight_zero_counts_as_absent(world: Small) -> None:
    with_zeros = [(u, i, h, r, 0 if r == 2 else w) for u, i, h, r, w in world.events]
    without = [event for event in with_zeros if event[4]]
    same_bytes(replace(world, events=without).features(), replace(world, events=with_zeros).features())


@given(WORLDS, st.sampled_from([0.01, 0.5, 7.0, 1000.0]))
def test_scaling_all_weights_keeps_scores_and_divides_sd_by_the_root(world: Small, s: float) -> None:
    one = replace(world, groups=groups()).features()
    other = replace(world, weight_scale=s, groups=groups(2.0 * s, 0.1 * s)).features()
    for name in one.columns:
        factor = 1 / np.sqrt(s) if name.endswith("_sd") else 1.0
        np.testing.assert_allclose(other[name].to_numpy(), one[name].to_numpy() * factor, rtol=2e-5, atol=2e-5)


@twice()
@given(DUALS, st.integers(0, 60), st.randoms(use_true_random=False))
def test_changing_events_at_or_after_the_as_of_time_changes_no_byte(world: Small, hour: int, random: object) -> None:
    def changed(user: int) -> tuple[int, int, int, int, int]:
        return (user, random.randint(0, 9), random.randint(hour, 90), random.randint(1, 5), random.randint(1, 9))  # type: ignore[attr-defined]

    future = [changed(event[0]) if event[2] >= hour else event for event in world.events]
    rows = [at <= hour for _, _, at in world.candidates]
    one, other = world.features(), replace(world, events=future).features()
    same_bytes(one.filter(rows), other.filter(rows))


@twice()
@given(DUALS, st.integers(0, 60), st.lists(EVENT, min_size=1, max_size=60))
def test_adding_events_after_the_as_of_time_changes_no_byte(
    world: Small, hour: int, more: list[tuple[int, ...]]
) -> None:
    future = [*world.events, *((u, i, max(h, hour), r, w) for u, i, h, r, w in more)]
    rows = [at <= hour for _, _, at in world.candidates]
    one, other = world.features().filter(rows), replace(world, events=future).features().filter(rows)
    same_bytes(one, other)


@pytest.fixture
def crowd(world: World) -> World:
    """Provides 40 users with 1 to 900 events, 500 items of 24 dimensions, and candidates over the whole time."""
    rng = np.random.default_rng(11)
    counts = np.append(rng.integers(1, 60, 36), [257, 300, 512, 900])
    user = np.repeat(np.arange(40), counts)
    n = len(user)
    world.write(
        "interactions",
        {
            "user_id": user,
            "item_id": rng.integers(0, 520, n),
            "timestamp": timestamps(START + rng.integers(0, 900, n) * HOUR),
            "rating": rng.integers(1, 6, n),
            "weight": rng.integers(1, 4, n),
        },
    )
    world.write(
        "candidates",
        {
            "user_id": rng.choice(40, 300),
            "item_id": rng.integers(0, 520, 300),
            "timestamp": timestamps(START + rng.integers(0, 1000, 300) * HOUR),
        },
    )
    world.write("text", {"item_id": np.arange(500), "embedding": vectors(rng.standard_normal((500, 24)))})
    return world


HEAD = '[histories.liked]\nwhere = "rating >= 4"\n[histories.recent]\nwindow = "300h"\n'


def spec_of(crowd: World, top: str = "", user_vectors: bool = True) -> Path:
    files = """
[[dual]]
name = "u"
histories = ["all"]
embeddings = ["text"]
unobserved_weight = 0.1
user_vectors = "u.parquet"
"""
    return crowd.spec(f'weight = "weight"\n{top}{HEAD}{groups(scaling=0.3)}{files if user_vectors else ""}')


@pytest.mark.soak
def test_later_events_change_no_byte_of_long_histories(crowd: World) -> None:
    before = run_spec(spec_of(crowd, user_vectors=False))
    table = crowd.table("interactions").to_pydict()
    rng = np.random.default_rng(1)
    at = START + 450 * HOUR
    for row, moment in enumerate(table["timestamp"]):
        if np.datetime64(moment, "us").astype(np.int64) >= at:
            table["item_id"][row] = int(rng.integers(0, 520))
            table["rating"][row] = int(rng.integers(1, 6))
            table["timestamp"][row] = np.datetime64(at + int(rng.integers(0, 2000)) * HOUR, "us").item()
    crowd.write("interactions", table)
    after = run_spec(spec_of(crowd, user_vectors=False))
    rows = before["timestamp"].to_physical() <= at
    assert 75 < rows.sum() < 225
    same_bytes(before.filter(rows), after.filter(rows))
    later = crowd.table("interactions").filter(pc.field("timestamp") >= pa.scalar(at, pa.timestamp("us")))
    crowd.write("interactions", pa.concat_tables([crowd.table("interactions"), later, later]))
    more = run_spec(spec_of(crowd, user_vectors=False))
    same_bytes(before.filter(rows), more.filter(rows))


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        soak('half_life = "1000h"', 30),
        ('half_life = "1000h"', 300),
        soak("", 250),
        soak('loss = "logistic"', 250),
        ('loss = "logistic"\nhalf_life = "1000h"', 30),
        soak('histories = ["recent"]', 30),
        ('histories = ["recent"]\nloss = "logistic"', 30),
    ],
)
def test_the_number_of_later_events_changes_no_byte_of_ill_conditioned_fits(world: World, keys: str, seen: int) -> None:
    """The regularization is so small that float32 scores show the last bits of a fit."""
    rng = np.random.default_rng(0)
    candidates, later, dim = 2000, 500, 32
    hours = np.append(np.sort(rng.integers(0, 100, seen)), 200 + np.sort(rng.integers(0, 100, later)))
    log = {
        "user_id": np.ones(len(hours), np.int64),
        "item_id": rng.integers(0, 300, len(hours)),
        "timestamp": timestamps(START + hours * HOUR),
        "rating": rng.integers(1, 6, len(hours)),
    }
    moments = np.append(np.full(candidates, 150), 400)
    columns = {"user_id": np.ones(candidates + 1, np.int64), "item_id": np.append(np.arange(candidates), 0)}
    world.write("candidates", {**columns, "timestamp": timestamps(START + moments * HOUR)})
    world.write(
        "text", {"item_id": np.arange(candidates), "embedding": vectors(rng.standard_normal((candidates, dim)))}
    )
    group = f'[[dual]]\nsd = true\ntarget = "rating - 3"\nregularization = 1e-9\n{keys}\n'
    spec = world.spec(f'[histories.recent]\nwindow = "900h"\n{group}')
    outputs = []
    for more in (1, 3, 100, later):
        world.write("interactions", pa.table(log).slice(0, seen + more))
        outputs.append(run_spec(spec).head(candidates))
    for other in outputs[1:]:
        same_bytes(outputs[0], other)


@pytest.mark.soak
def test_workers_and_shards_change_no_byte(crowd: World) -> None:
    spec = spec_of(crowd)
    one = ran(spec, 1, Layout())
    for workers, cut in ((2, Layout()), (4, Layout(shards=5)), (2, Layout(shards=12, rows=500, mapped=True))):
        same(one, ran(spec, workers, cut))


@pytest.mark.parametrize("keys", ["", "bias = true", 'half_life = "90h"', 'loss = "logistic"\ntarget = "rating - 3"'])
def test_user_vectors_score_as_the_column_does(crowd: World, keys: str) -> None:
    """User vectors and the score column at the same as-of time are computed by different code."""
    group = f'[[dual]]\nunobserved_weight = 0.05\n{keys}\nuser_vectors = "u.parquet"\n'
    spec = load_spec(crowd.spec(f'as_of = "2023-12-01"\nweight = "weight"\n{group}'))
    run_job(spec, RunOptions(workers=2), Watch())
    users = pl.read_parquet(crowd.folder / "u.parquet")
    items = crowd.table("text")
    unit = np.array(items["embedding"].to_pylist())
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows = crowd.output().join(users, on="user_id").drop_nulls("text__all__dual_score")
    assert len(rows) > 200
    scores = np.einsum("nd,nd->n", rows["embedding"].to_numpy(), unit[rows["item_id"].to_numpy()])
    scores += rows["bias"].to_numpy() if "bias" in rows.columns else 0
    np.testing.assert_allclose(rows["text__all__dual_score"].to_numpy(), scores, atol=1e-5)


def test_refit_every_scores_as_of_the_floored_time(crowd: World) -> None:
    keys = '[[dual]]\ntarget = "rating - 3"\nsd = true\n'
    refitted = run_spec(crowd.spec(keys + 'refit_every = "1d"\n'))
    floored = run_spec(crowd.spec('as_of_step = "1d"\n' + keys))
    same_bytes(refitted, floored)
