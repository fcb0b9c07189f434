"""The file of user vectors: one row per user, whose vector times an item's is the score as of one moment."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, timestamps, vectors
from reference import Event, ReferenceHistory
from reference_dual import ReferenceFit, item_vectors, solve
from test_dual import LIKED, RATING, raw_vectors, with_dim
from test_features import events_of, micros

import extembed_cli
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

TOLERANCE = 1e-5  # of scores of order 1, with vectors kept in float32
HOUR = 3_600_000_000
TEXT = '[embeddings.text]\npath = "text.parquet"\n'
FLAGS = ("dual", "-i", "interactions.parquet", "-e", "text=text.parquet", "--user-vectors", "users.parquet")


def alone(world: World, keys: str = "", top: str = "", tables: str = TEXT) -> Path:
    """A spec without candidates and with one group that writes `users.parquet`."""
    text = f'interactions = "interactions.parquet"\n{top}\n{tables}\n[[dual]]\nuser_vectors = "users.parquet"\n{keys}\n'
    return world.spec(text, "vectors.toml")


def run(spec: Path, workers: int = 2) -> dict[str, Any]:
    return run_job(load_spec(spec), RunOptions(workers=workers), Watch())


def made(world: World, keys: str = "", top: str = "", tables: str = TEXT) -> pa.Table:
    """The file that a spec without candidates makes."""
    run(alone(world, keys, top, tables))
    return world.table("users")


def newest(world: World) -> int:
    return max(micros(t) for t in world.table("interactions")["timestamp"].to_pylist())


def check(
    world: World,
    users: pa.Table,
    fit: ReferenceFit,
    *,
    as_of: int | None = None,
    history: ReferenceHistory | None = None,
    lag: str = "0s",
    table: dict[str, bool] | None = None,
    events: list[Event] | None = None,
    weight: Callable[[dict[str, Any]], float] = lambda row: 1.0,
    tolerance: float = TOLERANCE,
) -> None:
    """Every user's score of every item, and which users there are, against normal equations in float64."""
    events = events_of(world, weight) if events is None else events
    as_of = newest(world) + 1 if as_of is None else as_of
    items = item_vectors(raw_vectors(world), bias=fit.bias, **(table or {}))
    wanted = {}
    for user in sorted({e.user for e in events if e.user is not None}):
        found = solve(items, fit, events, history or ReferenceHistory(), user, as_of, lag)
        if found is not None:
            wanted[user] = found[0]
    assert users["user_id"].to_pylist() == list(wanted)
    assert wanted
    x = np.array(list(items.values()))
    expected = np.array(list(wanted.values())) @ x.T
    embedding = matrix(users)
    scores = embedding @ x[:, : embedding.shape[1]].T
    if fit.bias:
        scores += users["bias"].to_numpy()[:, None]
    assert np.abs(scores - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def matrix(users: pa.Table) -> np.ndarray:
    """The vectors in float64."""
    dim = users.schema.field("embedding").type.list_size
    return users["embedding"].combine_chunks().flatten().to_numpy().astype(np.float64).reshape(-1, dim)


# --- the formula -------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("dim", [1, 8, 48])
@pytest.mark.parametrize("name", FITS)
def test_vectors_score_as_normal_equations_do(world: World, name: str, dim: int) -> None:
    with_dim(world, dim)
    keys, fit = FITS[name]
    check(world, made(world, keys), fit)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_items_are_those_of_the_table_after_normalize_and_center(world: World, normalize: bool, center: bool) -> None:
    with_dim(world, 12)
    options = {"normalize": normalize, "center": center}
    tables = TEXT + "\n".join(f"{key} = {str(value).lower()}" for key, value in options.items())
    for keys, fit in (FITS["defaults"], FITS["everything"]):
        check(world, made(world, keys, tables=tables), fit, table=options, tolerance=3e-5)


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


# --- the moment --------------------------------------------------------------------------------------


def test_the_moment_is_just_after_the_newest_event(world: World) -> None:
    made(world)
    about = json.loads(pq.read_schema(world.folder / "users.parquet").metadata[b"extembed"])
    assert about["as_of_us"] == newest(world) + 1


def test_the_newest_event_is_seen_though_its_time_is_finer_than_a_microsecond(world: World) -> None:
    finer = pa.array(np.array([5, 5_999]), pa.timestamp("ns"))
    world.write("interactions", {"user_id": [1, 2], "item_id": [3, 4], "timestamp": finer})
    users = made(world)
    assert users["user_id"].to_pylist() == [1, 2]


@pytest.mark.parametrize("given", ["2023-12-20 06:00", "2023-12-20T07:00:00+01:00", "2023-11-20"])
def test_as_of(world: World, given: str) -> None:
    moment = {"2023-11-20": "2023-11-20T00:00"}.get(given, "2023-12-20T06:00")
    check(world, made(world, top=f'as_of = "{given}"'), ReferenceFit(), as_of=micros(moment))


def test_as_of_sees_no_event_at_its_moment(world: World) -> None:
    world.write(
        "interactions", {"user_id": [1, 2], "item_id": [3, 3], "timestamp": timestamps([9 * HOUR, 9 * HOUR - 1])}
    )
    assert made(world, top='as_of = "1970-01-01T09:00"')["user_id"].to_pylist() == [2]


def test_as_of_step_floors_the_moment(world: World) -> None:
    for top, moment in (("", newest(world) + 1), ('as_of = "2023-12-20 06:00"\n', micros("2023-12-20T06:00"))):
        floored = moment // (24 * HOUR) * 24 * HOUR
        check(world, made(world, top=f'{top}as_of_step = "1d"'), ReferenceFit(), as_of=floored)


def test_lag(world: World) -> None:
    check(world, made(world, top='lag = "10d"'), ReferenceFit(), lag="10d")
    check(world, made(world, 'half_life = "3d"', top='lag = "10d"'), ReferenceFit(half_life="3d"), lag="10d")


def test_refit_every_floors_the_moment_too(world: World) -> None:
    fit = ReferenceFit(half_life="4d", refit_every="7d")
    check(world, made(world, 'refit_every = "7d"\nhalf_life = "4d"'), fit)


@pytest.mark.parametrize("rules", [{"window": "20d"}, {"max_events": 4}, {"window": "30d", "max_events": 3}])
def test_window_and_newest_events(world: World, rules: dict[str, Any]) -> None:
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in rules.items())
    check(world, made(world, top=f"[histories.all]\n{lines}"), ReferenceFit(), history=ReferenceHistory(**rules))


