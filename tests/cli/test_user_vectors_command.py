"""`extembed dual --user-vectors` on the command line: flags, streams, plans."""

from __future__ import annotations

import json

from conftest import World, extembed
from helpers.aggregate_loop import micros
from helpers.dual_loop import LIKED
from helpers.reference import ReferenceHistory
from helpers.reference_dual import ReferenceFit
from helpers.user_vectors import FLAGS, check, compute_user_vectors, vectors_only_spec


def test_flags_and_a_spec_write_the_same_bytes(world: World) -> None:
    compute_user_vectors(
        world, 'half_life = "9d"\ntarget = "rating - 3"\nbias = true\nrefit_every = "1d"', top='lag = "1h"'
    )
    expected = (world.folder / "users.parquet").read_bytes()
    flags = ["--half-life", "9d", "--target", "rating - 3", "--bias", "--refit-every", "1d", "--lag", "1h"]
    ran = extembed(*FLAGS, *flags, "--json", cwd=world.folder).ok()
    assert (world.folder / "users.parquet").read_bytes() == expected
    assert json.loads(ran.out) == json.loads((world.folder / "users.parquet.run.json").read_text())
    assert "users.parquet: 30 user vectors" in ran.err.splitlines()[0]
    assert len(ran.err.splitlines()) == 2


def test_as_of_and_history_flags(world: World) -> None:
    flags = ["--as-of", "2023-12-20 06:00", "--lag", "2h", "--window", "30d", "--max-events", "4", "--center"]
    extembed(*FLAGS, *flags, "--history", "liked=rating >= 4", cwd=world.folder).ok()
    history = ReferenceHistory(LIKED.where, "30d", 4)
    as_of = micros("2023-12-20T06:00")
    users = world.table("users")
    check(world, users, ReferenceFit(), as_of=as_of, history=history, lag="2h", table={"center": True})


def test_quiet_is_silent_and_verbose_logs_to_stderr(world: World) -> None:
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
    assert (plan["output"], plan["counts"]["dual fits"], plan["rows_out"]) == (None, 30, 0)
    assert plan["estimated_memory_bytes"] > 0


def test_the_plan_of_a_run_without_candidates_lists_no_columns(world: World) -> None:
    plan = extembed(*FLAGS, "--dry-run", "--json", cwd=world.folder).ok().json
    assert plan["columns"] == []


def test_check_and_columns_of_a_spec_without_candidates(world: World) -> None:
    spec = vectors_only_spec(world)
    shown = extembed("check", spec).ok()
    assert "600 rows" in shown.out and "no problems found" in shown.out
    assert not (world.folder / "users.parquet").exists()
