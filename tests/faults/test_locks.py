"""Runs with the same output exclude each other; runs with different outputs do not."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from conftest import extembed, soak
from helpers.faults import (
    DIRECTORY,
    FILE,
    KILLED,
    NEW,
    OLD,
    Fault,
    Run,
    arguments,
    assert_tidy,
    assert_untouched,
    build,
    drive,
    earlier_output,
    eventually,
    run_clean,
    start,
    state,
)


def hold(folder: Path) -> Fault:
    """Return a fault that holds a run, with its lock and temporary files, until the file `go` exists."""
    return Fault("os:fsync", do="hold", path=str(folder / "go"))


@pytest.mark.parametrize("kind", [FILE, soak(DIRECTORY)])
def test_a_second_run_ends_at_once_and_says_why(tmp_path: Path, kind: str) -> None:
    world = build(tmp_path)
    old = earlier_output(world, kind)
    with drive(*arguments(world, kind), faults=(hold(tmp_path),)) as first:
        first.reached()
        began = time.monotonic()
        extembed(*arguments(world, kind)).failed(4, kind, "another run", "--wait")
        assert time.monotonic() - began < 5
        assert state(world.folder / kind) == old
        (tmp_path / "go").touch()
        first.end().ok()
    assert_tidy(world.folder / kind)
    assert state(world.folder / kind) != old


@pytest.mark.soak
def test_a_second_run_waits_its_turn(tmp_path: Path) -> None:
    world = build(tmp_path)
    expected = run_clean(world, "other/features.parquet", NEW)
    acquire = Fault("filelock:FileLock.acquire", do="note", path=str(tmp_path / "waits"))
    with drive(*arguments(world, FILE, OLD), faults=(hold(tmp_path),)) as first:
        first.reached()
        with drive(*arguments(world, FILE, NEW), "--wait", "30", faults=(acquire,)) as second:
            eventually((tmp_path / "waits").exists)
            time.sleep(0.3)
            assert second.process.poll() is None
            assert not (world.folder / FILE).exists()
            (tmp_path / "go").touch()
            first.end().ok()
            second.end().ok()
    assert state(world.folder / FILE) == expected
    assert_tidy(world.folder / FILE)


@pytest.mark.soak
def test_a_run_waits_no_longer_than_wait_says(tmp_path: Path) -> None:
    world = build(tmp_path)
    with drive(*arguments(world, FILE), faults=(hold(tmp_path),)) as first:
        first.reached()
        began = time.monotonic()
        extembed(*arguments(world, FILE), "--wait", "1").failed(4, "another run")
        assert 1 <= time.monotonic() - began < 10


@pytest.mark.soak
@pytest.mark.parametrize("wait", [[], ["--wait", "30"]], ids=["after", "while waiting"])
def test_the_lock_is_free_when_its_holder_is_killed(tmp_path: Path, wait: list[str]) -> None:
    world = build(tmp_path)
    old = earlier_output(world, FILE)
    with drive(*arguments(world, FILE), faults=(hold(tmp_path),)) as first:
        first.reached()
        if wait:
            acquire = Fault("filelock:FileLock.acquire", do="note", path=str(tmp_path / "waits"))
            with drive(*arguments(world, FILE), *wait, faults=(acquire,)) as second:
                eventually((tmp_path / "waits").exists)
                time.sleep(0.2)
                assert state(world.folder / FILE) == old
                first.signal(signal.SIGKILL)
                second.end(20).ok()
        else:
            assert first.signal(signal.SIGKILL).end().code == KILLED
            extembed(*arguments(world, FILE)).ok()
    assert state(world.folder / FILE) != old
    assert_tidy(world.folder / FILE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        soak("out/a.parquet", "out/b.parquet"),
        soak("out/features.parquet", "out/features"),
        ("out/features.parquet.v1.parquet", "out/features.parquet"),
        soak("out/[ab]*.parquet", "out/a.parquet"),
    ],
)
@pytest.mark.soak
def test_different_outputs_do_not_disturb_each_other(tmp_path: Path, one: str, other: str) -> None:
    """This holds even if one name is a prefix of the other."""
    world = build(tmp_path)
    with drive(*arguments(world, one), faults=(hold(tmp_path),)) as first:
        first.reached()
        extembed(*arguments(world, other)).ok()
        (tmp_path / "go").touch()
        first.end().ok()
    others = [Path(one).name, f"{Path(one).name}.run.json"]
    assert_tidy(world.folder / other, *others)
    assert state(world.folder / one)


@pytest.mark.soak
def test_one_output_under_two_names_is_one_lock(tmp_path: Path) -> None:
    world = build(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    with drive(*arguments(world, FILE), faults=(hold(tmp_path),)) as first:
        first.reached()
        extembed(*arguments(world, "link/features.parquet")).failed(4, "another run")
        extembed(*arguments(world, "out/../out/features.parquet")).failed(4, "another run")


def run_together(folder: Path, kind: str, runs: int) -> None:
    """Start runs of two specs at once. Check that they run one by one, all succeed, and leave one of the outputs."""
    world = build(folder)
    expected = [run_clean(world, f"{spec}/{Path(kind).name}", spec) for spec in (OLD, NEW)]
    log = folder / "log"
    notes = (
        Fault("extembed_cli.jobs.local_passes:load", do="note", path=str(log), text="in"),
        Fault("extembed_cli.data.files.commit:Staged.commit", "after", do="note", path=str(log), text="out"),
    )
    started: list[Run] = []
    try:
        for number in range(runs):
            half_life = (OLD, NEW)[number % 2]
            started.append(drive(*arguments(world, kind, half_life), "--wait", "120", faults=notes))
        for run in started:
            run.end(120).ok()
    finally:
        for run in started:
            run.__exit__(None, None, None)
    assert log.read_text().split() == ["in", "out"] * runs
    assert state(world.folder / kind) in expected
    assert_tidy(world.folder / kind)


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "runs"), [(FILE, 4), (FILE, 24), (DIRECTORY, 4), (DIRECTORY, 24)])
def test_runs_that_start_together_all_succeed(tmp_path: Path, kind: str, runs: int) -> None:
    run_together(tmp_path, kind, runs)


@pytest.mark.soak
@pytest.mark.parametrize("number", [2, 4])
def test_runs_without_waiting_leave_a_whole_file(tmp_path: Path, number: int) -> None:
    world = build(tmp_path)
    expected = earlier_output(world, "other/features.parquet", NEW)
    runs = [start(*arguments(world, FILE)) for _ in range(number)]
    codes = sorted(run.end().code for run in runs)
    assert codes[0] == 0
    assert set(codes) <= {0, 4}
    assert state(world.folder / FILE) == expected
    assert_tidy(world.folder / FILE)


@pytest.mark.soak
def test_dry_run_and_check_need_no_lock(tmp_path: Path) -> None:
    """They write nothing."""
    world = build(tmp_path)
    with drive(*arguments(world, FILE), faults=(hold(tmp_path),)) as first:
        first.reached()
        plan = extembed(*arguments(world, FILE), "--dry-run", "--json").ok().json
        assert plan["rows_out"] == 300
        extembed("check", world.folder / "spec.toml").ok()
        (tmp_path / "go").touch()
        first.end().ok()
    assert_tidy(world.folder / FILE)


def test_a_failed_run_releases_the_lock(tmp_path: Path) -> None:
    world = build(tmp_path)
    old = earlier_output(world, FILE)
    (tmp_path / "text.parquet").rename(tmp_path / "away.parquet")
    extembed(*arguments(world, FILE)).failed(3, "text.parquet")
    assert_untouched(world.folder / FILE, old)
    report = json.loads((tmp_path / "out" / "features.parquet.run.json").read_text())
    assert report["rows_out"] == 300