def test_named_history(world: World) -> None:
    users = made(world, top='[histories.liked]\nwhere = "rating >= 4"\nmax_events = 5')
    check(world, users, ReferenceFit(), history=ReferenceHistory(LIKED.where, max_events=5))


def test_weight(world: World) -> None:
    weigh = lambda row: row["rating"] / 2 if row["rating"] != 3 else 0.0  # noqa: E731
    top = 'weight = "CASE WHEN rating = 3 THEN 0.0 ELSE rating / 2.0 END"'
    check(world, made(world, top=top), ReferenceFit(), weight=weigh)


# --- which users -------------------------------------------------------------------------------------


def test_users_without_a_visible_vector_are_left_out(world: World) -> None:
    """Item 39 has no vector; rating 3 has no target; user 5 starts at the moment."""
    hours = [1, 1, 1, 2, 3, 5]
    world.write(
        "interactions",
        {
            "user_id": [1, 2, 3, 3, 4, 5],
            "item_id": [7, 39, 7, 39, 8, 8],
            "timestamp": timestamps(np.array(hours) * HOUR),
            "rating": [4, 4, 3, 4, 5, 5],
        },
    )
    users = made(world, 'target = "CASE WHEN rating <> 3 THEN 1 END"', top='as_of = "1970-01-01T05:00"')
    assert users["user_id"].to_pylist() == [1, 4]


def test_a_user_whose_vector_is_zero_is_there(world: World) -> None:
    """Not the same as one about whom nothing is known."""
    users = made(world, 'target = "0"')
    assert users.num_rows == 30
    assert not matrix(users).any()


