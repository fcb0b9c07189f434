"""`[[direct]]`: the vectors of a candidate's user and item, compared with each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, timestamps, vectors
from features.test_audience import DIM, HOUR, OF_USERS, START, USERS, spec, write
from helpers.aggregate_loop import micros
from helpers.outputs import LAYOUTS, ran, same
from helpers.refusals import USAGE, refused

from extembed_cli.jobs.layout import Layout

pytestmark = pytest.mark.usefixtures("engine")

ITEMS = '[embeddings.text]\npath = "items.parquet"\n'
BOTH = ITEMS + OF_USERS
CHANGING = '[user_embeddings.v]\npath = "moments.parquet"\ncolumns.time = "since"\n'
TASTE = '[user_embeddings.taste]\nfrom = {embedding = "text", history = "liked", half_life = "20h"}\n'


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world where users have a vector for each of several times, too."""
    world, rng = write(tmp_path), np.random.default_rng(5)
    user = np.repeat(np.arange(1, USERS), 4)
    hours = np.concatenate([rng.permutation(150)[:4] for _ in range(USERS - 1)])
    rows = vectors(rng.standard_normal((len(user), DIM)) * 3)
    world.write("moments", {"user_id": user, "embedding": rows, "since": timestamps(START + hours * HOUR)})
    return world


def raw(world: World, table: str, key: str) -> dict[int, np.ndarray]:
    return {row[key]: np.asarray(row["embedding"], np.float64) for row in world.table(table).to_pylist()}


