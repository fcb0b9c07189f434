"""`extembed explain` as a function: its values are those of a run, and what it lists gives these values again."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, extembed, run_spec, soak, timestamps, vectors
from features.test_audience import HOUR, START, write
from helpers.drawn import WORLDS, Small
from helpers.explained import explained, recombines, same_as_run
from helpers.refusals import contents
from hypothesis import given

from extembed_cli.features.aggregate.explanations import OUTCOMES
from extembed_cli.features.aggregate.statistics import COSINES
from extembed_cli.jobs.explained_schema import ExplainedRow
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.one_candidate import Given

EVERYTHING = """
interactions = "interactions.parquet"
candidates = "candidates.parquet"
output = "out.parquet"
weight = "weight"
lag = "2h"
as_of_step = "3h"
[within]
by = "request"
columns = ["text__all__cos_m*", "v__all__item_cos_max", "all__count"]
[embeddings.text]
path = "items.parquet"
[user_embeddings.v]
path = "users.parquet"
normalize = false
[user_embeddings.d]
from = {embedding = "text", history = "liked", half_life = "50h", target = "rating", residual = "user"}
[histories.liked]
where = "rating >= 3"
[histories.recent]
window = "60h"
max_events = 6
[[aggregate]]
histories = ["all", "liked", "recent"]
half_lives = ["20h", "none"]
percentiles = [5, 50, 99]
thresholds = [0.0, 0.3]
top = [2]
sd = true
[[aggregate]]
name = "said"
histories = ["all", "recent"]
half_lives = ["20h"]
percentiles = [50]
thresholds = [0.3]
temperatures = [0.1]
top = [2]
target = "rating"
residual = "item+user"
center = true
[[aggregate]]
side = "item"
histories = ["all", "liked", "recent"]
half_lives = ["20h"]
percentiles = [50]
thresholds = [0.3]
temperatures = [0.1]
top = [2]
target = "rating"
residual = "user"
[[aggregate]]
name = "own"
side = "item"
own = true
histories = ["all"]
user_embeddings = ["d"]
[[counters]]
name = "c"
target = "rating"
residual = "item"
[[direct]]
embeddings = ["text"]
[[dual]]
sd = true
target = "rating"
residual = "item"
[[dual]]
name = "decay"
half_life = "40h"
unobserved_weight = 0.1
bias = true
sd = true
user_vectors = "users.out.parquet"
histories = ["all"]
[[dual]]
name = "logistic"
loss = "logistic"
target = "rating - 3"
sd = true
[[dual]]
name = "scaled"
scaling = 1.0
refit_every = "1d"
half_life = "10h"
histories = ["recent"]
[[dual]]
side = "item"
user_embeddings = ["v"]
target = "rating"
[[dual]]
side = "all"
histories = ["all"]
sd = true
bias = true
"""
TABLES = {"text": "text", "v": "v", "d": "d"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides a spec with every technique but the neural one over dirty inputs, and its output."""
    world = write(tmp_path_factory.mktemp("everything"))
    rng, candidates = np.random.default_rng(3), world.table("candidates").to_pydict()
    rows = len(candidates["user_id"])
    requests = [None if rng.random() < 0.1 else int(number) for number in rng.integers(0, 25, rows)]
    shared: dict[int, Any] = {}
    for row, request in enumerate(requests):  # those of a request share a time
        if request is not None:
            candidates["timestamp"][row] = shared.setdefault(request, candidates["timestamp"][row])
    candidates["user_id"][0::13] = [None] * len(candidates["user_id"][0::13])
    candidates["item_id"][5::13] = [None] * len(candidates["item_id"][5::13])
    world.write("candidates", {**candidates, "request": requests})
    events = world.table("interactions").to_pydict()
    for first, column, bad in ((0, "weight", None), (3, "weight", 0.0), (5, "item_id", None), (7, "user_id", None)):
        events[column][first::17] = [bad] * len(events[column][first::17])
    world.write("interactions", events)
    spec = world.folder / "spec.toml"
    spec.write_text(EVERYTHING)
    run_spec(spec)
    return spec


