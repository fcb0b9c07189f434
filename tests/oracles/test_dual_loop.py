"""Dual scores and standard deviations of a whole run agree with float64 normal equations."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import World, soak, timestamps, vectors
from helpers.dual_loop import DAY, LIKED, RATING, START, TOLERANCE, check, with_dim
from helpers.reference import ReferenceHistory
from helpers.reference_dual import ReferenceFit

pytestmark = pytest.mark.usefixtures("engine")

FITS = {
    "plain": ("", ReferenceFit()),
    "strong": ("regularization = 30", ReferenceFit(30)),
    "weak": ("regularization = 0.001", ReferenceFit(0.001)),
    "target": ('target = "rating - 3"', ReferenceFit(target=RATING)),
    "case": (
        'target = "CASE WHEN rating >= 4 THEN 1.0 ELSE -1.0 END"',
        ReferenceFit(target=lambda e: 1.0 if e.values["rating"] >= 4 else -1.0),
    ),
    "decayed": ('half_life = "5d"\ntarget = "rating - 3"', ReferenceFit(half_life="5d", target=RATING)),
    "slowly": ('half_life = "9000d"\ntarget = "rating - 3"', ReferenceFit(half_life="9000d", target=RATING)),
    "unobserved": ("unobserved_weight = 0.3\nregularization = 0.5", ReferenceFit(0.5, 0.3)),
    "ials": ("unobserved_weight = 0.1\nscaling = 1\nregularization = 0.01", ReferenceFit(0.01, 0.1, 1.0)),
    "scaled": ("scaling = 0.5\nregularization = 2", ReferenceFit(2, 0.0, 0.5)),
    "bias": ('bias = true\ntarget = "rating - 3"', ReferenceFit(bias=True, target=RATING)),
    "bias, unobserved": ("bias = true\nunobserved_weight = 0.2", ReferenceFit(2.0, 0.2, bias=True)),
    "everything": (
        'bias = true\nunobserved_weight = 0.2\nhalf_life = "3d"\nscaling = 0.7\ntarget = "rating - 3"\n'
        "regularization = 0.3",
        ReferenceFit(0.3, 0.2, 0.7, "3d", RATING, bias=True),
    ),
    "refit": ('refit_every = "7d"\ntarget = "rating - 3"', ReferenceFit(target=RATING, refit_every="7d")),
    "refit decayed": ('refit_every = "1d"\nhalf_life = "4d"', ReferenceFit(half_life="4d", refit_every="1d")),
}
LOGISTIC = {
    "plain": ('target = "rating - 3"', ReferenceFit(target=RATING)),
    "weak": ('target = "rating - 3"\nregularization = 0.01', ReferenceFit(0.01, target=RATING)),
    "decayed": ('target = "rating - 3"\nhalf_life = "5d"', ReferenceFit(half_life="5d", target=RATING)),
    "unobserved": ('target = "rating - 3"\nunobserved_weight = 0.3', ReferenceFit(2.0, 0.3, target=RATING)),
    "bias, scaled": (
        'target = "rating - 3"\nbias = true\nscaling = 0.5',
        ReferenceFit(scaling=0.5, bias=True, target=RATING),
    ),
    "one class": ("", ReferenceFit()),
}


@pytest.mark.parametrize("dim", [soak(1), 8, soak(19), soak(48)])
@pytest.mark.parametrize("name", FITS)
@pytest.mark.few(6)
def test_squared_loss(world: World, name: str, dim: int) -> None:
    """Histories have 1 to 30 events: fewer than, as many as and more than the dimensions."""
    with_dim(world, dim)
    keys, fit = FITS[name]
    check(world, keys, fit, tolerance=1e-4 if name == "weak" else TOLERANCE)


@pytest.mark.parametrize("dim", [soak(1), soak(8), 48])
@pytest.mark.parametrize("name", LOGISTIC)
@pytest.mark.few(3)
def test_logistic_loss(world: World, name: str, dim: int) -> None:
    with_dim(world, dim)
    keys, fit = LOGISTIC[name]
    fit = ReferenceFit(**{**fit.__dict__, "loss": "logistic"})
    check(world, f'loss = "logistic"\n{keys}', fit, tolerance=1e-4 if name == "weak" else 2e-5)


@pytest.mark.parametrize("size", [1, 2, soak(5), 16])
@pytest.mark.parametrize("dim", [soak(4), 16, 20])
@pytest.mark.few(3)
def test_as_many_systems_as_events(world: World, size: int, dim: int) -> None:
    """In a batch of n systems of n events numpy would read two-dimensional right sides as one matrix."""
    rng = np.random.default_rng(size)
    users = np.repeat(np.arange(size), size)
    ratings = rng.integers(1, 6, len(users))
    items = rng.integers(0, 35, len(users))
    times = timestamps(START + np.arange(len(users)) * DAY)
    world.write("interactions", {"user_id": users, "item_id": items, "timestamp": times, "rating": ratings})
    candidate_users = np.repeat(np.arange(size), 3)
    late = timestamps(np.full(len(candidate_users), START + 1000 * DAY))
    world.write(
        "candidates",
        {"user_id": candidate_users, "item_id": rng.integers(0, 35, len(candidate_users)), "timestamp": late},
    )
    with_dim(world, dim)
    check(world, 'target = "rating - 3"', ReferenceFit(target=RATING))
    check(world, 'target = "rating - 3"\nloss = "logistic"', ReferenceFit(target=RATING, loss="logistic"))


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_named_history(world: World, loss: str) -> None:
    check(
        world,
        f'target = "rating - 4"\nloss = "{loss}"',
        ReferenceFit(target=lambda e: e.values["rating"] - 4.0, loss=loss),
        top='[histories.liked]\nwhere = "rating >= 4"',
        history=LIKED,
        column="text__liked__dual",
        tolerance=2e-5,
    )


@pytest.mark.parametrize("rules", [{"window": "20d"}, {"max_events": 4}, {"window": "30d", "max_events": 3}])
def test_window_and_newest_events(world: World, rules: dict[str, Any]) -> None:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in rules.items())
    check(
        world,
        'target = "rating - 3"',
        ReferenceFit(target=RATING),
        top=f'[histories.some]\nwhere = "rating <> 3"\n{lines}',
        history=ReferenceHistory(lambda e: e.values["rating"] != 3, **rules),
        column="text__some__dual",
    )


@pytest.mark.parametrize("lag", ["1h", "20d"])
def test_lag(world: World, lag: str) -> None:
    check(world, "", ReferenceFit(), top=f'lag = "{lag}"', lag=lag)


def test_weight_is_confidence(world: World) -> None:
    weigh = lambda row: row["rating"] / 2 if row["rating"] != 3 else 0.0  # noqa: E731
    top = 'weight = "CASE WHEN rating = 3 THEN 0.0 ELSE rating / 2.0 END"'
    logistic = ReferenceFit(target=lambda e: e.values["rating"] - 2.5, loss="logistic")
    for keys, fit in (("", ReferenceFit()), ('loss = "logistic"\ntarget = "rating - 2.5"', logistic)):
        check(world, keys, fit, top=top, weight=weigh, tolerance=2e-5)


def test_null_targets_are_left_out_and_counted(world: World) -> None:
    fit = ReferenceFit(target=lambda e: None if e.values["rating"] == 3 else RATING(e))
    check(world, 'target = "CASE WHEN rating = 3 THEN NULL ELSE rating - 3 END"', fit)
    report = json.loads((world.folder / "out.parquet.run.json").read_text())
    threes = sum(r == 3 for r in world.table("interactions")["rating"].to_pylist())
    assert list(report["inputs"]["interactions"]["null_targets"].values()) == [threes]


@pytest.mark.parametrize(("normalize", "center"), list(product([True, False], repeat=2)))
@pytest.mark.parametrize("w0", [soak(0.0), 0.2])
def test_normalize_and_center(world: World, normalize: bool, center: bool, w0: float) -> None:
    with_dim(world, 12)
    options = {"normalize": normalize, "center": center}
    lines = "\n".join(f"{key} = {str(value).lower()}" for key, value in options.items())
    top = f'[embeddings.text]\npath = "text.parquet"\n{lines}'
    for bias in (False, True):
        keys = f"bias = {str(bias).lower()}\nunobserved_weight = {w0}"
        check(world, keys, ReferenceFit(2.0, w0, bias=bias), top=top, table=options, tolerance=3e-5)


def test_null_users_times_and_items(world: World) -> None:
    table = world.table("candidates").slice(0, 60).to_pydict()
    for row, column in ((0, "user_id"), (1, "timestamp"), (2, "item_id")):
        table[column][row] = None
    world.write("candidates", table)
    output = check(world, "", ReferenceFit())
    assert output["text__all__dual_score"][:3].to_list() == [None, None, None]


@pytest.fixture
def long_world(world: World) -> World:
    """Provides users with 31, 255, 256, 257, 700 and 5,000 events about a second apart; 400 items, 30 dimensions."""
    rng = np.random.default_rng(3)
    lengths = [31, 255, 256, 257, 700, 5000]
    users = np.repeat(np.arange(len(lengths)), lengths)
    times = np.concatenate([np.sort(rng.integers(0, n, n)) for n in lengths]) * 1_000_000 + START
    world.write(
        "interactions",
        {
            "user_id": users,
            "item_id": rng.integers(0, 410, len(users)),
            "timestamp": timestamps(times),
            "rating": rng.integers(1, 6, len(users)),
        },
    )
    candidate_users = np.concatenate([np.full(25, user) for user in range(len(lengths))])
    when = START + rng.integers(-2, np.array(lengths)[candidate_users] + 2) * 1_000_000
    when[candidate_users == 4] = START + np.array([*range(250, 275)]) * 1_000_000
    world.write(
        "candidates",
        {
            "user_id": candidate_users,
            "item_id": rng.integers(0, 410, len(candidate_users)),
            "timestamp": timestamps(when),
        },
    )
    world.write("text", {"item_id": np.arange(400), "embedding": vectors(rng.standard_normal((400, 30)))})
    return world


@pytest.mark.parametrize(
    ("keys", "fit"),
    [
        soak('target = "rating - 3"', ReferenceFit(target=RATING)),
        soak(
            'target = "rating - 3"\nunobserved_weight = 0.1\nbias = true',
            ReferenceFit(2, 0.1, target=RATING, bias=True),
        ),
        soak('target = "rating - 3"\nhalf_life = "10m"', ReferenceFit(half_life="10m", target=RATING)),
        soak('target = "rating - 3"\nhalf_life = "5000d"', ReferenceFit(half_life="5000d", target=RATING)),
        ('target = "rating - 3"\nloss = "logistic"', ReferenceFit(loss="logistic", target=RATING)),
    ],
)
def test_long_histories(long_world: World, keys: str, fit: ReferenceFit) -> None:
    check(long_world, keys, fit, tolerance=3e-5)


def test_long_histories_of_long_vectors(long_world: World) -> None:
    rng = np.random.default_rng(4)
    long_world.write("text", {"item_id": np.arange(400), "embedding": vectors(rng.standard_normal((400, 300)))})
    long_world.write("candidates", long_world.table("candidates").take(np.arange(0, 100, 5)))  # the loop is slow
    check(long_world, 'target = "rating - 3"', ReferenceFit(target=RATING), tolerance=3e-5)


def test_a_history_much_older_than_its_half_life(world: World) -> None:
    """Confidences of 2^-5000 are 0. The fit ignores these events, and nothing overflows."""
    late = timestamps(np.full(300, START + 3000 * DAY))
    world.write("candidates", {**world.table("candidates").to_pydict(), "timestamp": late})
    output = check(world, 'half_life = "12h"', ReferenceFit(half_life="12h"))
    assert output["text__all__dual_score"].drop_nulls().abs().max() == 0
