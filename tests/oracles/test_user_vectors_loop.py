"""The file of user vectors agrees with normal equations in float64: the formula and the as-of time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, run_spec, soak, timestamps
from helpers.aggregate_loop import micros
from helpers.dual_loop import LIKED, RATING, raw_vectors, with_dim
from helpers.reference import ReferenceHistory
from helpers.reference_dual import ReferenceFit, item_vectors
from helpers.user_vectors import HOUR, TEXT, TOLERANCE, check, compute_user_vectors, matrix, newest

pytestmark = pytest.mark.usefixtures("engine")

FITS = {
    "defaults": ("", ReferenceFit()),
    "target": ('target = "rating - 3"\nregularization = 0.2', ReferenceFit(0.2, target=RATING)),
    "decayed": ('half_life = "5d"', ReferenceFit(half_life="5d")),
    "unobserved": ("unobserved_weight = 0.3", ReferenceFit(2.0, 0.3)),
    "ials": ("unobserved_weight = 0.1\nscaling = 1\nregularization = 0.01", ReferenceFit(0.01, 0.1, 1.0)),
    "bias": ('bias = true\ntarget = "rating - 3"', ReferenceFit(bias=True, target=RATING)),
    "everything": (
        'bias = true\nunobserved_weight = 0.2\nhalf_life = "3d"\nscaling = 0.7\ntarget = "rating - 3"\n'
        "regularization = 0.3",
        ReferenceFit(0.3, 0.2, 0.7, "3d", RATING, bias=True),
    ),
    "logistic": ('loss = "logistic"\ntarget = "rating - 3"', ReferenceFit(loss="logistic", target=RATING)),
    "logistic, everything": (
        'loss = "logistic"\ntarget = "rating - 3"\nbias = true\nunobserved_weight = 0.2\nhalf_life = "9d"',
        ReferenceFit(2.0, 0.2, 0.0, "9d", RATING, "logistic", bias=True),
    ),
}


@pytest.mark.parametrize("dim", [soak(1), 8, soak(48)])
@pytest.mark.parametrize("name", FITS)
@pytest.mark.few(4)
def test_vectors_score_as_normal_equations_do(world: World, name: str, dim: int) -> None:
    with_dim(world, dim)
    keys, fit = FITS[name]
    check(world, compute_user_vectors(world, keys), fit)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_vectors_score_items_after_normalize_and_center(world: World, normalize: bool, center: bool) -> None:
    with_dim(world, 12)
    options = {"normalize": normalize, "center": center}
    tables = TEXT + "\n".join(f"{key} = {str(value).lower()}" for key, value in options.items())
    for keys, fit in (FITS["defaults"], FITS["everything"]):
        check(world, compute_user_vectors(world, keys, tables=tables), fit, table=options, tolerance=3e-5)


def test_a_vector_scores_as_the_column_of_candidates_at_its_moment(world: World) -> None:
    late = timestamps(np.full(300, newest(world) + 1))
    world.write("candidates", {**world.table("candidates").to_pydict(), "timestamp": late})
    keys = 'user_vectors = "users.parquet"\nbias = true\nunobserved_weight = 0.2\nhalf_life = "9d"\n'
    frame = run_spec(world.spec("[[dual]]\n" + keys))
    users, items = world.table("users"), item_vectors(raw_vectors(world), bias=True)
    by_user = dict(zip(users["user_id"].to_pylist(), np.column_stack([matrix(users), users["bias"]]), strict=True))
    known = frame.filter(pl.col("item_id") < 35, pl.col("user_id") < 30)
    assert len(known) > 200
    for user, item, score in known.select("user_id", "item_id", "text__all__dual_score").iter_rows():
        assert score == pytest.approx(by_user[user] @ items[item], abs=TOLERANCE)


def test_the_moment_is_just_after_the_newest_event(world: World) -> None:
    compute_user_vectors(world)
    about = json.loads(pq.read_schema(world.folder / "users.parquet").metadata[b"extembed"])
    assert about["as_of_us"] == newest(world) + 1


def test_the_newest_event_is_seen_though_its_time_is_finer_than_a_microsecond(world: World) -> None:
    finer = pa.array(np.array([5, 5_999]), pa.timestamp("ns"))
    world.write("interactions", {"user_id": [1, 2], "item_id": [3, 4], "timestamp": finer})
    users = compute_user_vectors(world)
    assert users["user_id"].to_pylist() == [1, 2]


@pytest.mark.parametrize("given", ["2023-12-20 06:00", "2023-12-20T07:00:00+01:00", "2023-11-20"])
def test_as_of(world: World, given: str) -> None:
    moment = {"2023-11-20": "2023-11-20T00:00"}.get(given, "2023-12-20T06:00")
    check(world, compute_user_vectors(world, top=f'as_of = "{given}"'), ReferenceFit(), as_of=micros(moment))


def test_as_of_sees_no_event_at_its_moment(world: World) -> None:
    world.write(
        "interactions", {"user_id": [1, 2], "item_id": [3, 3], "timestamp": timestamps([9 * HOUR, 9 * HOUR - 1])}
    )
    assert compute_user_vectors(world, top='as_of = "1970-01-01T09:00"')["user_id"].to_pylist() == [2]


def test_as_of_step_floors_the_moment(world: World) -> None:
    for top, moment in (("", newest(world) + 1), ('as_of = "2023-12-20 06:00"\n', micros("2023-12-20T06:00"))):
        floored = moment // (24 * HOUR) * 24 * HOUR
        check(world, compute_user_vectors(world, top=f'{top}as_of_step = "1d"'), ReferenceFit(), as_of=floored)


def test_lag(world: World) -> None:
    check(world, compute_user_vectors(world, top='lag = "10d"'), ReferenceFit(), lag="10d")
    check(
        world,
        compute_user_vectors(world, 'half_life = "3d"', top='lag = "10d"'),
        ReferenceFit(half_life="3d"),
        lag="10d",
    )


def test_refit_every_floors_the_moment_too(world: World) -> None:
    fit = ReferenceFit(half_life="4d", refit_every="7d")
    check(world, compute_user_vectors(world, 'refit_every = "7d"\nhalf_life = "4d"'), fit)


@pytest.mark.parametrize("rules", [{"window": "20d"}, {"max_events": 4}, {"window": "30d", "max_events": 3}])
def test_window_and_newest_events(world: World, rules: dict[str, Any]) -> None:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in rules.items())
    check(
        world,
        compute_user_vectors(world, top=f"[histories.all]\n{lines}"),
        ReferenceFit(),
        history=ReferenceHistory(**rules),
    )


def test_named_history(world: World) -> None:
    users = compute_user_vectors(world, top='[histories.liked]\nwhere = "rating >= 4"\nmax_events = 5')
    check(world, users, ReferenceFit(), history=ReferenceHistory(LIKED.where, max_events=5))


def test_weight(world: World) -> None:
    weigh = lambda row: row["rating"] / 2 if row["rating"] != 3 else 0.0  # noqa: E731
    top = 'weight = "CASE WHEN rating = 3 THEN 0.0 ELSE rating / 2.0 END"'
    check(world, compute_user_vectors(world, top=top), ReferenceFit(), weight=weigh)