def test_null_users_items_times_and_weights(world: World) -> None:
    table = world.table("interactions").to_pydict()
    for row, column in enumerate(["user_id", "item_id", "timestamp", "rating"] * 5):
        table[column][row] = None
    world.write("interactions", table)
    rows = [r for r in world.table("interactions").to_pylist() if None not in r.values()]
    events = [Event(r["user_id"], r["item_id"], micros(r["timestamp"]), r["rating"]) for r in rows]
    users = made(world, top='weight = "rating"')
    check(world, users, ReferenceFit(), as_of=max(e.time for e in events) + 1, events=events)
    assert users["user_id"].null_count == 0


def test_candidates_do_not_choose_the_users(world: World) -> None:
    """Neither those of the log without a candidate are left out, nor are candidates of unknown users added."""
    without = made(world, "bias = true")
    some = world.table("candidates").filter(
        pa.array([u in {3, 7, 31, 32} for u in world.table("candidates")["user_id"].to_pylist()])
    )
    keys = '[[dual]]\nbias = true\nuser_vectors = "users.parquet"\n'
    for candidates in (some, world.table("candidates"), world.table("candidates").slice(0, 0)):
        world.write("candidates", candidates)
        frame = run_spec(world.spec(keys))
        assert len(frame) == len(candidates)
        assert world.table("users").equals(without)


def test_as_of_is_that_of_the_candidates_too(world: World) -> None:
    top = 'as_of = "2023-12-20 06:00"'
    alone_made = made(world, top=top)
    run_spec(world.spec(f'{top}\n[[dual]]\nuser_vectors = "users.parquet"\n'))
    assert world.table("users").equals(alone_made)


def test_the_vectors_do_not_depend_on_the_order_of_the_log_or_on_the_workers(world: World) -> None:
    first = made(world, 'target = "rating - 3"\nhalf_life = "9d"')
    whole = (world.folder / "users.parquet").read_bytes()
    run(alone(world, 'target = "rating - 3"\nhalf_life = "9d"'), workers=1)
    assert (world.folder / "users.parquet").read_bytes() == whole
    world.write("interactions", world.table("interactions").take(np.random.default_rng(1).permutation(600)))
    assert made(world, 'target = "rating - 3"\nhalf_life = "9d"').equals(first)


def test_more_users_than_are_written_at_a_time(world: World) -> None:
    users = np.random.default_rng(2).permutation(20_000)
    times = timestamps(np.arange(20_000) * HOUR)
    world.write("interactions", {"user_id": users, "item_id": users % 40, "timestamp": times})
    found = made(world, "unobserved_weight = 0.1\nbias = true")
    wanted = np.flatnonzero(np.arange(20_000) % 40 < 35)
    assert found["user_id"].to_pylist() == wanted.tolist()
    rows = np.column_stack([matrix(found), found["bias"]])
    assert (rows == rows[wanted % 40]).all()  # the first 35 users have one event of each item


@pytest.mark.parametrize("rows", [0, 4])
def test_no_interaction_that_can_be_used(world: World, rows: int) -> None:
    table = world.table("interactions").slice(0, rows)
    world.write("interactions", table.set_column(0, "user_id", pa.nulls(rows, pa.int64())))
    report = run(alone(world, "bias = true"))
    users = world.table("users")
    assert users.num_rows == 0
    assert users.schema.names == ["user_id", "embedding", "bias"]
    assert users.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert any("no interaction can be used" in warning for warning in report["warnings"])


# --- columns and types -------------------------------------------------------------------------------


def test_columns(world: World) -> None:
    assert made(world).schema.remove_metadata() == pa.schema(
        {"user_id": pa.int64(), "embedding": pa.list_(pa.float32(), 8)}
    )
    assert made(world, "bias = true").schema.remove_metadata() == pa.schema(
        {"user_id": pa.int64(), "embedding": pa.list_(pa.float32(), 8), "bias": pa.float32()}
    )


