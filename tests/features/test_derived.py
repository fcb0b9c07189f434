"""`[user_embeddings.X] from = {...}`: vectors of users from their own histories, as of each moment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import World, extembed, run_spec, soak
from features.test_audience import DIM, HOUR, START, spec, write
from helpers.aggregate_loop import micros
from helpers.outputs import LAYOUTS, ran, same
from helpers.reference import Event, unit_vectors
from helpers.reference_targets import residuals

from extembed_cli.jobs.early_reads import folders_of_all
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.spec.loading import load_spec

pytestmark = pytest.mark.usefixtures("engine")

ITEMS = '[embeddings.text]\npath = "items.parquet"\n'
AUDIENCE = """
[[aggregate]]
side = "item"
own = true
histories = ["all"]
half_lives = ["none"]
percentiles = []
top = [1]
"""


def taste(keys: str, center: bool = False) -> str:
    centred = "center = true\n" if center else ""
    return f'{ITEMS}[user_embeddings.taste]\n{centred}from = {{embedding = "text", {keys}}}\n'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return write(tmp_path)


@pytest.mark.parametrize(
    ("keys", "by"),
    [
        ('history = "liked", half_life = "40h"', None),
        ('history = "recent"', None),
        ('target = "rating - 3", half_life = "40h"', ""),
        ('target = "rating", residual = "item"', "item"),
        ('target = "rating", residual = "item+user"', "item+user"),
    ],
)
@pytest.mark.parametrize("lag", [soak(0), 5])
@pytest.mark.few(3)
def test_the_cosines_are_those_of_a_loop(world: World, keys: str, by: str | None, lag: int) -> None:
    path = spec(world, taste(keys) + AUDIENCE, top=f'weight = "weight"\nlag = "{lag}h"\n')
    output = run_spec(path)
    log = sorted(world.table("interactions").to_pylist(), key=lambda r: (r["timestamp"], r["item_id"]))
    events = [Event(r["user_id"], r["item_id"], micros(r["timestamp"])) for r in log]
    said: dict[int, float | None] = {i: r["rating"] for i, r in enumerate(log)}
    if by == "":
        said = {i: None if y is None else y - 3 for i, y in said.items()}
    elif by is not None:
        said = residuals(events, said, by)
    items = unit_vectors({r["item_id"]: r["embedding"] for r in world.table("items").to_pylist()})
    half_life = 40 * HOUR if "half_life" in keys else None

    def vector(user: int, now: int) -> np.ndarray | None:
        seen = [i for i, e in enumerate(events) if e.user == user and e.time < now - lag * HOUR]
        if "liked" in keys:
            seen = [i for i in seen if log[i]["rating"] is not None and log[i]["rating"] >= 3]
        if "recent" in keys:
            seen = [i for i in seen if events[i].time >= now - 60 * HOUR][-6:]
        total = np.zeros(DIM)
        for i in seen:
            y = 1.0 if by is None else said[i]
            if events[i].item in items and y is not None:
                decay = 1.0 if half_life is None else 2.0 ** ((events[i].time - now) / half_life)
                total += log[i]["weight"] * decay * y * items[events[i].item]
        size = math.sqrt(total @ total)
        return total / size if size > 1e-9 else None

    checked = 0
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        now = micros(candidate["timestamp"])
        mine = vector(candidate["user_id"], now)
        audience = [
            (e, vector(e.user, e.time), r["weight"])
            for e, r in zip(events, log, strict=True)
            if e.item == candidate["item_id"] and e.time < now - lag * HOUR
        ]
        known = [(v, w) for _, v, w in audience if v is not None]
        assert output["taste__all__item_vector_count"][row] == len(known), row
        mean = output["taste__all__item_cos_mean"][row]
        if mine is None or not known:
            assert mean is None
        else:
            checked += 1
            cosines, weights = [mine @ v for v, _ in known], [w for _, w in known]
            assert abs(mean - np.average(cosines, weights=weights)) < 2e-5
            assert abs(output["taste__all__item_cos_max"][row] - max(cosines)) < 2e-5
    assert checked > 40


BOTH = (
    taste('history = "liked", half_life = "40h"', center=True)
    + """