def output_of(spec: Path) -> pl.DataFrame:
    return pl.read_parquet(spec.parent / "out.parquet")


@pytest.mark.parametrize("row", [27, *map(soak, [0, 5, *range(1, 110, 4)])])
def test_values_are_those_of_a_run_to_the_byte(everything: Path, row: int) -> None:
    """Row 0 has no user, row 5 no item."""
    before = contents(everything.parent)
    found = explained(everything, row)
    output = output_of(everything)
    assert [column.name for column in found.columns] == output.columns[4:]
    same_as_run(found, output, row)
    centred = [column for column in found.columns if "__said_" in column.name]
    recombines(found.model_copy(update={"columns": centred}), {"text": "text (centred)"})
    rest = [column for column in found.columns if column not in centred]
    checked = recombines(found.model_copy(update={"columns": rest}), TABLES)
    if row == 27:
        assert (len(checked), len(found.histories)) == (12, 7)
    assert contents(everything.parent) == before


@given(world=WORLDS)
def test_listed_events_give_the_values_again(world: Small) -> None:
    with tempfile.TemporaryDirectory() as name:
        spec = world.write(Path(name))
        output = run_spec(spec)
        row = world.seed % len(output)
        found = explained(spec, row)
        same_as_run(found, output, row)
        raw = [column for column in found.columns if "__user_" in column.name]  # the other groups are centred
        recombines(found.model_copy(update={"columns": raw}), {"text": "text"})
        rest = [column for column in found.columns if column not in raw]
        recombines(found.model_copy(update={"columns": rest}), {"text": "text (centred)"})


@pytest.mark.soak
@pytest.mark.parametrize("layout", [Layout(shards=3, rows=50), Layout(mapped=True)])
def test_values_are_the_same_where_memory_is_short(everything: Path, layout: Layout) -> None:
    found = explained(everything, 27, layout=layout)
    same_as_run(found, output_of(everything), 27)
    assert found == explained(everything, 27)


def test_a_candidate_that_no_file_has_is_computed_alone(everything: Path, tmp_path: Path) -> None:
    for name in ("interactions", "users", "items"):
        shutil.copy(everything.parent / f"{name}.parquet", tmp_path)
    at = datetime(2023, 11, 18, 6, 13, 20, tzinfo=UTC)
    spec = tmp_path / "spec.toml"
    spec.write_text(EVERYTHING.replace('by = "request"', 'by = "user_id"'))  # there are no candidates yet
    found = explained(spec, Given("4", "3", at.isoformat()))
    assert found.candidate.row is None
    assert (found.candidate.user, found.candidate.item) == (4, 3)
    assert found.candidate.as_of == "2023-11-18T06:00:00+00:00"
    assert found.candidate.sees_before == "2023-11-18T04:00:00+00:00"
    assert found.notes == ["columns within a request need its other candidates; --row explains them, too"]
    World(tmp_path).write("candidates", {"user_id": [4], "item_id": [3], "timestamp": [at]})
    output = run_spec(spec)
    assert [column.name for column in found.columns] == [name for name in output.columns[3:] if "within" not in name]
    same_as_run(found, output, 0)


def test_every_statistic_says_how_it_comes_out() -> None:
    assert list(OUTCOMES) == list(COSINES)


# --- which events are visible ------------------------------------------------------------------------


