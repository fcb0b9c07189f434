"""With `--json` a failure is one JSON document on stdout, and the usual message on stderr."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import World, extembed, vectors
from helpers.commands import only_json
from helpers.faults import FILE, Fault, arguments, build, drive

from extembed_cli.data.files.commit import locked

RUN = ("run", "spec.toml")


def bad_vectors(world: World) -> None:
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(np.zeros((35, 8)))})


def torn(world: World) -> None:
    path = world.folder / "text.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def unknown_key(world: World) -> None:
    world.spec('laag = "1d"\n')


CASES: dict[str, tuple[Callable[[World], None], tuple[str, ...], int, str, str]] = {
    "data": (bad_vectors, RUN, 1, "data", "zero"),
    "spec": (unknown_key, RUN, 2, "spec", "did you mean `lag`?"),
    "flag": (lambda _: None, (*RUN, "--memory", "lots"), 2, "spec", "--memory lots"),
    "input": (torn, RUN, 3, "input", "text.parquet"),
    "memory": (lambda _: None, (*RUN, "--memory", "1MB"), 5, "resources", "Raise --memory"),
    "unknown option": (lambda _: None, (*RUN, "--dryrun"), 2, "usage", "--dry-run"),
    "bad value": (lambda _: None, (*RUN, "--workers", "0"), 2, "usage", "--workers"),
    "no argument": (lambda _: None, ("run",), 2, "usage", "SPEC.toml"),
    "unknown command": (lambda _: None, ("rum", "spec.toml"), 2, "usage", "Did you mean 'run'?"),
    "check": (bad_vectors, ("check", "spec.toml"), 1, "data", "zero"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_is_the_result(world: World, case: str) -> None:
    change, command, code, kind, part = CASES[case]
    world.spec()
    change(world)
    plain = extembed(*command, cwd=world.folder).failed(code, part)
    done = extembed(*command, "--json", cwd=world.folder).failed(code, part)
    assert plain.out == ""
    assert done.err == plain.err
    told = only_json(done.out)
    assert told == {"error": {"kind": kind, "message": told["error"]["message"]}, "exit": code}
    for line in told["error"]["message"].splitlines():
        assert line in done.err


def test_another_run_that_holds_the_output(world: World) -> None:
    spec = world.spec()
    with locked(world.folder / "out.parquet", 0):
        told = only_json(extembed("run", spec, "--json").failed(4, "another run").out)
    assert (told["error"]["kind"], told["exit"]) == ("locked", 4)


def test_a_bug(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("extembed_cli.jobs.check.check_job", fails)
    told = only_json(extembed("check", world.spec(), "--json").failed(70, "ValueError: no such thing").out)
    assert (told["error"]["kind"], told["exit"]) == ("bug", 70)


@pytest.mark.soak
def test_a_run_that_is_stopped(tmp_path: Path) -> None:
    world = build(tmp_path)
    hold = Fault("os:fsync", do="hold", path=str(tmp_path / "go"))
    with drive(*arguments(world, FILE), "--json", faults=(hold,)) as run:
        run.reached()
        run.signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        told = only_json(run.end().failed(143, "stopped").out)
    assert (told["error"]["kind"], told["exit"]) == ("stopped", 143)