def centred(table: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    mean = np.mean(list(table.values()), axis=0)
    return {key: vector - mean for key, vector in table.items()}


def cosine(u: np.ndarray, v: np.ndarray) -> float:
    return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("normalize_users", [False, True])
@pytest.mark.few(4)
def test_the_values_are_those_of_a_loop(world: World, center: bool, normalize: bool, normalize_users: bool) -> None:
    keys, of_users = (f"normalize = {str(each).lower()}\n" for each in (normalize, normalize_users))
    group = f"[[direct]]\ncenter = {str(center).lower()}\n"
    output = run_spec(spec(world, f"{ITEMS}{keys}{OF_USERS}{of_users}{group}"))
    users, items = raw(world, "users", "user_id"), raw(world, "items", "item_id")
    if center:
        users, items = centred(users), centred(items)
    known = 0
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        user, item = users.get(candidate["user_id"]), items.get(candidate["item_id"])
        cos, dot = output["v__text__cos"][row], output["v__text__dot"][row]
        if user is None or item is None:
            assert cos is None
            assert dot is None
            continue
        known += 1
        expected = cosine(user, item)
        assert abs(cos - expected) < 1e-6
        norms = (1 if normalize else np.linalg.norm(item)) * (1 if normalize_users else np.linalg.norm(user))
        assert abs(dot - expected * norms) < 1e-5
    assert 40 < known < len(output)
    assert str(output.schema["v__text__cos"]) == "Float32"


@pytest.mark.parametrize("lag", [0, 7])
def test_a_candidate_uses_the_newest_vector_before_its_time(world: World, lag: int) -> None:
    output = run_spec(spec(world, f"{ITEMS}{CHANGING}[[direct]]\n", top=f'lag = "{lag}h"\n'))
    items, moments = raw(world, "items", "item_id"), world.table("moments").to_pylist()
    known = 0
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        now = micros(candidate["timestamp"]) - lag * HOUR
        earlier = [m for m in moments if m["user_id"] == candidate["user_id"] and micros(m["since"]) < now]
        if not earlier or candidate["item_id"] not in items:
            assert output["v__text__cos"][row] is None
            continue
        newest = max(earlier, key=lambda m: micros(m["since"]))
        expected = cosine(np.asarray(newest["embedding"]), items[candidate["item_id"]])
        assert abs(output["v__text__cos"][row] - expected) < 1e-6
        known += 1
    assert known > 40


def test_the_cosine_with_a_derived_vector_is_that_with_the_decayed_mean(world: World) -> None:
    aggregate = '[[aggregate]]\nhistories = ["liked"]\nhalf_lives = ["20h"]\n'
    output = run_spec(spec(world, f"{ITEMS}{TASTE}[[direct]]\n{aggregate}"))
    mine, theirs = (output[name].to_numpy() for name in ("taste__text__cos", "text__liked__cos_to_mean__hl20h"))
    assert np.isfinite(theirs).sum() > 40
    np.testing.assert_allclose(mine, theirs, atol=2e-6)


EVERY = f"""{ITEMS}{TASTE}{CHANGING}
[[direct]]
[[direct]]
name = "c"
center = true
user_embeddings = ["taste"]
[[aggregate]]
side = "item"
[[aggregate]]
"""


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.local
def test_direct_has_the_same_bytes_in_any_layout(world: World, layout: Layout) -> None:
    path = spec(world, EVERY)
    same(ran(path, 1, Layout()), ran(path, 2, layout))


def test_later_rows_change_no_byte(world: World) -> None:
    path = spec(world, EVERY.replace('name = "c"\ncenter = true', 'name = "c"'))
    before = run_spec(path)
    cut = START + 90 * HOUR
    for name, time in (("moments", "since"), ("interactions", "timestamp")):
        rows = world.table(name)
        early = np.array([micros(t) for t in rows[time].to_pylist()]) < cut
        world.write(name, pa.concat_tables([rows.filter(early), rows.filter(~early).slice(0, 3)]))
    after = run_spec(path)
    seen = np.array([micros(t) for t in before["timestamp"].to_list()]) <= cut
    names = [name for name in before.columns if name.endswith(("cos", "dot"))]
    assert len(names) == 6
    for name in names:
        assert before[name].filter(seen).equals(after[name].filter(seen), null_equal=True), name


def test_the_columns_belong_to_the_step_aggregate(world: World) -> None:
    path = spec(world, f"{BOTH}[[direct]]\n")
    report = extembed("run", path, "--json").ok().json
    assert report["column_names"] == ["v__text__cos", "v__text__dot"]
    users = report["inputs"]["user_embeddings"]["v"]
    assert users["rows"] == USERS - 1
    assert users["dim"] == DIM
    assert users["coverage"]["events"] is None
    assert 0.5 < users["coverage"]["candidates"] < 1
    about = json.loads((pq.read_schema(world.folder / "out.parquet").metadata or {})[b"extembed"])
    assert [column["technique"] for column in about["columns"]] == ["aggregate", "aggregate"]
    assert "v__text__dot\tFloat32\taggregate\tproduct of the user's vector in `v`" in extembed("columns", path).ok().out


def test_users_that_do_not_match_are_reported(world: World) -> None:
    table = world.table("users")
    world.write("users", table.set_column(0, "user_id", pa.array(np.arange(table.num_rows) + 1000)))
    for command in ("run", "check"):
        message = "user_embeddings v: no user of the candidates has a vector. Are the user ids the same?"
        extembed(command, spec(world, f"{BOTH}[[direct]]\n")).failed(1, message)


def test_coverage_is_as_of_each_row(world: World) -> None:
    """A vector that counts from a later time on is none yet."""
    path = spec(world, f"{ITEMS}{CHANGING}[[direct]]\n")
    output = run_spec(path)
    known = pl.read_parquet(world.folder / "items.parquet")["item_id"]
    share = output.filter(pl.col("item_id").is_in(known.implode()))["v__text__cos"].is_not_null().mean()
    report = json.loads((world.folder / "out.parquet.run.json").read_text())
    covered = report["inputs"]["user_embeddings"]["v"]["coverage"]["candidates"]
    assert 0.3 < covered < 0.9
    assert abs(covered - share) < 0.1
    late = world.table("moments")
    since = pa.compute.add(late["since"], pa.scalar(400 * 24 * HOUR, pa.duration("us")))
    world.write("moments", late.set_column(2, "since", since))
    extembed("run", path).failed(1, "user_embeddings v: no user of the candidates has a vector")


@pytest.mark.parametrize("command", ["run", "check", "dry-run"])
def test_vectors_of_other_lengths_are_refused(world: World, command: str) -> None:
    table = world.table("users")
    world.write("users", {"user_id": table["user_id"], "embedding": vectors(np.ones((table.num_rows, DIM + 2)))})
    path = spec(world, f"{BOTH}[[direct]]\n")
    args = ("run", path, "--dry-run") if command == "dry-run" else (command, path)
    extembed(*args).failed(1, "direct.0: the vectors of users in `v` have 7 dimensions, those of items in `text` 5")


def test_a_table_without_a_vector_is_told_as_such(world: World) -> None:
    for rows in (0, 3):
        of_nothing = pa.array([None] * rows, pa.list_(pa.float32()))
        world.write("users", {"user_id": np.arange(rows), "embedding": of_nothing})
        extembed("run", spec(world, f"{BOTH}[[direct]]\n")).failed(1, "there is no vector in column `embedding`")


def test_a_spec_without_a_table_of_users_or_items_is_refused(world: World) -> None:
    refused(world, spec(world, f"{ITEMS}[[direct]]\n"), USAGE, "`user_embeddings` is missing: [[direct]] needs a table")
    refused(world, spec(world, f"{OF_USERS}[[direct]]\n"), USAGE, "`embeddings` is missing: [[direct]] needs an embed")
    wrong = f'{BOTH}[[direct]]\nuser_embeddings = ["w"]\n'
    refused(world, spec(world, wrong), USAGE, "direct.0.user_embeddings: nothing is named `w`; known: v")
    timed = f"{ITEMS}{CHANGING}[[direct]]\ncenter = true\n"
    refused(world, spec(world, timed), USAGE, "direct.0.center: the mean of vectors that change would know")