def shop(folder: Path, top: str = "", groups: str = "[[aggregate]]\n") -> Path:
    """Write a log of one user with an event of each kind, and one candidate at hour 100.5."""
    world = World(folder)
    hours = [10, 60, 70, 80, 90, 97, 99, 100, 101, 95, 94, 93]
    world.write(
        "interactions",
        {
            "user_id": [1] * len(hours),
            "item_id": pa.array([1, 2, 3, 4, 5, 6, 1, 2, 3, None, 7, 8], pa.int64()),
            "timestamp": timestamps(START + np.array(hours) * HOUR),
            "rating": [5, 1, 5, 5, 4, 5, 5, 5, 5, 5, 5, 5],
            "weight": pa.array([1.0] * 10 + [None, 0.0], pa.float64()),
        },
    )
    world.write(
        "candidates",
        {"user_id": [1], "item_id": [1], "timestamp": timestamps([START + int(100.5 * HOUR)])},
    )
    world.write("text", {"item_id": np.arange(1, 6), "embedding": vectors(np.eye(5))})
    return world.spec(
        f'weight = "weight"\n{top}[histories.liked]\nwhere = "rating >= 4"\nwindow = "50h"\nmax_events = 2\n{groups}'
    )


def reasons(found: ExplainedRow, history: int = 0) -> dict[str, int]:
    return {hidden.reason: hidden.events for hidden in found.histories[history].hidden}


def test_every_event_that_is_not_visible_has_its_reason(tmp_path: Path) -> None:
    found = explained(shop(tmp_path, 'lag = "2h"\nas_of_step = "4h"\n'), 0)
    assert reasons(found) == {
        "null item": 1,
        "null weight": 1,
        "weight 0": 1,
        "at or after the candidate's time": 1,
        "at or after the as-of time, which as_of_step = 4h floors": 2,
        "younger than lag = 2h": 1,
        "older than window = 50h": 1,
        "where = 'rating >= 4' is not true": 1,
        "older than the newest max_events = 2": 1,
    }
    [history] = found.histories
    assert (history.rows, history.visible) == (12, 2)
    assert [event.partner for event in history.events] == [5, 4]


def test_the_audience_of_an_item_is_without_its_own_user(world: World) -> None:
    groups = '[user_embeddings.v]\npath = "users.parquet"\n[[aggregate]]\nside = "item"\nhistories = ["all"]\n'
    world.write("users", {"user_id": np.arange(30), "embedding": vectors(np.eye(30))})
    event = world.table("interactions").to_pylist()[7]
    later = event["timestamp"] + timedelta(days=60)
    spec = world.spec(groups)
    found = explained(spec, Given(str(event["user_id"]), str(event["item_id"]), later.isoformat()))
    both = world.table("interactions").to_pylist()
    own = sum((e["user_id"], e["item_id"]) == (event["user_id"], event["item_id"]) for e in both)
    assert reasons(found) == {"of the candidate's own user": own}
    assert event["user_id"] not in [each.partner for each in found.histories[0].events]
    assert not found.histories[0].own


def test_all_events_of_an_hour_are_listed_the_newest_first(tmp_path: Path) -> None:
    found = explained(shop(tmp_path, groups='[[aggregate]]\nhistories = ["all"]\nhalf_lives = ["10h"]\n'), 0)
    [history] = found.histories
    assert [event.partner for event in history.events] == [2, 1, 6, 5, 4, 3, 2, 1]
    assert history.events[0].age_s == 1800
    assert history.events[0].time == "2023-11-19T02:13:20+00:00"
    assert [event.vector["text"] for event in history.events] == [True, True, False, True, True, True, True, True]
    assert "text" in history.events[1].cosine and history.events[2].cosine["text"] is None
    assert history.events[0].decayed_weight == {"10h": 1.0}
    assert np.isclose(history.events[1].decayed_weight["10h"] or 0, 2**-0.1)


# --- why a value is null -----------------------------------------------------------------------------

DUAL = '[[dual]]\nhistories = ["all"]\n'
EARLY, LATE = "2020-01-01", "2023-11-20"


