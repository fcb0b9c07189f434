"""SIGINT and SIGTERM end a run with the exit code a shell expects and a message, and leave only the old output."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Ran, soak
from helpers.faults import (
    DIRECTORY,
    FILE,
    NEW,
    Fault,
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

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
PLACES = [
    Fault("extembed_cli.jobs.local_passes:load"),
    Fault("extembed_cli.engines.base:compute_shard"),
    Fault("pyarrow.parquet:ParquetWriter.write_batch", "after", 2),
    Fault("os:fsync", "before", 2),
]

# The program interrupts itself at the import of a module, since there is no function to hook that early.
AT_IMPORT = """
import os, signal, sys

name = sys.argv.pop(1)


class Interrupt:
    def find_spec(self, fullname, path=None, target=None):
        if fullname == name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Interrupt())
import runpy

runpy.run_module("extembed_cli", run_name="__main__", alter_sys=True)
"""


def assert_stopped(ran: Ran, number: signal.Signals) -> None:
    ran.failed(CODES[number], "stopped")
    assert not ran.out


def held(at: Fault, folder: Path) -> Fault:
    """Return a fault that holds a run at the same place until the file `go` exists."""
    return Fault(at.at, at.when, at.call, do="hold", path=str(folder / "go"))


@pytest.mark.parametrize(("kind", "number"), [soak(FILE, signal.SIGINT), (DIRECTORY, signal.SIGTERM)])
def test_a_signal_while_computing(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    world = build(tmp_path, 100_000, 100_000, 128)
    old = earlier_output(world, kind)
    with start(*arguments(world, kind), "-v", "--workers", "2") as run:
        run.stage("compute").signal(number)
        assert_stopped(run.end(10), number)
    assert_untouched(world.folder / kind, old)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (FILE, PLACES[0]),
        (FILE, PLACES[1]),
        (FILE, PLACES[2]),
        (FILE, PLACES[3]),
        (DIRECTORY, PLACES[2]),
    ],
    ids=["load", "compute", "write", "fsync", "write parts"],
)
def test_a_signal_at_a_stage(tmp_path: Path, kind: str, place: Fault) -> None:
    world = build(tmp_path)
    old = earlier_output(world, kind)
    number = signal.SIGTERM if "fsync" in place.at else signal.SIGINT
    with drive(*arguments(world, kind), faults=(held(place, tmp_path),)) as run:
        run.reached().signal(number)
        assert_stopped(run.end(10), number)
    assert_untouched(world.folder / kind, old)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [FILE, DIRECTORY])
def test_a_stopped_first_run_leaves_no_output_and_does_not_stop_the_next(tmp_path: Path, kind: str) -> None:
    world = build(tmp_path)
    place = Fault("pyarrow.parquet:ParquetWriter.close", "before", 1 if kind == FILE else 2)
    with drive(*arguments(world, kind), faults=(held(place, tmp_path),)) as run:
        run.reached().signal(signal.SIGINT)
        assert_stopped(run.end(10), signal.SIGINT)
    assert not list((world.folder / "out").iterdir())
    run_clean(world, kind)
    assert_tidy(world.folder / kind)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "place", "number"),
    [
        (FILE, "pathlib:Path.replace", signal.SIGTERM),
        (DIRECTORY, "extembed_cli.data.files.commit:exchange", signal.SIGINT),
        (DIRECTORY, "pathlib:Path.replace", signal.SIGTERM),
    ],
)
def test_a_signal_between_renames_waits_for_all_of_them(
    tmp_path: Path, kind: str, place: str, number: signal.Signals
) -> None:
    """Renames are fast, so the run does all of them: output, manifest and report belong together."""
    world = build(tmp_path)
    old = earlier_output(world, kind)
    fault = Fault(place, "after", do=number.name)
    with drive(*arguments(world, kind), faults=(fault,)) as run:
        ran = run.reached().end(10)
    assert ran.code in (CODES[number], 0)
    assert "Traceback" not in ran.err
    assert "old output is untouched" not in ran.err
    assert state(world.folder / kind) not in (None, old)
    assert_tidy(world.folder / kind)


@pytest.mark.parametrize("second", [signal.SIGINT, soak(signal.SIGTERM)])
@pytest.mark.soak
def test_a_second_signal_does_not_stop_the_cleanup(tmp_path: Path, second: signal.Signals) -> None:
    """The second signal comes while the run removes its temporary file because of the first."""
    world = build(tmp_path)
    old = earlier_output(world, FILE)
    faults = (
        held(Fault("os:fsync"), tmp_path / "never"),
        Fault("pathlib:Path.unlink", do=second.name),
    )
    with drive(*arguments(world, FILE), faults=faults) as run:
        run.reached().signal(signal.SIGINT)
        ran = run.reached().end(10)
    assert ran.code in CODES.values()
    assert "Traceback" not in ran.err
    assert_untouched(world.folder / FILE, old)


@pytest.mark.soak
def test_ctrl_c_twice_in_a_row(tmp_path: Path) -> None:
    world = build(tmp_path, 100_000, 100_000, 128)
    old = earlier_output(world, FILE)
    with start(*arguments(world, FILE), "-v") as run:
        run.stage("compute").signal(signal.SIGINT).signal(signal.SIGINT)
        assert_stopped(run.end(10), signal.SIGINT)
    assert_untouched(world.folder / FILE, old)


@pytest.mark.soak
def test_a_signal_while_waiting_for_the_lock(tmp_path: Path) -> None:
    """The waiting run ends and does not release the lock of the running one."""
    world = build(tmp_path)
    with drive(*arguments(world, FILE), faults=(held(Fault("os:fsync"), tmp_path),)) as first:
        first.reached()
        acquire = Fault("filelock:FileLock.acquire", do="note", path=str(tmp_path / "waits"))
        with drive(*arguments(world, FILE), "--wait", "60", faults=(acquire,)) as second:
            eventually((tmp_path / "waits").exists)
            second.signal(signal.SIGTERM)
            assert_stopped(second.end(10), signal.SIGTERM)
        with start(*arguments(world, FILE)) as third:
            third.end().failed(4, "another run")
        (tmp_path / "go").touch()
        first.end().ok()
    assert_tidy(world.folder / FILE)


@pytest.mark.parametrize("module", ["typer", soak("extembed_cli.jobs.run"), "polars"])
def test_ctrl_c_while_the_program_starts(tmp_path: Path, module: str) -> None:
    world = build(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module, *arguments(world, FILE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode in (130, -signal.SIGINT)  # a shell reports both as 130
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.soak
def test_a_signal_at_random_times(tmp_path: Path) -> None:
    """The exit code is that of the signal, or 0 if the run was finished."""
    world = build(tmp_path, 20_000, 20_000, 32)
    old, new = earlier_output(world, FILE), earlier_output(world, "other/features.parquet", NEW)
    for number in range(4):
        signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
        with start(*arguments(world, FILE), "-v") as run:
            run.stage("check")
            time.sleep(0.08 * number)
            run.signal(signum)
            ran = run.end(10)
        assert "Traceback" not in ran.err
        # After the run Python restores the default handlers before it exits. A shell reports the same code.
        assert ran.code in (CODES[signum], -signum, 0)
        if ran.code != CODES[signum]:
            assert state(world.folder / FILE) == new
        assert state(world.folder / FILE) in (old, new)
        assert {path.name for path in (world.folder / "out").iterdir()} == {
            "features.parquet",
            "features.parquet.run.json",
        }
        json.loads((world.folder / "out" / "features.parquet.run.json").read_text())


SWALLOW = """
import sys
from extembed_cli.jobs import local_passes
from extembed_cli.__main__ import main

inner = local_passes.{name}


class Loud:
    def __del__(self):  # Python reports and drops exceptions in __del__
        import os, signal, time
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)


def swallowing(*args, **named):
    Loud()
    {then}
    return inner(*args, **named)


local_passes.{name} = swallowing
main()
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    "then", ["raise TypeError('not a type')", soak("pass"), soak("raise OSError(28, 'No space left')")]
)
def test_a_signal_whose_exception_was_swallowed(tmp_path: Path, then: str) -> None:
    """Extension modules that call Python may drop the exception, or raise another one."""
    world = build(tmp_path)
    old = earlier_output(world, FILE)
    program = SWALLOW.format(name="load", then=then)
    command = [sys.executable, "-c", program, *arguments(world, FILE)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert_stopped(Ran(ran.returncode, ran.stdout, ran.stderr), signal.SIGINT)
    assert "error" not in ran.stderr
    assert_untouched(world.folder / FILE, old)
