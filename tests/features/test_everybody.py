"""`[[dual]] side = "all"`: one linear model of all users' events, fitted anew at every step of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import World, extembed, run_spec, soak, timestamps, vectors
from features.test_audience import DIM, HOUR, OF_USERS, START, spec, write
from helpers.aggregate_loop import micros
from helpers.outputs import LAYOUTS, ran, same
from helpers.reference import Event, ReferenceHistory
from helpers.reference_dual import ReferenceFit, item_vectors, solve
from helpers.reference_targets import residuals
from helpers.refusals import USAGE, refused

from extembed_cli.data.inputs import vector_cache
from extembed_cli.data.inputs.embeddings import load_vectors
from extembed_cli.features import prepare
from extembed_cli.features.dual import survey
from extembed_cli.jobs import derivation
from extembed_cli.jobs.early_reads import folders_of_all
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

pytestmark = pytest.mark.usefixtures("engine")

ITEMS = '[embeddings.text]\npath = "items.parquet"\n'
DAY = 24 * HOUR
ONLY_ALL = '["all"]'


def group(keys: str, histories: str = '["all", "liked"]') -> str:
    return f'[[dual]]\nside = "all"\nhistories = {histories}\n{keys}'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return write(tmp_path)


def log_of(world: World) -> tuple[list[dict[str, Any]], list[Event]]:
    """Return the rows of the log in order of time, and their events."""
    rows = sorted(world.table("interactions").to_pylist(), key=lambda r: (r["timestamp"], r["item_id"]))
    values = ({"rating": r["rating"]} for r in rows)
    return rows, [
        Event(r["user_id"], r["item_id"], micros(r["timestamp"]), r["weight"], v)
        for r, v in zip(rows, values, strict=True)
    ]


@pytest.mark.parametrize(
    ("keys", "by", "fit"),
    [
        ("", None, ReferenceFit()),
        ('target = "rating"\nhalf_life = "30h"\nrefit_every = "6h"\n', "", ReferenceFit(half_life="30h")),
        ('target = "rating"\nbias = true\nunobserved_weight = 0.3\n', "", ReferenceFit(2.0, 0.3, bias=True)),
        (
            'target = "rating"\nscaling = 1.0\nunobserved_weight = 0.1\nregularization = 0.5\n',
            "",
            ReferenceFit(0.5, 0.1, 1.0),
        ),
        ('target = "rating"\nregularization = 0.0\nunobserved_weight = 0.2\n', "", ReferenceFit(0.0, 0.2)),
        ('target = "rating"\nresidual = "user"\nrefit_every = "90m"\n', "user", ReferenceFit()),
        soak('target = "rating"\nresidual = "item"\nhalf_life = "2d"\n', "item", ReferenceFit(half_life="2d")),
        soak('target = "rating"\nresidual = "item+user"\n', "item+user", ReferenceFit()),
    ],
)
@pytest.mark.parametrize(
    ("lag", "table"), [soak("0s", ""), ("7h", "center = true\n"), soak("1d", "normalize = false\n")]
)
@pytest.mark.few(3)
def test_the_scores_are_those_of_a_loop(
    world: World, keys: str, by: str | None, fit: ReferenceFit, lag: str, table: str
) -> None:
    path = spec(world, f"{ITEMS}{table}{group(keys + 'sd = true')}", top=f'weight = "weight"\nlag = "{lag}"\n')
    output = run_spec(path)
    _, events = log_of(world)
    said: dict[int, float | None] = {i: e.values["rating"] for i, e in enumerate(events)}
    if by:
        said = residuals(events, said, by)
    # Everybody is one user.
    of_all = [
        Event(0, e.item, e.time, e.weight, {"y": 1.0 if by is None else said[i], "rating": e.values["rating"]})
        for i, e in enumerate(events)
    ]
    raw = {row["item_id"]: row["embedding"] for row in world.table("items").to_pylist()}
    items = item_vectors(raw, normalize="normalize" not in table, center="center" in table, bias=fit.bias)
    step = next((line.split('"')[1] for line in keys.splitlines() if "refit" in line), "1d")
    fit = ReferenceFit(
        fit.regularization,
        fit.unobserved_weight,
        fit.scaling,
        fit.half_life,
        lambda event: event.values["y"],
        bias=fit.bias,
        refit_every=step,
    )
    liked = ReferenceHistory(lambda event: event.values["rating"] is not None and event.values["rating"] >= 3)
    solved: dict[tuple[str, int], Any] = {}
    scored = 0
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        for name, history in {"all": ReferenceHistory(), "liked": liked}.items():
            key = name, micros(candidate["timestamp"])
            if key not in solved:
                solved[key] = solve(items, fit, of_all, history, 0, key[1], lag)
            score, sd = (output[f"text__{name}__all_dual_{kind}"][row] for kind in ("score", "sd"))
            x = items.get(candidate["item_id"])
            if solved[key] is None or x is None:
                assert score is None
                assert sd is None
                continue
            scored += 1
            u, inverse = solved[key]
            assert abs(score - u @ x) < 2e-5 * max(1, abs(u @ x)), row
            assert abs(sd - np.sqrt(x @ inverse @ x)) < 2e-5
    assert scored > 100


DECAYED = 'name = "d"\ntarget = "rating"\nhalf_life = "40h"\nsd = true\n'
RESIDUAL = 'name = "r"\ntarget = "rating"\nresidual = "user"\nbias = true\nrefit_every = "5h"\n'
EVERY = f"""{ITEMS}{OF_USERS}
{group(DECAYED)}
{group(RESIDUAL + 'all_vectors = "all.parquet"', ONLY_ALL)}
[[dual]]
target = "rating"
[[dual]]
side = "item"
unobserved_weight = 0.1
[[aggregate]]
"""


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_everybody_has_the_same_bytes_in_any_layout(
    world: World, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spec(world, EVERY)
    before = {each.name for each in world.folder.iterdir()}
    whole = ran(path, 1, Layout())
    monkeypatch.setattr(survey, "_PAIRS", 40)  # several windows of steps
    monkeypatch.setattr(survey, "_SUMS", 3)
    same(whole, ran(path, 2, layout))
    left = {each.name for each in world.folder.iterdir()} - before
    assert left == {"out.parquet", "out.parquet.run.json", "all.parquet"}


def test_a_step_of_many_items_is_summed_in_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spec(world, EVERY)
    whole = run_spec(path)
    monkeypatch.setattr(survey, "ROWS", 2)
    for name, values in run_spec(path).to_dict().items():
        if "all_dual" in name:
            np.testing.assert_allclose(values.to_numpy(), whole[name].to_numpy(), rtol=1e-5, atol=1e-6)


def test_the_order_of_rows_changes_no_byte(world: World) -> None:
    path, rng = spec(world, EVERY), np.random.default_rng(3)
    before = run_spec(path)
    log = world.table("interactions")
    world.write("interactions", log.take(pa.array(rng.permutation(log.num_rows))))
    assert before.equals(run_spec(path), null_equal=True)


def test_later_events_change_no_byte(world: World) -> None:
    path = spec(world, EVERY)
    before = run_spec(path)
    cut = START + 90 * HOUR
    log = pl.from_arrow(world.table("interactions"))
    assert isinstance(log, pl.DataFrame)
    late = pl.col("timestamp").cast(pl.Int64) >= cut
    changed = log.filter(~late | (pl.col("user_id") % 2 == 0)).with_columns(
        rating=pl.when(late).then(6 - pl.col("rating")).otherwise("rating")
    )
    world.write("interactions", changed.to_arrow())
    after = run_spec(path)
    early = before["timestamp"].cast(pl.Int64) <= cut
    assert before.filter(early).equals(after.filter(early), null_equal=True)
    assert not before.equals(after, null_equal=True)


def test_events_of_a_step_are_seen_from_the_next_step_on(world: World) -> None:
    """Even by a candidate after them in the step."""
    path = spec(world, f"{ITEMS}{group('', ONLY_ALL)}")
    before = run_spec(path)
    day = (START + 90 * HOUR) // DAY
    log = pl.from_arrow(world.table("interactions"))
    assert isinstance(log, pl.DataFrame)
    world.write("interactions", log.filter(pl.col("timestamp").cast(pl.Int64) // DAY != day).to_arrow())
    after = run_spec(path)
    of_day = before["timestamp"].cast(pl.Int64) // DAY == day
    next_day = before["timestamp"].cast(pl.Int64) // DAY == day + 1
    column = "text__all__all_dual_score"
    assert of_day.sum() > 3
    assert before.filter(of_day)[column].equals(after.filter(of_day)[column], null_equal=True)
    assert not before.filter(next_day)[column].equals(after.filter(next_day)[column], null_equal=True)


def test_a_column_does_not_depend_on_others(world: World) -> None:
    together = run_spec(spec(world, EVERY))
    alone = group('name = "d"\ntarget = "rating"\nhalf_life = "40h"\n', '["liked"]')
    column = run_spec(spec(world, ITEMS + alone))["text__liked__all_dual_d_score"]
    assert column.equals(together["text__liked__all_dual_d_score"], null_equal=True)
    assert column.null_count() < len(column)


@pytest.mark.parametrize("table", ["", "normalize = false\ncenter = true\n"])
def test_the_vectors_of_steps_give_the_scores(world: World, table: str) -> None:
    keys = 'target = "rating"\nbias = true\nall_vectors = "all.parquet"\n'
    path = spec(world, f"{ITEMS}{table}{group(keys, ONLY_ALL)}")
    output = run_spec(path)
    steps = world.table("all").to_pydict()
    assert list(steps) == ["timestamp", "embedding", "bias"]
    begins = [micros(t.replace(tzinfo=None)) for t in steps["timestamp"]]
    assert begins == sorted(set(begins))
    assert all(begin % DAY == 0 for begin in begins)
    raw = {row["item_id"]: row["embedding"] for row in world.table("items").to_pylist()}
    items = item_vectors(raw, normalize=not table, center=bool(table))
    for row, candidate in enumerate(world.table("candidates").to_pylist()):
        place = int(np.searchsorted(begins, micros(candidate["timestamp"]), "right")) - 1
        score = output["text__all__all_dual_score"][row]
        if place < 0 or candidate["item_id"] not in items:
            assert score is None
            continue
        product = np.asarray(steps["embedding"][place]) @ items[candidate["item_id"]] + steps["bias"][place]
        assert abs(score - product) < 1e-4
    content = world.table("all")
    inputs = f'interactions = "interactions.parquet"\nweight = "weight"\n{ITEMS}{table}'
    path.write_text(inputs + group(keys, ONLY_ALL))
    report = extembed("run", path, "--json").ok().json
    assert report["all_vectors"][0]["rows"] == len(begins)
    assert world.table("all").equals(content)


@pytest.mark.parametrize(
    ("lag", "half_life", "long_ago"), [("0s", "none", 0), ("90d", "none", 0), ("0s", "1d", 0), ("0s", "1d", 3_000 * 24)]
)
def test_times_before_1970_are_like_others(world: World, lag: str, half_life: str, long_ago: int) -> None:
    """The step before 1970 is number -1."""
    hours = {"interactions": [-300, -200, -100, 50], "candidates": [-250, -12, -3, 90]}
    hours = {name: [each - long_ago for each in times] for name, times in hours.items()}
    for name, each in hours.items():
        columns = {"user_id": [1, 2, 1, 2], "item_id": [1, 2, 1, 2], "timestamp": timestamps(np.array(each) * HOUR)}
        world.write(name, {**columns, "rating": [1.0, -1.0, 1.0, 1.0], "weight": [1.0] * 4})
    keys = f'sd = true\nhalf_life = "{half_life}"\n'
    path = spec(world, ITEMS + group(keys, ONLY_ALL), top=f'lag = "{lag}"\nrequire.allow_empty = true\n')
    output = run_spec(path)
    assert output["text__all__all_dual_score"].is_null().to_list() == [lag != "0s"] * 4
    later = pl.from_arrow(world.table("interactions")), pl.from_arrow(world.table("candidates"))
    for name, frame in zip(hours, later, strict=True):
        assert isinstance(frame, pl.DataFrame)
        world.write(name, frame.with_columns(pl.col("timestamp") + pl.duration(days=20_000)).to_arrow())
    shifted = run_spec(path)
    for column in ("text__all__all_dual_score", "text__all__all_dual_sd"):
        assert output[column].equals(shifted[column], null_equal=True)


def test_an_empty_log_gives_nulls(world: World) -> None:
    world.write("interactions", world.table("interactions").slice(0, 0))
    output = run_spec(spec(world, EVERY, top="require.allow_empty = true\n"))
    assert output["text__all__all_dual_d_score"].null_count() == len(output)
    assert world.table("all").num_rows == 0


def test_the_report_counts_the_steps(world: World) -> None:
    path = spec(world, ITEMS + group('half_life = "1d"', ONLY_ALL))
    report = extembed("run", path, "--json").ok().json
    days = {micros(row["timestamp"]) // DAY for row in world.table("candidates").to_pylist()}
    assert len(days) - 1 <= report["dual"]["systems"] <= len(days)
    assert report["dual"]["largest_relative_residual"] < 1e-12
    assert "survey" in report["stages"]
    plan = extembed("run", path, "--dry-run", "--json").ok().json
    assert plan["counts"]["dual fits"] == len(days)
    extembed("check", path).ok()


def test_vectors_alone_are_reported(world: World) -> None:
    path = spec(world, ITEMS + group('all_vectors = "all.parquet"\n', ONLY_ALL))
    path.write_text(path.read_text().replace('candidates = "candidates.parquet"\noutput = "out.parquet"\n', ""))
    plan = extembed("run", path, "--dry-run").ok().out
    assert "all.parquet" in plan
    assert "240 rows, 240 used" in plan
    done = extembed("run", path).ok()
    steps = world.table("all").num_rows
    assert f"{steps} dual fits" in plan
    assert f"all.parquet: {steps} vectors of all users" in done.err
    assert "240 rows, 240 used" in extembed("check", path).ok().out


def test_many_steps_are_counted_before_they_are_solved(world: World) -> None:
    """As many as the candidates, or the days between the first and the last row."""
    estimates = {}
    for every in ("1d", "1s"):
        path = spec(world, ITEMS + group(f'refit_every = "{every}"', ONLY_ALL))
        estimates[every] = extembed("run", path, "--dry-run", "--json").ok().json["estimated_memory_bytes"]
    rows = world.table("candidates").num_rows
    assert 0.8 * rows < (estimates["1s"] - estimates["1d"]) / (8 * DIM) <= rows


@pytest.mark.local
def test_the_tables_of_a_survey_are_kept_in_the_cache(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that users' vectors are derived from."""
    taste = '[user_embeddings.taste]\nfrom = {embedding = "text", history = "liked"}\n'
    world.write("items", pa.concat_tables([world.table("items"), world.table("items").slice(0, 2)]))
    rest = f'duplicates = "last"\n{OF_USERS}{taste}{group(DECAYED)}[[direct]]\n'
    path = spec(world, ITEMS + rest)
    expected, options = run_spec(path), RunOptions(workers=2, cache=world.folder / "cache")
    for reads in (2, 0):  # of each table
        read = []
        monkeypatch.setattr(
            vector_cache, "load_vectors", lambda *args, read=read: read.append(1) or load_vectors(*args)
        )
        for module in (derivation, prepare):
            monkeypatch.setattr(module, "load_vectors", None)
        report = run_job(load_spec(path), options, Watch())
        assert len(read) == reads
        assert pl.read_parquet(world.folder / "out.parquet").equals(expected, null_equal=True)
    assert sorted(report["cached_embeddings"]) == ["text", "v"]