@pytest.mark.parametrize(
    ("item", "at", "groups", "column", "how"),
    [
        ("1", EARLY, "[[aggregate]]\n", "text__liked__cos_max", "no event is visible"),
        ("1", EARLY, "[[aggregate]]\n", "liked__age_last_s", "no event is visible"),
        ("6", LATE, "[[aggregate]]\n", "text__liked__cos_max", "item 6 has no vector in `text`"),
        (
            "1",
            "2023-11-18T23:20:00",  # hour 97.1
            '[[aggregate]]\n[histories.last]\nwindow = "1h"\n',
            "text__last__cos_p50__hl30d",
            "no visible event has a vector of its item in `text`",
        ),
        (
            "1",
            LATE,
            '[[aggregate]]\nhistories = ["all"]\ntarget = "CASE WHEN rating > 9 THEN 1.0 END"\n',
            "all__target_mean__hl30d",
            "no visible event has y = CASE WHEN rating > 9 THEN 1.0 END",
        ),
        (
            "1",
            LATE,
            '[[aggregate]]\nhistories = ["all"]\ntarget = "CASE WHEN rating > 9 THEN 1.0 END"\n',
            "text__all__target_kernel_mean_t010__hl30d",
            "no visible event has y = CASE WHEN rating > 9 THEN 1.0 END and a vector",
        ),
        ("1", EARLY, DUAL, "text__all__dual_score", "no event is visible"),
        ("6", LATE, DUAL, "text__all__dual_score", "item 6 has no vector in `text`"),
        (
            "1",
            LATE,
            DUAL + 'target = "CASE WHEN rating > 9 THEN 1.0 END"\n',
            "text__all__dual_score",
            "no visible event has y = CASE WHEN rating > 9 THEN 1.0 END and a vector",
        ),
        (
            "1",
            "2023-11-16",
            DUAL + 'refit_every = "5w"\n',
            "text__all__dual_score",
            "no event is before 2023-11-09 00:00:00, when it was fitted",
        ),
        (
            "1",
            EARLY,
            DUAL + 'side = "all"\n',
            "text__all__all_dual_score",
            "no event of `all` of all users whose item has a vector is seen before 2020-01-01 00:00:00",
        ),
        ("6", LATE, DUAL + 'side = "all"\n', "text__all__all_dual_score", "item 6 has no vector in `text`"),
        ("1", LATE, "[[direct]]\n", "v__text__cos", "the user has no vector in `v`"),
        (
            "6",
            LATE,
            "[[direct]]\n",
            "v__text__dot",
            "the user has no vector in `v` and item 6 has no vector in `text`",
        ),
    ],
)
@pytest.mark.few(7)
def test_a_null_says_why(tmp_path: Path, item: str, at: str, groups: str, column: str, how: str) -> None:
    World(tmp_path).write("users", {"user_id": [5], "embedding": vectors(np.eye(5)[:1])})
    if "direct" in groups:
        groups += '[user_embeddings.v]\npath = "users.parquet"\n'
    found = explained(shop(tmp_path, groups=groups), Given("1", item, at), column)
    assert [(each.name, each.value, each.how) for each in found.columns] == [(column, None, how)]


def test_a_null_says_that_there_is_no_mean_and_nothing_similar(tmp_path: Path) -> None:
    group = '[[aggregate]]\nhistories = ["two"]\nhalf_lives = ["none"]\nthresholds = [0.9]\ntarget = "rating"\n'
    spec = shop(tmp_path, groups=f'[histories.two]\nwhere = "item_id < 3"\nmax_events = 2\n{group}')
    World(tmp_path).write("text", {"item_id": [1, 2, 9], "embedding": vectors([[1.0, 0], [-1.0, 0], [0, 1.0]])})
    found = explained(spec, Given("1", "9", LATE), "text__two__cos_to_mean", "text__two__target_share_ge_090")
    assert [(column.value, column.how) for column in found.columns] == [
        (None, "m = Σ w v / Σ w has no direction: its length is the rounding of the vectors"),
        (None, "Σ w y / Σ w: 0 of 2 events have y and reach 0.9"),
    ]


