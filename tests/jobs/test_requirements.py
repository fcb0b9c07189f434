"""Inputs that do not match, or fall short of `[require]`, end with exit 1 before anything is committed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, timestamps, vectors
from helpers.refusals import DATA, USAGE, contents, refused, replace

from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.errors import DataError
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

pytestmark = pytest.mark.usefixtures("engine")

ALLOWED = "[require]\nallow_empty = true\n"
LIKED = '[histories.liked]\nwhere = "rating >= 9"\n'
HOUR = 3_600_000_000


def other_items(world: World) -> str:
    replace(world, "text", "item_id", np.arange(35) + 1000)
    return ""


def other_users(world: World) -> str:
    replace(world, "candidates", "user_id", pa.array([f"{user:08d}" for user in range(300)]))
    replace(world, "interactions", "user_id", pa.array([str(user) for user in range(600)]))
    return ""


def empty_history(world: World) -> str:
    return LIKED


def empty_log(world: World) -> str:
    world.write("interactions", world.table("interactions").slice(0, 0))
    return ""


def null_target(world: World) -> str:
    return '[[dual]]\ntarget = "NULLIF(rating, rating)"\n'


def seconds_for_milliseconds(world: World) -> str:
    for name, divisor in (("interactions", 1_000_000), ("candidates", 1_000)):
        micros = world.table(name)["timestamp"].cast(pa.int64()).to_numpy()
        replace(world, name, "timestamp", micros // divisor)
    return 'time_unit = "ms"\n'


def candidates_before_the_log(world: World) -> str:
    micros = world.table("candidates")["timestamp"].cast(pa.int64()).to_numpy()
    replace(world, "candidates", "timestamp", timestamps(micros - 200 * 24 * HOUR))
    return ""


def items_that_no_candidate_has(world: World) -> str:
    replace(world, "candidates", "item_id", np.arange(300) % 5 + 35)
    return ""


def candidates_without_times(world: World) -> str:
    replace(world, "candidates", "timestamp", pa.nulls(300, pa.timestamp("us")))
    return ""


EMPTY: dict[Any, tuple[str, ...]] = {
    candidates_without_times: ("candidates: all 300 rows have a null user or a null time",),
    other_items: ("embeddings text: no item of the interactions has a vector", "have ", "the table 1000, 1001, 1002"),
    other_users: (
        "no user of the candidates has an interaction: every history is empty. Are the user ids the same?",
        "Candidates have '00000000', '00000001', '00000002', ..., interactions '0', '1', '2', ...",
    ),
    empty_history: ("histories.liked: no interaction matches where = 'rating >= 9': it is always empty",),
    empty_log: ("no interaction can be used: every history is empty",),
    null_target: ("dual.0.target = 'NULLIF(rating, rating)': null for every interaction",),
    seconds_for_milliseconds: (
        "interactions and candidates lie more than 20 years apart: interactions from 1970-01-20T",
        "candidates from 2023-11-",
        "Is time_unit right for both? columns.interactions.time_unit",
    ),
    candidates_before_the_log: ("all candidates are before the first interaction",),
    items_that_no_candidate_has: (
        "embeddings text: no item of the candidates has a vector",
        "The candidates have 35, ",
    ),
}


@pytest.mark.parametrize("change", EMPTY, ids=lambda change: change.__name__)
@pytest.mark.few(4)
def test_inputs_that_do_not_match_are_refused(world: World, change: Any) -> None:
    spec = change(world)
    message = refused(world, world.spec(spec), DATA, *EMPTY[change], "(--allow-empty accepts it)")
    assert message.count("\n") == 0
    for command in (["check"], ["run", "--dry-run"]):
        extembed(*command, world.spec(spec), "-q").failed(DATA, EMPTY[change][0])


@pytest.mark.parametrize("change", EMPTY, ids=lambda change: change.__name__)
@pytest.mark.few(4)
def test_they_are_accepted_with_a_warning(world: World, change: Any) -> None:
    spec = change(world)
    done = extembed("run", world.spec(spec), "--allow-empty", "-q").ok()
    for part in EMPTY[change]:
        assert part in done.err
    assert done.err.startswith("warning: ")
    assert "allow-empty" not in done.err
    assert extembed("run", world.spec(spec), "--allow-empty", "-qq").ok().err == ""
    top, tables = (spec, "") if spec.startswith("time_unit") else ("", spec)
    checked = extembed("check", world.spec(top + ALLOWED + tables)).ok()
    assert checked.out.rstrip().endswith("warning") or checked.out.rstrip().endswith("warnings")
    assert "no problems found" not in checked.out


def test_a_unit_of_its_own_mends_times_that_do_not_meet(world: World) -> None:
    expected = world.run()
    columns = [name for name in expected.columns if "__" in name]
    spec = seconds_for_milliseconds(world) + '[columns.interactions]\ntime_unit = "s"\n'
    assert world.run(spec).select(columns).equals(expected.select(columns), null_equal=True)


def test_local_times_are_told_as_a_reason_for_candidates_after_their_own_events(world: World) -> None:
    """The candidates are the events, at the time of a clock that is ahead of UTC."""
    log = world.table("interactions")
    micros = log["timestamp"].cast(pa.int64()).to_numpy() + 5 * HOUR
    world.write("candidates", log.drop_columns(["timestamp", "rating"]).append_column("timestamp", timestamps(micros)))
    warning = (
        "600 of 600 candidates are in their own visible history. Either the log repeats items, or times are wrong "
    )
    done = extembed("run", world.spec(), "-q").ok()
    assert f"warning: {warning}(time_unit? local times without a zone, which count as UTC?)" in done.err


def test_all_that_does_not_match_is_told_together(world: World) -> None:
    other_items(world)
    refused(world, world.spec(LIKED), DATA, "histories.liked", "embeddings text")


SHORT = [
    ("coverage = 0.9", "require.coverage: 8", "% of the candidates have a vector in embeddings text, less than 90.00%"),
    ("coverage.text = 0.9", "of the events have a vector in embeddings text, less than 90.00%"),
    ("users_met = 0.99", "require.users_met: 9", "% of the candidates' users have an interaction, less than 99.00%"),
    ("non_null = 0.97", "require.non_null: `text__all__cos_p10__hl30d` has a value for ", "less than 97.00%"),
    ('non_null."text__*_max" = 0.97', "require.non_null: `text__all__cos_max` has a value for "),
]


@pytest.mark.parametrize(("key", "parts"), [(key, parts) for key, *parts in SHORT])
def test_less_than_required_is_refused(world: World, key: str, parts: list[str]) -> None:
    message = refused(world, world.spec(f"[require]\n{key}\n"), DATA, *parts)
    assert "allow-empty" not in message
    assert ("cos_max" in message) == ("non_null" in key)
    assert ("cos_min" in message) == (key == "non_null = 0.97")
    flag = key.replace(" ", "").replace('"', "")
    plain = world.spec()
    before = contents(world.folder)
    extembed("run", plain, "--require", flag, cwd=world.folder).failed(DATA, *parts)
    assert contents(world.folder) == before


def test_enough_is_accepted_and_changes_no_byte(world: World) -> None:
    world.run()
    plain = (world.folder / "out.parquet").read_bytes()
    keys = "coverage = 0.8\nusers_met = 0.9\nnon_null = 0.5\n"
    world.run(f"[require]\n{keys}")
    assert (world.folder / "out.parquet").read_bytes() == plain


def test_shares_are_those_of_all_shards(world: World) -> None:
    spec = world.spec("[require]\nusers_met = 0.99\nnon_null = 0.97\n")
    messages = []
    for layout in (Layout(), Layout(shards=3, rows=100)):
        with pytest.raises(DataError) as caught:
            run_job(load_spec(spec), RunOptions(workers=1, layout=layout), Watch())
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("coverage = 50", "spec.toml: require.coverage: must be a share from 0 to 1, got 50"),
        ("coverage = -1", "require.coverage: must be a share from 0 to 1, got -1"),
        ('coverage = "x"', "require.coverage: must be a share from 0 to 1, got 'x'"),
        ("coverage.text = 9", "require.coverage.text: must be a share from 0 to 1, got 9"),
        ("users_met = true", "require.users_met: must be a share from 0 to 1, got True"),
        ('non_null."txt__*_max" = 0.5', "require.non_null: `txt__*_max` matches no feature; did you mean `text__all__"),
        ("non_null.popularity = 0.5", "require.non_null: `popularity` matches no feature; known: all__count, "),
        ("coverage.image = 0.5", "require.coverage: nothing is named `image`; known: text"),
        ("users = 0.5", "`require.users` is not a known key; did you mean `users_met`?"),
        ('allow_empty = "yes"', "`require.allow_empty`: must be true or false"),
    ],
)
def test_wrong_requirements_are_refused(world: World, key: str, part: str) -> None:
    message = refused(world, world.spec(f"[require]\n{key}\n"), USAGE, part)
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["coverage.none"], "--require coverage.none: write KEY=SHARE, such as `coverage=0.5`"),
        (["coverage=0.5", "coverage.text=0.9"], "--require coverage.text=0.9: `require.coverage` is not a table"),
        (["coverage=50"], "require.coverage: must be a share from 0 to 1, got 50"),
    ],
)
def test_a_wrong_flag_is_told_as_it_was_written(world: World, flags: list[str], message: str) -> None:
    done = extembed("run", world.spec(), *(part for flag in flags for part in ("--require", flag))).failed(USAGE)
    assert done.err.endswith(f"{message}\n") and done.err.count("\n") == 1


def without_candidates(world: World) -> None:
    world.write("candidates", world.table("candidates").slice(0, 0))


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["check"]])
def test_no_candidates_are_a_warning(world: World, command: list[str]) -> None:
    without_candidates(world)
    warning = "warning: candidates: no rows, so the output has none\n"
    assert extembed(*command, world.spec(), "-q").ok().err == warning
    assert extembed(*command, world.spec(), "-qq").ok().err == ""


@pytest.mark.parametrize("share", ["coverage=0.5", "coverage.text=0.5", "users_met=0.5", "non_null=0.1"])
def test_no_candidates_are_less_than_any_share(world: World, share: str) -> None:
    without_candidates(world)
    spec = world.spec()
    before = contents(world.folder)
    key = share.partition("=")[0].partition(".")[0]
    for command in (["run"], ["check"]):
        done = extembed(*command, spec, "--require", share).failed(DATA)
        assert done.err == f"extembed: error: require.{key}: the candidates have no rows\n"
    assert contents(world.folder) == before
    extembed("run", spec, "--require", "coverage=0").ok()


def test_unusable_interactions_are_told_with_the_reason(world: World) -> None:
    replace(world, "interactions", "user_id", pa.nulls(600, pa.int64()))
    refused(world, world.spec(), DATA, "no interaction can be used (600 dropped: null user): every history is empty")


def test_a_table_of_users_can_be_required_too(world: World) -> None:
    world.write("users", {"user_id": np.arange(3), "embedding": vectors(np.eye(3, 8) + 1)})
    tables = '[user_embeddings.u]\npath = "users.parquet"\n'
    spec = world.spec(f"[require]\ncoverage = {{u = 0.5}}\n{tables}[[direct]]\n[[aggregate]]\n")
    refused(world, spec, DATA, "of the candidates have a vector in user_embeddings u, less than 50.00%")


@pytest.mark.parametrize("top", ["", 'lag = "2d"\n'])
def test_a_history_that_no_candidate_sees_is_refused(world: World, top: str) -> None:
    spec = top + '[histories.recent]\nwindow = "1s"\n[[aggregate]]\nhistories = ["all", "recent"]\n'
    message = "histories.recent: no candidate sees an event of it: it is always empty"
    refused(world, world.spec(spec), DATA, message, "(--allow-empty accepts it)")
    for command in (["check"], ["run", "--dry-run"]):
        extembed(*command, world.spec(spec), "-q").failed(DATA, message)
    done = extembed("run", world.spec(spec), "--allow-empty", "-q").ok()
    assert done.err.startswith("warning: ") and message in done.err


@pytest.mark.parametrize(("covered", "share"), [(29_999, 1.0), (1, 0.0)])
def test_shares_are_compared_unrounded(covered: int, share: float) -> None:
    coverage = Coverage(candidates=30_000, candidates_covered={"text": covered})
    exact = coverage.of_table("text")["candidates"]
    assert exact is not None and exact != share and round(exact, 4) == share