def test_problems_of_all_tables_are_raised_together(world: World) -> None:
    for name in ("items", "users"):
        table = world.table(name)
        rows = np.array(table["embedding"].to_pylist(), np.float32)
        rows[1] = 0
        world.write(name, {table.column_names[0]: table[0], "embedding": vectors(rows)})
    for groups in (EVERY + "[[direct]]\n", f'{ITEMS}{OF_USERS}[[aggregate]]\n[[aggregate]]\nside = "item"\n'):
        for command in ("run", "check"):
            done = extembed(command, spec(world, groups)).failed(1, "embeddings text", "user_embeddings v")
            assert done.err.count("\n") == 2


@pytest.mark.local
def test_the_folder_of_a_killed_survey_is_removed(world: World) -> None:
    path = spec(world, EVERY)
    _, left = folders_of_all(load_spec(path), RunOptions(workers=1))
    (left / "shared").mkdir(parents=True)
    run_spec(path)
    assert not left.exists()


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ('loss = "logistic"\n', ("dual.0.loss", "`logistic`")),
        ('user_vectors = "u.parquet"\n', ("dual.0.user_vectors", "use `all_vectors`")),
        ("own = true\n", ("dual.0.own: is about an item's audience",)),
        ('user_embeddings = ["v"]\n', ("dual.0.user_embeddings",)),
        ('histories = ["recent"]\n', ("dual.0.histories: `recent` has a window", "use `half_life`")),
        ("", ("dual.0.histories: `recent` has a window",)),
        ('histories = ["all", "liked"]\nall_vectors = "a.parquet"\n', ("dual.0.all_vectors: takes one history",)),
    ],
)
def test_keys_that_do_not_fit_are_refused(world: World, keys: str, parts: tuple[str, ...]) -> None:
    refused(world, spec(world, f'{ITEMS}[[dual]]\nside = "all"\n{keys}'), USAGE, *parts)