def test_the_user_column_is_called_the_same_whatever_the_log_calls_it(world: World) -> None:
    expected = made(world)
    world.write("interactions", world.table("interactions").rename_columns(["who", "item_id", "timestamp", "rating"]))
    assert made(world, top='columns.interactions.user = "who"').equals(expected)


def integers(kind: pa.DataType, start: int = 0) -> Callable[[Sequence[int]], pa.Array]:
    return lambda nums: pa.array([start + n for n in nums], kind)


def strings(kind: pa.DataType) -> Callable[[Sequence[int]], pa.Array]:
    return lambda nums: pa.array([f"user-{n:03d} é" for n in nums], kind)


def binary(kind: pa.DataType) -> Callable[[Sequence[int]], pa.Array]:
    return lambda nums: pa.array([uuid.UUID(int=n * 2**100 + n).bytes for n in nums], kind)


def uuids(nums: Sequence[int]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), binary(pa.binary(16))(nums))


def dictionary(plain: Callable[[Sequence[int]], pa.Array]) -> Callable[[Sequence[int]], pa.Array]:
    """Dictionary-encoded, with entries that no row uses and in no order."""
    return lambda nums: pa.DictionaryArray.from_arrays(
        pa.array([99 - n for n in nums], pa.int8()), plain(range(99, -1, -1))
    )


IDS: dict[str, Callable[[Sequence[int]], pa.Array]] = {
    "int8": integers(pa.int8(), -12),
    "int32": integers(pa.int32()),
    "uint16": integers(pa.uint16()),
    "uint64": integers(pa.uint64()),
    "above_2_63": integers(pa.uint64(), 2**64 - 100),
    "across_2_63": integers(pa.uint64(), 2**63 - 15),
    "string": strings(pa.string()),
    "large_string": strings(pa.large_string()),
    "string_view": strings(pa.string_view()),
    "binary": binary(pa.binary()),
    "large_binary": binary(pa.large_binary()),
    "binary_view": binary(pa.binary_view()),
    "fixed_16": binary(pa.binary(16)),
    "uuid": uuids,
    "dictionary_string": dictionary(strings(pa.string())),
    "dictionary_int": dictionary(integers(pa.int16())),
    "dictionary_uint64": dictionary(integers(pa.uint64(), 2**64 - 100)),
    "dictionary_binary": dictionary(binary(pa.binary(16))),
}


def with_users(world: World, column: pa.Array, name: str = "interactions") -> None:
    world.write(name, world.table(name).set_column(0, "user_id", column))


@pytest.mark.parametrize("kind", IDS)
def test_ids_come_back_in_the_type_of_the_log(world: World, kind: str) -> None:
    plain = made(world)
    nums = world.table("interactions")["user_id"].to_pylist()
    column = IDS[kind](nums)
    with_users(world, column)
    stored = world.table("interactions").schema.field("user_id").type
    users = made(world)
    assert users.schema.field("user_id").type == (stored.value_type if pa.types.is_dictionary(stored) else stored)
    as_made = IDS[kind](range(30))
    assert users["user_id"].to_pylist() == as_made.to_pylist()  # all these keep the order of the nums
    assert matrix(users).tolist() == matrix(plain).tolist()


@pytest.mark.parametrize(
    "kind", ["int32", "above_2_63", "string", "large_string", "dictionary_string", "binary", "fixed_16"]
)
def test_ids_join_with_the_log(world: World, kind: str) -> None:
    with_users(world, IDS[kind](world.table("interactions")["user_id"].to_pylist()))
    made(world)
    log, users = (pl.read_parquet(world.folder / f"{name}.parquet") for name in ("interactions", "users"))
    assert len(log.with_columns(pl.col("user_id").cast(users["user_id"].dtype)).join(users, on="user_id")) == 600
    if kind != "dictionary_string":
        assert len(log.join(users, on="user_id")) == 600