# --- ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "binary", "uuid", "uint64", "dictionary"])
@pytest.mark.few(2)
def test_ids_are_given_and_shown_in_their_own_type(world: World, kind: str) -> None:
    def ids(numbers: pa.ChunkedArray) -> pa.Array:
        plain = numbers.to_pylist()
        if kind == "uint64":
            return pa.array([2**63 + n for n in plain], pa.uint64())
        if kind == "uuid":
            return pa.array([uuid.UUID(int=n).bytes for n in plain], pa.uuid())
        if kind == "binary":
            return pa.array([bytes([n, 255]) for n in plain])
        texts = pa.array([f"user {n}\n" for n in plain])
        return texts.dictionary_encode() if kind == "dictionary" else texts

    user = {
        "text": "user 3\n",
        "dictionary": "user 3\n",
        "binary": "03ff",
        "uuid": str(uuid.UUID(int=3)),
        "uint64": str(2**63 + 3),
    }[kind]
    at = "2024-01-20"
    number = explained(world.spec(), Given("3", "7", at))
    for name in ("interactions", "candidates"):
        table = world.table(name)
        world.write(name, table.set_column(0, "user_id", ids(table["user_id"])))
    found = explained(world.spec(), Given(user, "7", at))
    assert found.columns == number.columns
    assert found.candidate.user == (int(user) if kind == "uint64" else user.replace("-", ""))
    assert found.histories[0].visible == number.histories[0].visible > 5
    row = world.table("candidates")["user_id"].to_pylist().index(ids(pa.chunked_array([[3]])).to_pylist()[0])
    assert explained(world.spec(), row).candidate.user == found.candidate.user


def test_unknown_users_and_items_are_no_error(world: World) -> None:
    found = explained(world.spec(), Given("99", "1234", "2024-01-01"))
    assert found.notes == ["user 99 has no row in the interactions"]
    by_name = {column.name: (column.value, column.how) for column in found.columns}
    assert by_name["all__count"] == (0.0, "no event is visible")
    assert by_name["text__all__cos_max"] == (None, "item 1234 has no vector in `text`")


def test_a_candidate_without_user_or_time_has_nulls(world: World) -> None:
    table = world.table("candidates").to_pydict()
    table["user_id"][3] = table["timestamp"][4] = None
    world.write("candidates", table)
    for row, null in ((3, "user"), (4, "time")):
        found = explained(world.spec(), row)
        assert found.notes == [f"the {null} is null, so all features are"]
        assert {(column.value, column.how) for column in found.columns} == {(None, f"the {null} is null")}


def test_a_log_without_rows_is_explained(world: World) -> None:
    world.write("interactions", world.table("interactions").slice(0, 0))
    spec = world.spec("[require]\nallow_empty = true\n[[aggregate]]\n[[dual]]\n")
    found = explained(spec, 0)
    same_as_run(found, run_spec(spec), 0)


def test_requests_of_several_users_are_computed_together(world: World) -> None:
    candidates = world.table("candidates").to_pydict()
    candidates["timestamp"] = [candidates["timestamp"][0]] * 300
    candidates["request"] = [None if row == 7 else f"r{row % 50}" for row in range(300)]
    world.write("candidates", candidates)
    spec = world.spec('[within]\nby = "request"\ncolumns = ["text__all__cos_m??", "all__count"]\n[[aggregate]]\n')
    output = run_spec(spec)
    for row in (7, 60):
        found = explained(spec, row, "*within*")
        assert len(found.columns) == 9
        same_as_run(found, output, row)
    rank = next(column for column in found.columns if column.name == "all__count__within_rank")
    assert rank.how == "rank among the 6 candidates of the same `request` where all__count is not null"
    assert rank.numbers["candidates"] == 6
    alone = explained(spec, 7, "*within*")
    assert {column.how for column in alone.columns} == {"`request` is null"}
    given = ("--user", "1", "--item", "1", "--at", "2023-12-01")
    done = extembed("explain", spec, *given, "--columns", "*within*")
    done.failed(2, "--columns: columns within a request need its other candidates; name one with --row")
