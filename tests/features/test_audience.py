"""`side = "item"`: the history of a candidate's item, the vectors of users, and counters of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, soak, timestamps, vectors
from helpers.aggregate_loop import micros
from helpers.outputs import LAYOUTS, ran, same
from helpers.reference import Event, ReferenceHistory, unit_vectors
from helpers.reference_targets import target_columns

from extembed_cli.jobs.layout import Layout

pytestmark = pytest.mark.usefixtures("engine")

HOUR, START = 3_600_000_000, 1_700_000_000_000_000
USERS, ITEMS, DIM = 12, 9, 5
SWAPPED = {"user_id": "item_id", "item_id": "user_id"}
HISTORIES = """
[histories.liked]
where = "rating >= 3"
[histories.recent]
window = "60h"
max_events = 6
"""
KEYS = """half_lives = ["20h", "none"]
percentiles = [10, 50]
thresholds = [0.0, 0.3]
temperatures = [0.1]
top = [2]
sd = true
target = "rating"
"""


def write(folder: Path, *, swapped: bool = False, seed: int = 0) -> World:
    """Write a log in which users come back to items, candidates, and a table of each side."""
    world, rng = World(folder), np.random.default_rng(seed)
    n, q = 240, 110
    tables: dict[str, dict[str, Any]] = {
        "interactions": {
            "user_id": rng.integers(0, USERS, n),
            "item_id": rng.integers(0, ITEMS, n),
            "timestamp": timestamps(START + rng.integers(0, 150, n) * HOUR),
            "rating": pa.array([None if rng.random() < 0.2 else float(r) for r in rng.integers(1, 6, n)], pa.float64()),
            "weight": rng.integers(1, 4, n).astype(float),
        },
        "candidates": {
            "user_id": rng.integers(0, USERS + 1, q),
            "item_id": rng.integers(0, ITEMS + 1, q),
            "timestamp": timestamps(START + rng.integers(20, 170, q) * HOUR),
        },
        "users": {"user_id": np.arange(1, USERS), "embedding": vectors(rng.standard_normal((USERS - 1, DIM)))},
        "items": {"item_id": np.arange(ITEMS - 1), "embedding": vectors(rng.standard_normal((ITEMS - 1, DIM)))},
    }
    for name, columns in tables.items():
        world.write(name, {SWAPPED.get(key, key) if swapped else key: column for key, column in columns.items()})
    return world


def spec(world: World, groups: str, *, top: str = 'weight = "weight"\n') -> Path:
    """Write a spec with a table of items, or in a swapped world of both sides, and one of users."""
    path = world.folder / "spec.toml"
    inputs = 'interactions = "interactions.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
    path.write_text(f"{inputs}{top}{HISTORIES}{groups}")
    return path


OF_USERS = '[user_embeddings.v]\npath = "users.parquet"\n'


def group(side: str, keys: str = "", technique: str = "aggregate") -> str:
    own = "own = true\n" if side == "item" else ""
    return f'[[{technique}]]\nside = "{side}"\n{own}{keys}'


def fits(side: str, residual: str) -> str:
    """Return fits of both losses; one writes vectors."""
    squared = f'target = "rating"\nsd = true\nunobserved_weight = 0.1\nhalf_life = "50h"\n{residual}'
    vectors_of = f'name = "v"\nhistories = ["recent"]\nbias = true\n{side}_vectors = "{side}s.out.parquet"\n'
    logistic = 'name = "l"\nloss = "logistic"\ntarget = "rating - 3"\n'
    return "".join(group(side, keys, "dual") for keys in (squared, vectors_of, logistic))


@pytest.mark.parametrize(
    ("residual", "swapped"),
    [
        soak("", "", id="target"),
        pytest.param('residual = "item"\n', 'residual = "user"\n', id="item"),
        soak('residual = "user"\n', 'residual = "item"\n', id="user"),
    ],
)
def test_a_transposed_log_with_swapped_sides_gives_the_same_bytes(tmp_path: Path, residual: str, swapped: str) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other", swapped=True)
    counters = group("item", f'name = "x"\ntarget = "rating"\n{residual}', "counters")
    mine = run_spec(spec(one, f"{OF_USERS}{group('item', KEYS + residual)}{counters}{fits('item', residual)}"))
    table = '[embeddings.v]\npath = "users.parquet"\n'
    counters = group("user", f'name = "x"\ntarget = "rating"\n{swapped}', "counters")
    theirs = run_spec(spec(other, f"{table}{group('user', KEYS + swapped)}{counters}{fits('user', swapped)}"))
    names = [name for name in mine.columns if "item_" in name and name != "item_id"]
    assert len(names) > 60
    for name in names:
        assert mine[name].equals(theirs[name.replace("item_", "", 1)], null_equal=True), name
    vectors_of = [pl.read_parquet(w.folder / f"{side}s.out.parquet") for w, side in ((one, "item"), (other, "user"))]
    assert vectors_of[0].columns == ["item_id", "embedding", "bias"]
    assert vectors_of[0].rename({"item_id": "user_id"}).equals(vectors_of[1])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return write(tmp_path)


BOTH = f"""
{OF_USERS}
[embeddings.text]
path = "items.parquet"
[[aggregate]]
{KEYS}residual = "item+user"
[[aggregate]]
side = "item"
{KEYS}residual = "item+user"
[[aggregate]]
name = "all"
side = "item"
own = true
histories = ["all"]
[[counters]]
name = "c"
side = "item"
target = "rating"
residual = "user"
[[dual]]
side = "item"
target = "rating"
residual = "item+user"
[[dual]]
target = "rating"
residual = "item+user"
"""


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.local
def test_both_sides_have_the_same_bytes_in_any_layout(world: World, layout: Layout) -> None:
    path = spec(world, BOTH)
    same(ran(path, 1, Layout()), ran(path, 2, layout))


def test_a_column_does_not_depend_on_the_groups_of_the_other_side(world: World) -> None:
    both = run_spec(spec(world, BOTH))
    alone = run_spec(spec(world, BOTH[: BOTH.index("[[aggregate]]\nside")]))
    names = [name for name in alone.columns if "__" in name]
    assert len(names) > 30
    assert both.select(names).equals(alone.select(names), null_equal=True)
    item = run_spec(spec(world, OF_USERS + BOTH[BOTH.index("[[aggregate]]\nside") : BOTH.index("[[aggregate]]\nname")]))
    names = [name for name in item.columns if "__" in name]
    assert both.select(names).equals(item.select(names), null_equal=True)


def logged(world: World) -> tuple[list[Event], dict[int, float | None]]:
    """Return the events with the roles swapped: the item owns them."""
    rows = sorted(
        world.table("interactions").to_pylist(),
        key=lambda r: (r["timestamp"], r["user_id"], r["weight"], r["rating"] is None, r["rating"]),
    )
    events = [
        Event(r["item_id"], r["user_id"], micros(r["timestamp"]), r["weight"], {"rating": r["rating"]}) for r in rows
    ]
    return events, {i: r["rating"] for i, r in enumerate(rows)}


@pytest.mark.parametrize("own", [False, True])
def test_columns_are_those_of_a_loop_with_swapped_roles(world: World, own: bool) -> None:
    histories = {
        "liked": ReferenceHistory(lambda e: e.values["rating"] is not None and e.values["rating"] >= 3),
        "recent": ReferenceHistory(window="60h", max_events=6),
    }
    keys = f'side = "item"\nown = {str(own).lower()}\n{KEYS}'
    output = run_spec(spec(world, f"{OF_USERS}[[aggregate]]\n{keys}"))
    events, values = logged(world)
    vectors_of = unit_vectors({r["user_id"]: r["embedding"] for r in world.table("users").to_pylist()})
    arguments = {"temperatures": (0.1,), "thresholds": (0.0, 0.3), "top": (2,), "half_lives": ("20h", "none")}
    repeats = 0
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        user, item, now = candidate["user_id"], candidate["item_id"], micros(candidate["timestamp"])
        kept = [i for i, e in enumerate(events) if own or not (e.user == item and e.item == user)]
        repeats += any(e.user == item and e.item == user and e.time < now for e in events)
        log, said = [events[i] for i in kept], {place: values[i] for place, i in enumerate(kept)}
        expected = target_columns(log, said, [(item, user, now)], vectors_of, histories, **arguments)
        seen = [e for e in log if e.user == item and e.time < now and histories["liked"].where(e)]
        assert output["item_liked__count"][row] == len(seen)
        for name, [value] in expected.items():
            table, *rest = name.split("__")
            if table in histories:
                place = f"item_{name}"
            else:
                history, statistic, *suffix = rest
                place = "__".join(["v", history, f"item_{statistic}", *suffix])
            actual = output[place][row]
            assert (actual is None) == (value is None), (place, row, actual, value)
            if value is not None:
                assert abs(actual - value) <= 2e-5 * max(1.0, abs(value)), (place, row)
    assert repeats > 20


def test_later_events_change_no_byte(world: World) -> None:
    path = spec(world, BOTH)
    before = run_spec(path)
    events = pl.from_arrow(world.table("interactions"))
    assert isinstance(events, pl.DataFrame)
    cut = pl.lit(START + 90 * HOUR)
    late = pl.col("timestamp").cast(pl.Int64) >= cut
    changed = events.with_columns(rating=pl.when(late).then(1.0).otherwise("rating"))
    more = changed.filter(late).with_columns(user_id=pl.lit(3, pl.Int64))
    world.write("interactions", pl.concat([changed, more]).to_arrow())
    after = run_spec(path)
    early = before["timestamp"].cast(pl.Int64) <= START + 90 * HOUR
    assert 20 < early.sum() < len(before)
    assert before.filter(early).equals(after.filter(early), null_equal=True)
    assert not before.equals(after, null_equal=True)


def test_item_counters_need_no_table(world: World) -> None:
    output = run_spec(spec(world, '[[counters]]\nside = "item"\nown = true\nhalf_lives = ["none"]\n', top=""))
    log = pl.from_arrow(world.table("interactions"))
    rows = output.with_row_index("row")
    joined = rows.join(log.select("item_id", at="timestamp", said="rating"), on="item_id").filter(
        (pl.col("at") < pl.col("timestamp")) & (pl.col("said") >= 3)
    )
    counts = rows.select("row").join(joined.group_by("row").len(), on="row", how="left")["len"].fill_null(0)
    assert output["item_liked__count"].to_list() == counts.to_list()
    assert {name for name in output.columns if "__" in name} == {
        f"item_{history}__{name}"
        for history in ("liked", "recent")
        for name in ("count", "age_last_s", "decayed_count")
    }


@pytest.mark.parametrize(
    ("groups", "parts"),
    [
        ('[[aggregate]]\nside = "item"\nembeddings = ["v"]\n', ("aggregate.0.embeddings", "use `user_embeddings`")),
        ('[[aggregate]]\nuser_embeddings = ["v"]\n', ("aggregate.0.user_embeddings", 'side = "item"')),
        ("[[counters]]\nown = true\n", ("counters.0.own", 'side = "item"')),
        ('[[aggregate]]\nside = "item"\nuser_embeddings = ["w"]\n', ("aggregate.0.user_embeddings", "`w`", "known: v")),
        ('[[dual]]\nside = "item"\nuser_vectors = "u.parquet"\n', ("dual.0.user_vectors", "use `item_vectors`")),
        ('[embeddings.w]\npath = "items.parquet"\n[[dual]]\nitem_vectors = "i.parquet"\n', ("dual.0.item_vectors",)),
        ('[[counters]]\nside = "items"\n', ("counters.0.side", "'user'", "'item'")),
        (
            '[embeddings.v]\npath = "items.parquet"\n[[aggregate]]\n',
            ("user_embeddings.v", "use another name"),
        ),
        (
            '[[counters]]\nside = "item"\n[[counters]]\nside = "item"\nown = true\n',
            ("two groups define the column `item_liked__count` differently", "without those of the user"),
        ),
    ],
)
def test_wrong_keys_are_refused(world: World, groups: str, parts: tuple[str, ...]) -> None:
    extembed("run", spec(world, f"{OF_USERS}{groups}")).failed(2, *parts)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (
            {"user_id": [1, 1], "embedding": vectors(np.ones((2, DIM)))},
            ("user_embeddings v", "share a user id", "[user_embeddings.v]"),
        ),
        (
            {"user_id": [1, 2], "embedding": vectors(np.zeros((2, DIM)))},
            ("user_embeddings v", "user_id 1, 2", "those users"),
        ),
        (
            {"id": [1], "embedding": vectors(np.ones((1, DIM)))},
            ("user_embeddings v", "user_id", "--set user_embeddings.v.columns.user=NAME"),
        ),
        ({"user_id": ["a"], "embedding": vectors(np.ones((1, DIM)))}, ("text", "user")),
    ],
    ids=["twice", "zero", "missing", "text ids"],
)
def test_bad_tables_of_users_are_refused(world: World, damage: dict[str, Any], parts: tuple[str, ...]) -> None:
    pq.write_table(pa.table(damage), world.folder / "users.parquet")
    done = extembed("run", spec(world, f'{OF_USERS}[[aggregate]]\nside = "item"\n'))
    assert done.code in (1, 2)
    for part in parts:
        assert part in done.err


OF_MOMENTS = '[user_embeddings.v]\npath = "moments.parquet"\ncolumns.time = "since"\n'


def write_moments(world: World, seed: int = 7) -> list[dict[str, Any]]:
    """Write a table of users whose vectors change, in any order of rows; one row in eight is bad."""
    rng = np.random.default_rng(seed)
    keys = np.unique(np.column_stack([rng.integers(0, USERS, 60), rng.integers(0, 170, 60)]), axis=0)
    rng.shuffle(keys)
    table = rng.standard_normal((len(keys), DIM))
    table[::8] = 0
    since = START + keys[:, 1] * HOUR
    world.write("moments", {"user_id": keys[:, 0], "since": timestamps(since), "embedding": vectors(table)})
    return [{"user": u, "since": int(t), "vector": v} for u, t, v in zip(keys[:, 0], since, table, strict=True)]


@pytest.mark.parametrize("lag", [0, 7])
def test_a_vector_counts_from_its_time_on(world: World, lag: int) -> None:
    """The cosines are those of each event's user and of the candidate's, each as of their own times."""
    rows = write_moments(world)
    table = OF_MOMENTS + 'bad_vectors = "missing"\n'
    keys = '[[aggregate]]\nside = "item"\nown = true\nhistories = ["all"]\nhalf_lives = ["none"]\npercentiles = []\n'
    path = spec(world, f"{table}{keys}top = [1]\n", top=f'lag = "{lag}h"\n')
    output = run_spec(path)
    same(ran(path, 1, Layout()), ran(path, 2, Layout(shards=3, mapped=True)))

    def vector(user: int, now: int) -> np.ndarray | None:
        known = [row for row in rows if row["user"] == user and row["since"] < now - lag * HOUR]
        newest = max(known, key=lambda row: row["since"])["vector"] if known else np.zeros(DIM)
        return newest / np.linalg.norm(newest) if newest.any() else None

    log = world.table("interactions").to_pylist()
    seen = 0
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        now = micros(candidate["timestamp"])
        mine = vector(candidate["user_id"], now)
        others = [
            vector(e["user_id"], micros(e["timestamp"]))
            for e in log
            if e["item_id"] == candidate["item_id"] and micros(e["timestamp"]) < now - lag * HOUR
        ]
        known = [each for each in others if each is not None]
        assert output["v__all__item_vector_count"][row] == len(known)
        mean = output["v__all__item_cos_mean"][row]
        if mine is None or not known:
            assert mean is None
        else:
            seen += 1
            assert abs(mean - np.mean([mine @ each for each in known])) < 2e-5
            assert abs(output["v__all__item_cos_max"][row] - max(mine @ each for each in known)) < 2e-5
    assert seen > 30


def test_a_fit_of_items_needs_a_table_of_users(world: World) -> None:
    path = spec(world, '[[dual]]\nside = "item"\n')
    extembed("run", path).failed(2, '`user_embeddings` is missing: [[dual]] with side = "item" needs a table of users')


def test_rows_of_one_user_and_time_are_refused(world: World) -> None:
    write_moments(world)
    twice = pa.concat_tables([world.table("moments"), world.table("moments").slice(3, 1)])
    world.write("moments", twice)
    done = extembed("run", spec(world, f'{OF_MOMENTS}bad_vectors = "missing"\n[[aggregate]]\nside = "item"\n'))
    done.failed(1, "user_embeddings v", "2 rows share a user id and a time")


def test_a_later_vector_changes_no_byte(world: World) -> None:
    write_moments(world)
    path = spec(world, f'{OF_MOMENTS}bad_vectors = "missing"\n{group("item", KEYS)}{group("item", "", "dual")}')
    before = run_spec(path)
    cut = START + 90 * HOUR
    moments = pl.from_arrow(world.table("moments"))
    assert isinstance(moments, pl.DataFrame)
    late = pl.col("since").cast(pl.Int64) >= cut
    world.write(
        "moments",
        moments.with_columns(user_id=pl.when(late).then(11 - pl.col("user_id")).otherwise("user_id")).to_arrow(),
    )
    after = run_spec(path)
    early = before["timestamp"].cast(pl.Int64) <= cut
    assert before.filter(early).equals(after.filter(early), null_equal=True)
    assert not before.equals(after, null_equal=True)


def test_a_spec_of_items_alone_counts_items(world: World) -> None:
    path = spec(world, '[[counters]]\nside = "item"\n', top="")
    items = len(set(world.table("candidates")["item_id"].to_pylist()))
    assert f"110 rows, {items} items" in extembed("check", path).ok().out
    report = extembed("run", path, "--json").ok().json
    assert report["inputs"]["candidates"]["items"] == items
    assert "of_items_without_candidates" in report["inputs"]["interactions"]