@pytest.mark.parametrize(
    ("kinds", "stored"),
    [
        (("int32", "int32"), pa.int32()),
        (("int32", "uint64"), pa.int64()),
        (("uint64", "above_2_63"), pa.uint64()),
        (("int32", "above_2_63"), pa.uint64()),
        (("string", "large_string"), pa.large_string()),
        (("dictionary_string", "string"), pa.large_string()),
        (("binary", "fixed_16"), pa.large_binary()),
    ],
)
def test_ids_of_files_of_two_types(world: World, kinds: tuple[str, str], stored: pa.DataType) -> None:
    plain = made(world)
    table = world.table("interactions")
    nums = np.array(table["user_id"].to_pylist())
    for n, kind in enumerate(kinds):
        chosen = np.flatnonzero(nums % 2 == n)
        part = table.take(chosen)
        world.write(f"log/{n}", part.set_column(0, "user_id", IDS[kind](nums[chosen].tolist())))
    run(_of_log(world))
    users = world.table("users")
    assert users.schema.field("user_id").type == stored
    assert sorted(map(str, users["user_id"].to_pylist())) == sorted(
        str(v) for n, kind in enumerate(kinds) for v in IDS[kind](range(n, 30, 2)).to_pylist()
    )
    assert sorted(matrix(users).tolist()) == sorted(matrix(plain).tolist())


def _of_log(world: World) -> Path:
    spec = alone(world)
    spec.write_text(spec.read_text().replace("interactions.parquet", "log"))
    return spec


def test_negative_ids_beside_some_above_2_63(world: World) -> None:
    """No Arrow integer holds both; only the files of the log do."""
    world.write("log/0", {"user_id": pa.array([-1, 5]), "item_id": [1, 2], "timestamp": timestamps([1, 2])})
    far = pa.array([2**64 - 1], pa.uint64())
    world.write("log/1", {"user_id": far, "item_id": [3], "timestamp": timestamps([3])})
    run(_of_log(world))
    assert [int(user) for user in world.table("users")["user_id"].to_pylist()] == [-1, 5, 2**64 - 1]


def test_candidates_of_a_wider_type_do_not_change_that_of_the_log(world: World) -> None:
    """Negative ids of the log beside unsigned ones of candidates, above what the log's type can hold."""
    nums = world.table("interactions")["user_id"].to_pylist()
    with_users(world, pa.array([n - 10 for n in nums], pa.int32()))
    with_users(
        world,
        pa.array([2**64 - 1 - n for n in world.table("candidates")["user_id"].to_pylist()], pa.uint64()),
        "candidates",
    )
    run_spec(world.spec('[[dual]]\nuser_vectors = "users.parquet"\n'))
    users = world.table("users")
    assert users.schema.field("user_id").type == pa.int32()
    assert users["user_id"].to_pylist() == list(range(-10, 20))


def test_a_log_without_any_user(world: World) -> None:
    """A column of nulls that no writer gave a type."""
    with_users(world, pa.nulls(600))
    assert made(world).num_rows == 0


# --- several files, and what else reads them -----------------------------------------------------------


def test_several_groups_write_a_file_each(world: World) -> None:
    rng = np.random.default_rng(9)
    world.write("image", {"item_id": np.arange(40), "embedding": vectors(rng.standard_normal((40, 3)))})
    top = '[histories.liked]\nwhere = "rating >= 4"\n[histories.some]\nmax_events = 4'
    tables = TEXT + '[embeddings.image]\npath = "image.parquet"\n'
    groups = {
        "one": ('embeddings = ["text"]\nhistories = ["liked"]', ReferenceFit(), LIKED, "text"),
        "two": (
            'embeddings = ["image"]\nhistories = ["all"]\nbias = true\nunobserved_weight = 0.5\nname = "b"',
            ReferenceFit(2.0, 0.5, bias=True), ReferenceHistory(), "image",
        ),
        "deep/three": (
            'embeddings = ["text"]\nhistories = ["some"]\nloss = "logistic"\ntarget = "rating - 3"\nname = "c"',
            ReferenceFit(loss="logistic", target=RATING), ReferenceHistory(max_events=4), "text",
        ),
    }  # fmt: skip
    dual = "".join(f'[[dual]]\nuser_vectors = "{path}.parquet"\n{keys}\n' for path, (keys, *_) in groups.items())
    report = run(world.spec(f'interactions = "interactions.parquet"\n{tables}{top}\n{dual}'))
    assert [Path(f["path"]).stem for f in report["user_vectors"]] == ["one", "two", "three"]
    for path in ("one", "deep/three"):
        _, fit, history, _ = groups[path]
        check(world, world.table(path), fit, history=history)
    world.write("text", world.table("image"))
    _, fit, history, _ = groups["two"]
    check(world, world.table("two"), fit, history=history)