def test_all_vectors_need_the_side(world: World) -> None:
    path = spec(world, f'{ITEMS}[[dual]]\nall_vectors = "a.parquet"\n')
    refused(world, path, USAGE, 'dual.0.all_vectors: with side = "user" every user has a model; use `user_vectors`')


def test_a_table_that_does_not_span_its_dimensions_is_refused(world: World) -> None:
    table = world.table("items")
    flat = [[*row[:-1], 0.0] for row in table["embedding"].to_pylist()]
    world.write("items", {"item_id": table["item_id"], "embedding": pa.array(flat, table["embedding"].type)})
    keys = "regularization = 0.0\nunobserved_weight = 1.0\n"
    refused(world, spec(world, ITEMS + group(keys)), 1, "do not span their 5 dimensions", "regularization = 0")


def test_flags_build_the_same_job(world: World) -> None:
    run_spec(spec(world, ITEMS + group('target = "rating"\nsd = true\n', ONLY_ALL), top=""))
    expected = world.output()
    args = ["-i", "interactions.parquet", "-c", "candidates.parquet", "-e", "text=items.parquet", "-o", "out.parquet"]
    extembed("dual", *args, "--side", "all", "--target", "rating", "--sd", cwd=world.folder).ok()
    assert world.output().equals(expected, null_equal=True)
    extembed("aggregate", *args, "--side", "all", cwd=world.folder).failed(2, "--side", "'user' or 'item'")
