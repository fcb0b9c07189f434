"""The output of the program on stdout, stderr and a terminal: plans, reports, stages, the progress bar."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest
from conftest import EXTEMBED, World, extembed, extembed_process, soak
from helpers.commands import names, only_json
from helpers.terminal import on_a_terminal

from extembed_cli.jobs.patterns import patterns


def test_a_dry_run_prints_a_plan_and_writes_nothing(world: World) -> None:
    spec = world.spec()
    before = names(world.folder)
    as_text, as_json = (extembed("run", spec, "--dry-run", *flags).ok() for flags in ([], ["--json"]))
    assert names(world.folder) == before
    assert as_text.err == as_json.err == ""
    plan = only_json(as_json.out)
    assert plan["columns"] == [c["name"] for c in extembed("columns", spec, "--json").json["columns"]]
    assert plan["rows_out"] == plan["inputs"]["candidates"]["rows"] == 300
    assert plan["inputs"]["interactions"]["rows"] == 600
    assert plan["output"] == str(world.folder / "out.parquet")
    assert plan["estimated_seconds"] > 0 and plan["estimated_memory_bytes"] > 0
    lines = as_text.out.splitlines()
    assert re.fullmatch(r"rows +300\nmemory +about \d+ MiB\nseconds +about \d+", "\n".join(lines[:3]))
    for part in ("600 rows", "300 rows", "out.parquet", "11 features"):
        assert part in as_text.out
    assert [line.strip() for line in lines[-2:]] == patterns(plan["columns"])[-2:]


def test_json_is_one_document_and_the_report_beside_the_output(world: World) -> None:
    shown = extembed("run", world.spec(), "--json").ok()
    report = only_json(shown.out)
    assert report == json.loads((world.folder / "out.parquet.run.json").read_text())
    assert report["rows_in"] == report["rows_out"] == 300
    assert report["seconds"] > 0
    assert set(report["seconds_by_technique"]) == {"counters", "aggregate"}
    assert report["peak_memory_bytes"] > 0
    assert len(report["output_sha256"]) == 64
    assert 0 < report["inputs"]["embeddings"]["text"]["coverage"]["candidates"] < 1
    assert report["warnings"] == []


def test_one_of_a_kind_is_singular(world: World) -> None:
    world.write("candidates", world.table("candidates").slice(0, 1))
    spec = world.spec('[[dual]]\nhistories = ["all"]\ntarget = "rating - 3"\n')
    plan, check = (extembed(*command).ok().out for command in (("run", spec, "--dry-run"), ("check", spec)))
    assert re.search(r"^candidates +1 row, 1 user$", plan, re.MULTILINE)
    assert re.search(r"^work +1 dual fit$", plan, re.MULTILINE)
    assert re.search(r"^columns +1 feature$", plan, re.MULTILINE)
    assert "candidates: 1 row, 1 user\n" in check
    assert "\n1 feature; no problems found" in check
    assert "out.parquet: 1 row, 1 feature in " in extembed("run", spec).ok().err


def test_a_run_logs_to_stderr_only(world: World) -> None:
    spec = world.spec()
    quiet, usual, verbose = (extembed("run", spec, *flags).ok() for flags in (["-q"], [], ["-v"]))
    assert quiet.err == quiet.out == usual.out == verbose.out == ""
    assert len(usual.err.splitlines()) == 1
    assert all(part in usual.err for part in ("out.parquet", "300 rows", "features in"))
    stages = re.findall(r"^(\w+) \.\.\.$", verbose.err, re.MULTILINE)
    assert stages == ["check", "read", "shard", "vectors", "compute", "encode", "write"]
    assert re.search(r"^  stage +seconds +rows +rows/s +MiB\n  check +\d+\.\d{3}\n", verbose.err, re.MULTILINE)
    # Without a terminal there is neither a bar nor colour, even if the environment forces colour.
    assert (
        "\x1b" not in extembed_process("run", spec, "-v", env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).ok().err
    )


def test_a_traceback_is_shown_only_with_vv(world: World) -> None:
    for flags, shown in (([], 0), (["-v"], 0), (["-v", "-v"], 1), (["-vv"], 1)):
        done = extembed("run", world.folder / "none.toml", *flags)
        assert (done.code, done.err.count("Traceback")) == (2, shown)


@pytest.mark.parametrize(("env", "coloured"), [({}, True), soak({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_a_bar(world: World, env: dict[str, str], coloured: bool) -> None:
    code, out, err = on_a_terminal("run", world.spec(), env={"TERM": "xterm-256color", **env})
    assert (code, out) == (0, "")
    assert "━" in err and "rows" in err
    assert bool(re.search(r"\x1b\[[0-9;]*[34]\d(;[0-9]+)*m", err)) == coloured
    assert err.splitlines()[-1].endswith("MiB resident") and "300 rows" in err.splitlines()[-1]


@pytest.mark.soak
def test_quiet_and_dumb_terminals_get_no_bar(world: World) -> None:
    assert on_a_terminal("run", world.spec(), "-q", env={"TERM": "xterm"}) == (0, "", "")
    code, _, err = on_a_terminal("run", world.spec(), env={"TERM": "dumb"})
    assert code == 0
    assert "━" not in err and "\x1b" not in err


@pytest.mark.soak
def test_the_terminal_is_left_as_it_was_after_an_error(world: World) -> None:
    (world.folder / "candidates.parquet").write_bytes(b"")
    code, out, err = on_a_terminal("run", world.spec(), env={"TERM": "xterm"})
    assert (code, out) == (3, "")
    assert err.count("\x1b[?25l") == err.count("\x1b[?25h")  # the bar hides the cursor
    assert "candidates.parquet: is empty" in err and "Traceback" not in err


@pytest.mark.parametrize("command", ["columns", soak("check")])
def test_a_reader_that_has_gone_is_no_failed_check(world: World, command: str) -> None:
    """`| head` closes the pipe; `check` prints so little that it may be done before."""
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([*EXTEMBED, command, world.spec()], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, b"")