def test_groups_of_the_same_fit_share_it_and_write_two_files(world: World) -> None:
    spec = alone(world)
    spec.write_text(spec.read_text() + '[[dual]]\nuser_vectors = "again.parquet"\n')
    run(spec)
    assert world.table("again").equals(world.table("users"))


def test_groups_without_candidates_need_no_names(world: World) -> None:
    """They make no columns that could be mistaken for each other."""
    spec = alone(world, "regularization = 1")
    spec.write_text(spec.read_text() + '[[dual]]\nuser_vectors = "strong.parquet"\nregularization = 9\n')
    run(spec)
    check(world, world.table("strong"), ReferenceFit(9))


def test_the_file_is_an_embedding_table_and_plain_parquet(world: World) -> None:
    users = made(world, "bias = true")
    frame = pl.read_parquet(world.folder / "users.parquet")
    assert frame.schema == {"user_id": pl.Int64, "embedding": pl.Array(pl.Float32, 8), "bias": pl.Float32}
    assert frame["embedding"].to_numpy().tolist() == matrix(users).tolist()
    world.write("interactions", {"user_id": [1, 1], "item_id": [3, 4], "timestamp": timestamps([HOUR, 2 * HOUR])})
    world.write("candidates", {"user_id": [1], "item_id": [5], "timestamp": timestamps([9 * HOUR])})
    text = '[embeddings.text]\npath = "users.parquet"\ncolumns.item = "user_id"\n[[aggregate]]\nhalf_lives = ["none"]\n'
    row = run_spec(world.spec(text)).row(0, named=True)
    unit = matrix(users) / np.linalg.norm(matrix(users), axis=1)[:, None]
    assert row["text__all__cos_mean"] == pytest.approx((unit[3] + unit[4]) @ unit[5] / 2, abs=1e-6)


def test_every_page_has_a_checksum(world: World) -> None:
    made(world)
    path = world.folder / "users.parquet"
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(1)
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)checksum|crc"):
        pq.read_table(path, page_checksum_verification=True)


# --- what is told ------------------------------------------------------------------------------------


def test_metadata_says_what_the_vectors_are(world: World) -> None:
    made(world, 'target = "rating - 3"\nregularization = 2.5\nbias = true', top='lag = "1h"')
    text = pq.read_schema(world.folder / "users.parquet").metadata[b"extembed"].decode()
    about = json.loads(text)
    assert about["version"] == extembed_cli.__version__
    assert about["as_of_us"] == newest(world) + 1
    assert about["spec"]["lag"] == "1h"
    assert about["spec"]["dual"][0]["regularization"] == 2.5
    assert set(about["inputs"]) == {"interactions", "embeddings"}
    assert about["inputs"]["interactions"]["rows"] == 600
    for part in ("u·x", "rating - 3", "2.5", "`all` in `text`", "constant 1"):
        assert part in about["meaning"]
    assert str(world.folder) not in text and "users.parquet" not in text


def test_the_report_stands_beside_the_file_where_there_are_no_candidates(world: World) -> None:
    report = run(alone(world))
    assert {path.name for path in world.folder.iterdir()} == {
        *("interactions.parquet", "candidates.parquet", "text.parquet", "vectors.toml"),
        *("users.parquet", "users.parquet.run.json"),
    }
    assert report == json.loads((world.folder / "users.parquet.run.json").read_text())
    assert report["output"] is None and report["output_sha256"] is None
    (file,) = report["user_vectors"]
    assert (file["path"], file["rows"]) == (str(world.folder / "users.parquet"), 30)
    assert file["sha256"] == extembed_cli.data.commit.file_digest(world.folder / "users.parquet")
    assert (report["rows_in"], report["rows_out"]) == (0, 0)
    assert report["inputs"]["interactions"]["used"] == 600
    assert report["dual"]["systems"] == report["dual"]["primal_solves"] + report["dual"]["dual_solves"] == 30
    assert set(report["seconds_by_technique"]) == {"dual"}