[user_embeddings.said]
from = {embedding = "text", target = "rating", residual = "item+user"}
[[aggregate]]
side = "item"
target = "rating"
residual = "item"
[[aggregate]]
name = "raw"
side = "item"
center = false
user_embeddings = ["taste"]
[[dual]]
side = "item"
target = "rating - 3"
[[aggregate]]
"""
)


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.local
def test_derived_vectors_have_the_same_bytes_in_any_layout(world: World, layout: Layout) -> None:
    path = spec(world, BOTH)
    before = {each.name for each in world.folder.iterdir()}
    same(ran(path, 1, Layout()), ran(path, 2, layout))
    assert {each.name for each in world.folder.iterdir()} - before == {"out.parquet", "out.parquet.run.json"}


def test_later_events_change_no_byte(world: World) -> None:
    path = spec(world, BOTH)
    before = run_spec(path)
    events = pl.from_arrow(world.table("interactions"))
    assert isinstance(events, pl.DataFrame)
    late = pl.col("timestamp").cast(pl.Int64) >= START + 90 * HOUR
    changed = events.with_columns(
        rating=pl.when(late).then(6 - pl.col("rating")).otherwise("rating"),
        item_id=pl.when(late).then(8 - pl.col("item_id")).otherwise("item_id"),
    )
    world.write("interactions", changed.to_arrow())
    after = run_spec(path)
    early = before["timestamp"].cast(pl.Int64) <= START + 90 * HOUR
    assert before.filter(early).equals(after.filter(early), null_equal=True)
    assert not before.equals(after, null_equal=True)


def test_items_that_only_later_events_have_change_no_byte(world: World) -> None:
    """The mean of a centred table is over all its items."""
    path = spec(world, BOTH)
    log = pl.from_arrow(world.table("interactions"))
    asked = pl.from_arrow(world.table("candidates"))
    assert isinstance(log, pl.DataFrame)
    assert isinstance(asked, pl.DataFrame)
    time = pl.col("timestamp").cast(pl.Int64)
    world.write("candidates", asked.filter(time <= START + 90 * HOUR).to_arrow())
    rest = log.filter((time >= START + 90 * HOUR) | (pl.col("item_id") < 3))
    world.write("interactions", rest.to_arrow())
    before = run_spec(path)
    world.write("interactions", rest.filter(time < START + 90 * HOUR).to_arrow())
    assert before.equals(run_spec(path), null_equal=True)


@pytest.mark.soak
def test_within_reads_columns_of_both_sides(world: World) -> None:
    asked = world.table("candidates")
    world.write("candidates", asked.append_column("request", asked["timestamp"].cast("int64")))
    within = '[within]\nby = "request"\ncolumns = ["taste__*item_cos_max", "text__*cos_max"]\n'
    path = spec(world, BOTH + within)
    output = run_spec(path)
    assert {"taste__liked__item_cos_max__within_rank", "text__liked__cos_max__within_rank"} <= set(output.columns)
    same(ran(path, 1, Layout()), ran(path, 2, Layout(shards=3, mapped=True)))
    extembed("run", path, "--memory", "500MiB", "-q").ok()


@pytest.mark.local
def test_the_folder_of_a_killed_derivation_is_removed(world: World) -> None:
    path = spec(world, BOTH)
    left, _ = folders_of_all(load_spec(path), RunOptions(workers=1))
    (left / "shared").mkdir(parents=True)
    run_spec(path)
    assert not left.exists()


def test_check_and_dry_run_know_derived_tables(world: World) -> None:
    path = spec(world, BOTH)
    report = extembed("check", path, "--json").ok().json
    assert set(report["inputs"]["user_embeddings"]) == {"taste", "said"}
    assert report["inputs"]["user_embeddings"]["taste"]["dim"] == DIM
    plan = extembed("run", path, "--dry-run", "--json").ok().json
    assert plan["counts"]["cosines"] > 1000


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ('from = {embedding = "txt"}', ("user_embeddings.taste.from.embedding", "`txt`")),
        ('from = {embedding = "text", history = "likd"}', ("user_embeddings.taste.from.history", "liked")),
        (
            'from = {embedding = "text"}\npath = "users.parquet"',
            ("user_embeddings.taste", "a `path`", "`from` the log"),
        ),
        ("center = true", ("user_embeddings.taste", "a `path`", "`from` the log")),
        ('from = {embedding = "text"}\nnormalize = false', ("user_embeddings.taste", "normalize: is about a file")),
        (
            'from = {embedding = "text"}\n[[dual]]\nside = "item"\nunobserved_weight = 0.1\n',
            ("dual.0.unobserved_weight: needs vectors that are the same at all times",),
        ),
        (
            'path = "users.parquet"\ncolumns.time = "since"\ncenter = true',
            ("user_embeddings.taste", "center: the mean of vectors that change would know their future"),
        ),
        ('from = {embedding = "text", residual = "item"}', ("user_embeddings.taste.from.residual", "needs a `target`")),
        ('from = {embedding = "text", target = "ratin"}', ("user_embeddings.taste.from.target", "`ratin`")),
    ],
)
def test_wrong_keys_are_refused(world: World, table: str, parts: tuple[str, ...]) -> None:
    groups = f"{ITEMS}[user_embeddings.taste]\n{table}\n{AUDIENCE}"
    extembed("run", spec(world, groups)).failed(2, *parts)


def test_a_user_whose_likes_and_dislikes_cancel_has_no_vector(tmp_path: Path) -> None:
    world = write(tmp_path)
    hours = [10, 20, 30, 40]
    rows: dict[str, Any] = {
        "user_id": [1, 1, 2, 2], "item_id": [3, 3, 3, 4],
        "timestamp": pl.Series([START + h * HOUR for h in hours]).cast(pl.Datetime("us")),
        "rating": [1.0, -1.0, 1.0, 1.0], "weight": [1.0] * 4,
    }  # fmt: skip
    world.write("interactions", pl.DataFrame(rows).to_arrow())
    asked = {"user_id": [2, 2], "item_id": [3, 3], "timestamp": rows["timestamp"].gather([2, 3])}
    world.write("candidates", pl.DataFrame(asked).to_arrow())
    output = run_spec(spec(world, taste('target = "rating"') + AUDIENCE, top="require.allow_empty = true\n"))
    assert output["item_all__count"].to_list() == [2, 3]
    # User 1 has a vector at the second event alone; later likes and dislikes are nothing together.
    assert output["taste__all__item_vector_count"].to_list() == [1, 1]
