"""The program as a user meets it: help, flags, streams, a terminal, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import EXTEMBED, World, extembed
from polars.testing import assert_frame_equal

import extembed_cli

SCRIPT = Path(sys.executable).with_name("extembed")
COMMON = "--workers --memory --wait --json --quiet -q --verbose -v"
FLAGS = {
    "run": "SPEC.toml --output -o --set --dry-run " + COMMON,
    "aggregate": "-i --interactions -c --candidates -e --embedding NAME=PATH -o --output --half-life --percentile "
    "--threshold --history NAME=WHERE --center --no-center --as-of --lag --window --max-events --weight --time-unit "
    "--set --dry-run " + COMMON,
    "dual": "-i --interactions -c --candidates -e --embedding NAME=PATH -o --output --user-vectors --regularization "
    "--unobserved-weight --scaling --half-life --target --loss --bias --sd --refit-every --history NAME=WHERE --center "
    "--no-center --as-of --lag --window --max-events --weight --time-unit --set --dry-run " + COMMON,
    "evaluate": "FEATURES.parquet --label --output -o --time --user --group --time-unit --baseline --test-fraction "
    "--gap --from --max-rows --ranker --seed --seeds --resamples --min-gain " + COMMON,
    "check": "SPEC.toml --set --json -q -v",
    "columns": "SPEC.toml --set --json",
    "sample": "DIR --seed",
    "neural train": "SPEC.toml --label --model --until --group --max-events --set --encoder --dim --id-embedding "
    "--candidate --no-candidate --whiten --loss --epochs --batch-size --lr --dropout --seed --device --resume "
    "--user-vectors --item-vectors --scratch " + COMMON,
}
INPUTS = ("-i", "interactions.parquet", "-c", "candidates.parquet", "-e", "text=text.parquet")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def only_json(text: str) -> Any:
    """The one document of a text; `json.loads` refuses whatever stands around it."""
    assert text.startswith("{")
    return json.loads(text)


# --- help and usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", FLAGS)
def test_help_shows_an_example_and_every_flag(command: str) -> None:
    shown = extembed(*command.split(), "--help").ok()
    assert f"Example:  extembed {command} " in shown.out
    for flag in FLAGS[command].split():
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown.out), flag
    assert shown.err == ""


def test_help_lists_the_commands_with_an_example() -> None:
    shown = extembed("--help").ok().out
    assert "Example:  extembed " in shown
    assert re.findall(r"^  (\w+)  ", shown.split("Commands:")[1], re.MULTILINE) == [
        command.split()[0] for command in FLAGS
    ]
    bare = extembed().failed(2)
    assert bare.out + bare.err == shown


def test_the_script_and_the_module_are_one_program() -> None:
    for arguments in (["--version"], ["--help"], ["aggregate", "--help"], ["aggregat"]):
        script, module = (
            subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60, check=False)
            for program in ([str(SCRIPT)], EXTEMBED)
        )
        assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)
    assert extembed("--version").ok().out == f"extembed {extembed_cli.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["aggregat"], ["'aggregat'", "Did you mean 'aggregate'?"]),
        (["colums", "spec.toml"], ["'colums'", "'columns'"]),
        (["aggregate", "--half-lif", "3d"], ["--half-lif ", "--half-life"]),
        (["run", "spec.toml", "--dryrun"], ["--dryrun", "--dry-run"]),
        (["run"], ["SPEC.toml"]),
        (["run", "spec.tml"], ["spec.tml: no such spec file", "extembed sample DIR"]),
        (["run", "spec.toml", "--workers", "0"], ["--workers", "greater than or equal to 1"]),
        (["run", "spec.toml", "--memory", "lots"], ["--memory lots", "such as `4GiB`"]),
        (["run", "spec.toml", "--memory", "100"], ["--memory 100", "a unit"]),
        (["run", "spec.toml", "--memory", ""], ["a number and a unit"]),
        (["run", "spec.toml", "--set", "lag"], ["--set lag: write KEY=VALUE", "such as"]),
        (["run", "spec.toml", "--set", "aggregate.0.half_live=1"], ["aggregate.0.half_live", "`half_lives`"]),
        (["aggregate", *INPUTS], ["no output", "-o OUT"]),
        (["aggregate", *INPUTS[:4], "-o", "o.parquet"], ["--embedding"]),
        (["aggregate", *INPUTS[:4], "-e", "x.parquet", "-o", "o.parquet"], ["NAME=PATH", "-e x=x.parquet"]),
        (["aggregate", *INPUTS, "-o", "o.parquet", "--history", "liked"], ["--history liked", "NAME=WHERE"]),
        (["aggregate", *INPUTS, "-o", "o.parquet", "--percentile", "100"], ["percentile", "99", "got 100"]),
        (["aggregate", *INPUTS, "-o", "o.parquet", "--half-life", "3y"], ["`3y` is not a duration", "`30d`"]),
    ],
)
def test_usage_that_is_wrong_says_what_is_right(world: World, arguments: list[str], parts: list[str]) -> None:
    world.spec()
    before = names(world.folder)
    told = extembed(*arguments, cwd=world.folder).failed(2, *parts)
    assert told.out == ""
    assert names(world.folder) == before


@pytest.mark.parametrize(
    "flags", [["-e", "text=text.parquet"], ["--history", "a=rating > 3", "--history", "a=rating < 2"]]
)
def test_a_name_that_is_given_twice(world: World, flags: list[str]) -> None:
    """One of the two would be lost."""
    extembed("aggregate", *INPUTS, "-o", "o.parquet", *flags, cwd=world.folder).failed(2, "twice")


def test_more_memory_than_there_is(world: World) -> None:
    extembed("run", world.spec(), "--memory", "1MB").failed(
        5, "needs at least", "libraries", "may use 1 MiB", "Raise --memory"
    )
    assert "out.parquet" not in names(world.folder)


@pytest.mark.parametrize(
    "arguments", [["--help"], *([*c.split(), "--help"] for c in FLAGS), ["--version"], ["aggregat"]]
)
def test_help_starts_without_the_libraries_for_data(arguments: list[str]) -> None:
    shown = extembed(*arguments, env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.err.splitlines() if "|" in line}
    assert "extembed_cli" in imported
    assert not imported & {"polars", "numpy", "pyarrow"}


# --- flags, specs and overrides ----------------------------------------------------------------------

FLAGS_OF_A_RUN = [
    *("--history", "liked=rating >= 4", "--history", "disliked=rating <= 2"),
    *("--half-life", "7d", "--half-life", "none", "--percentile", "5", "--percentile", "90"),
    *("--threshold", "0.3", "--threshold", "-0.2", "--center", "--weight", "rating / 2.0"),
    *("--lag", "1h", "--window", "40d", "--max-events", "12"),
]
SPEC_OF_A_RUN = """
lag = "1h"
weight = "rating / 2.0"
[embeddings.text]
path = "text.parquet"
center = true
[histories.liked]
where = "rating >= 4"
window = "40d"
max_events = 12
[histories.disliked]
where = "rating <= 2"
window = "40d"
max_events = 12
[[aggregate]]
half_lives = ["7d", "none"]
percentiles = [5, 90]
thresholds = [0.3, -0.2]
"""


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], ""),
        (FLAGS_OF_A_RUN, SPEC_OF_A_RUN),
        (["--as-of", "2023-12-20 06:00"], 'as_of = "2023-12-20 06:00"\n'),
        (["--window", "9d", "--max-events", "3"], '[histories.all]\nwindow = "9d"\nmax_events = 3\n'),
        (["--no-center", "--set", "lag=1d"], 'lag = "1d"\n'),
    ],
)
def test_flags_and_a_spec_make_the_same_bytes(world: World, flags: list[str], text: str) -> None:
    expected = world.run(text)
    made = world.folder / "flags.parquet"
    extembed("aggregate", *INPUTS, "-o", made.name, *flags, cwd=world.folder).ok()
    assert_frame_equal(pl.read_parquet(made), expected, check_exact=True)
    assert made.read_bytes() == (world.folder / "out.parquet").read_bytes()


def test_set_overrides_a_spec(world: World) -> None:
    changes = [
        'aggregate.0.half_lives=["7d", "none"]',
        "embeddings.text.center=true",
        "histories.liked.where=rating >= 4",
        'aggregate.1={name = "short", half_lives = ["1d"], percentiles = []}',
        "output=other.parquet",
    ]
    sets = [part for change in changes for part in ("--set", change)]
    extembed("run", world.spec(), *sets, cwd=world.folder).ok()
    expected = world.run(
        '[embeddings.text]\npath = "text.parquet"\ncenter = true\n[histories.liked]\nwhere = "rating >= 4"\n'
        '[[aggregate]]\nhalf_lives = ["7d", "none"]\n'
        '[[aggregate]]\nname = "short"\nhalf_lives = ["1d"]\npercentiles = []\n'
    )
    assert_frame_equal(pl.read_parquet(world.folder / "other.parquet"), expected, check_exact=True)


def test_paths_in_flags_start_here_and_those_of_a_spec_at_its_folder(world: World, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    spec = world.spec()
    expected = world.run()
    extembed("run", f"../{spec.name}", "-o", "mine.parquet", cwd=here).ok()
    flags = [f.replace("text=", "text=../") if "=" in f else f"../{f}" if "." in f else f for f in INPUTS]
    extembed("aggregate", *flags, "-o", "flags.parquet", cwd=here).ok()
    assert {n for n in names(here) if n.endswith(".parquet")} == {"mine.parquet", "flags.parquet"}
    for name in ("mine", "flags"):
        assert_frame_equal(pl.read_parquet(here / f"{name}.parquet"), expected, check_exact=True)


# --- what is printed, and where ----------------------------------------------------------------------


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
    for part in ("600 rows", "300 rows", "out.parquet", "11 features", "MiB", *plan["columns"]):
        assert part in as_text.out


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


def test_a_run_speaks_on_stderr_alone(world: World) -> None:
    spec = world.spec()
    quiet, usual, verbose = (extembed("run", spec, *flags).ok() for flags in (["-q"], [], ["-v"]))
    assert quiet.err == quiet.out == usual.out == verbose.out == ""
    assert len(usual.err.splitlines()) == 1
    assert all(part in usual.err for part in ("out.parquet", "300 rows", "features in"))
    stages = re.findall(r"^(\w+) \.\.\.$", verbose.err, re.MULTILINE)
    assert stages == ["check", "read", "shard", "vectors", "compute", "encode", "write"]
    # No terminal: neither a bar nor colours, even for those who ask for them elsewhere.
    assert "\x1b" not in extembed("run", spec, "-v", env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).ok().err


def test_a_traceback_is_for_those_who_ask_twice(world: World) -> None:
    for flags, shown in (([], 0), (["-v"], 0), (["-v", "-v"], 1), (["-vv"], 1)):
        told = extembed("run", world.folder / "none.toml", *flags)
        assert (told.code, told.err.count("Traceback")) == (2, shown)


def on_a_terminal(*arguments: str | Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run whose stderr is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*EXTEMBED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**{k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}, **env},
        text=True,
    ) as run:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux' way to say that the other end is closed
            while chunk := os.read(ours, 65_536):
                shown += chunk
        os.close(ours)
        assert run.stdout is not None
        return run.wait(), run.stdout.read(), shown.decode()


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_a_bar(world: World, env: dict[str, str], coloured: bool) -> None:
    code, out, err = on_a_terminal("run", world.spec(), env={"TERM": "xterm-256color", **env})
    assert (code, out) == (0, "")
    assert "━" in err and "rows" in err
    assert bool(re.search(r"\x1b\[[0-9;]*[34]\d(;[0-9]+)*m", err)) == coloured
    assert err.splitlines()[-1].endswith("MiB resident") and "300 rows" in err.splitlines()[-1]


def test_quiet_and_dumb_terminals_get_no_bar(world: World) -> None:
    assert on_a_terminal("run", world.spec(), "-q", env={"TERM": "xterm"}) == (0, "", "")
    code, _, err = on_a_terminal("run", world.spec(), env={"TERM": "dumb"})
    assert code == 0
    assert "━" not in err and "\x1b" not in err


def test_the_terminal_is_left_as_it_was_after_an_error(world: World) -> None:
    (world.folder / "candidates.parquet").write_bytes(b"")
    code, out, err = on_a_terminal("run", world.spec(), env={"TERM": "xterm"})
    assert (code, out) == (3, "")
    assert err.count("\x1b[?25l") == err.count("\x1b[?25h")  # the cursor is hidden while there is a bar
    assert "candidates.parquet: cannot be read" in err and "Traceback" not in err


# --- check, columns, sample, outputs -----------------------------------------------------------------


def test_check_tells_what_there_is(world: World) -> None:
    spec = world.spec()
    before = names(world.folder)
    shown = extembed("check", spec).ok()
    assert all(part in shown.out for part in ("600 rows", "300 rows", "35 rows of 8 dimensions", "no problems found"))
    assert only_json(extembed("check", spec, "--json").ok().out)["inputs"]["embeddings"]["text"]["dim"] == 8
    quiet = extembed("check", spec, "-q").ok()
    assert quiet.out == quiet.err == ""
    assert names(world.folder) == before


def test_columns_are_those_that_run_writes(world: World) -> None:
    made = world.run(SPEC_OF_A_RUN)
    spec = world.folder / "spec.toml"
    for name in ("interactions", "candidates", "text"):  # no data is needed
        (world.folder / f"{name}.parquet").unlink()
    listed = only_json(extembed("columns", spec, "--json").ok().out)["columns"]
    written = list(made.schema.items())[4:]
    assert [(c["name"], c["dtype"]) for c in listed] == [(name, str(dtype)) for name, dtype in written]
    assert all(c["meaning"] for c in listed)
    lines = [f"{c['name']}\t{c['dtype']}\t{c['meaning']}" for c in listed]
    assert extembed("columns", spec).ok().out.splitlines() == lines


def test_the_sample_runs(tmp_path: Path) -> None:
    told = extembed("sample", "try", cwd=tmp_path).ok()
    assert told.out == ""
    assert "extembed run try/spec.toml" in told.err
    extembed("check", "try/spec.toml", cwd=tmp_path).ok()
    extembed("run", "try/spec.toml", cwd=tmp_path).ok()
    made = pl.read_parquet(tmp_path / "try" / "features.parquet")
    assert len(made) == pq.read_metadata(tmp_path / "try" / "candidates.parquet").num_rows
    extembed("sample", "try", cwd=tmp_path).failed(2, "try: holds other files", "name a new folder")


def test_a_directory_of_parts_with_its_manifest_and_report(world: World) -> None:
    expected = world.run()
    spec = world.folder / "spec.toml"
    for _ in range(2):  # an output of ours can be written again
        extembed("run", spec, "-o", world.folder / "made").ok()
        manifest = json.loads((world.folder / "made" / "_extembed_manifest.json").read_text())
        assert names(world.folder / "made") == {"_extembed_manifest.json", *(p["file"] for p in manifest["parts"])}
    assert manifest["rows"] == sum(part["rows"] for part in manifest["parts"]) == 300
    parts = [pl.read_parquet(world.folder / "made" / part["file"]) for part in manifest["parts"]]
    assert_frame_equal(pl.concat(parts), expected, check_exact=True)
    report = json.loads((world.folder / "made.run.json").read_text())
    assert report["rows_out"] == 300
    assert not [name for name in names(world.folder) if name.endswith((".tmp", ".lock"))]