def test_the_report_of_a_run_without_candidates_lists_no_columns(world: World) -> None:
    report = run(alone(world))
    assert (report["columns"], report["column_names"]) == (0, [])


def test_the_report_stands_beside_the_features_where_there_are_candidates(world: World) -> None:
    report = run(world.spec('[[dual]]\nuser_vectors = "users.parquet"\n'))
    assert report == json.loads((world.folder / "out.parquet.run.json").read_text())
    assert report["user_vectors"][0]["rows"] == 30
    assert not (world.folder / "users.parquet.run.json").exists()


def test_flags_and_a_spec_make_the_same_bytes(world: World) -> None:
    made(world, 'half_life = "9d"\ntarget = "rating - 3"\nbias = true\nrefit_every = "1d"', top='lag = "1h"')
    expected = (world.folder / "users.parquet").read_bytes()
    flags = ["--half-life", "9d", "--target", "rating - 3", "--bias", "--refit-every", "1d", "--lag", "1h"]
    ran = extembed(*FLAGS, *flags, "--json", cwd=world.folder).ok()
    assert (world.folder / "users.parquet").read_bytes() == expected
    assert json.loads(ran.out) == json.loads((world.folder / "users.parquet.run.json").read_text())
    assert "users.parquet: 30 user vectors" in ran.err.splitlines()[0]
    assert len(ran.err.splitlines()) == 2


def test_flags_of_the_moment_and_of_the_history(world: World) -> None:
    flags = ["--as-of", "2023-12-20 06:00", "--lag", "2h", "--window", "30d", "--max-events", "4", "--center"]
    extembed(*FLAGS, *flags, "--history", "liked=rating >= 4", cwd=world.folder).ok()
    history = ReferenceHistory(LIKED.where, "30d", 4)
    as_of = micros("2023-12-20T06:00")
    users = world.table("users")
    check(world, users, ReferenceFit(), as_of=as_of, history=history, lag="2h", table={"center": True})


def test_streams(world: World) -> None:
    quiet = extembed(*FLAGS, "-q", cwd=world.folder).ok()
    assert quiet.out == quiet.err == ""
    verbose = extembed(*FLAGS, "-v", cwd=world.folder).ok()
    assert verbose.out == ""
    for part in ("compute ...", "of which dual", "users.parquet: 30 user vectors", "30 fits", "relative residual"):
        assert part in verbose.err


def test_a_dry_run_names_the_file_and_writes_nothing(world: World) -> None:
    before = {path.name for path in world.folder.iterdir()}
    shown = extembed(*FLAGS, "--dry-run", cwd=world.folder).ok()
    plan = extembed(*FLAGS, "--dry-run", "--json", cwd=world.folder).ok().json
    assert {path.name for path in world.folder.iterdir()} == before
    assert shown.err == ""
    for part in ("600 rows", "user vectors  ", "users.parquet", "30 dual fits"):
        assert part in shown.out
    assert plan["user_vectors"] == [str(world.folder / "users.parquet")]
    assert (plan["output"], plan["systems"], plan["rows_out"]) == (None, 30, 0)
    assert plan["estimated_memory_bytes"] > 0


def test_the_plan_of_a_run_without_candidates_lists_no_columns(world: World) -> None:
    plan = extembed(*FLAGS, "--dry-run", "--json", cwd=world.folder).ok().json
    assert plan["columns"] == []


def test_check_and_columns_of_a_spec_without_candidates(world: World) -> None:
    spec = alone(world)
    shown = extembed("check", spec).ok()
    assert "600 rows" in shown.out and "no problems found" in shown.out
    assert not (world.folder / "users.parquet").exists()
