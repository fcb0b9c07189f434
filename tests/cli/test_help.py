"""Help, usage and versions: help explains every flag, and usage errors say how to fix them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXTEMBED, World, extembed, extembed_process, soak
from helpers.commands import INPUTS, names

import extembed_cli

SCRIPT = Path(sys.executable).with_name("extembed")
COMMON = "--workers --memory --wait --json --quiet -q --verbose -v"
FLAGS = {
    "run": "SPEC.toml --output -o --engine --set --require --allow-empty --dry-run --scratch --cache --fresh " + COMMON,
    "aggregate": "-i --interactions -c --candidates -e --embedding NAME=PATH -o --output --half-life --percentile "
    "--threshold --target --residual --prior-events --residual-half-life --temperature --top --sd "
    "--history NAME=WHERE --center --no-center --as-of --lag --window --max-events --weight "
    "--time-unit --set --require --allow-empty --dry-run " + COMMON,
    "dual": "-i --interactions -c --candidates -e --embedding NAME=PATH -o --output --user-vectors "
    "--regularization --unobserved-weight --scaling --half-life --target --residual --prior-events "
    "--residual-half-life --loss --bias --sd --refit-every --history NAME=WHERE --center --no-center "
    "--as-of --lag --window --max-events --weight --time-unit --set --require --allow-empty --dry-run " + COMMON,
    "evaluate": "FEATURES.parquet --label --output -o --time --user --group --time-unit --baseline "
    "--test-fraction --gap --from --max-rows --steps --ranker --seed --seeds --resamples --min-gain --require --strict "
    + COMMON,
    "check": "SPEC.toml --set --require --allow-empty --json -q -v",
    "columns": "SPEC.toml FEATURES.parquet --set --technique --names --catboost --label --group --json",
    "explain": "SPEC.toml --row --user --item --at --columns --limit --set --scratch --cache --workers --memory --json "
    "--quiet -q --verbose -v",
    "verify": "OUT --report --inputs --json -q -v",
    "center": "TABLE -o --output --gramian --item --embedding --bad-vectors --duplicates " + COMMON,
    "import": "SOURCE --output -o --ids --key --id-column --vector-columns --users --ids-as --format --wait "
    "--json -q -v",
    "sample": "DIR --seed",
    "neural train": "SPEC.toml --label --model --until --group --max-events --set --encoder --dim --id-embedding "
    "--candidate --no-candidate --whiten --loss --epochs --batch-size --lr --dropout --seed --device "
    "--resume --user-vectors --item-vectors --scratch " + COMMON,
}


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


@pytest.mark.parametrize("arguments", [["--version"], soak(["--help"]), soak(["aggregate", "--help"]), ["aggregat"]])
def test_the_script_and_the_module_are_one_program(arguments: list[str]) -> None:
    script, module = (
        subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60, check=False)
        for program in ([str(SCRIPT)], EXTEMBED)
    )
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_that_of_the_package(flag: str) -> None:
    assert extembed(flag).ok().out == f"extembed {extembed_cli.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["neural", "--help"]])
def test_the_lists_of_commands_are_not_cut_short(arguments: list[str]) -> None:
    shown = extembed_process(*arguments, env={"COLUMNS": "80"}).ok().out.split("Commands:")[1]
    for line in shown.strip().splitlines():
        assert line.endswith("."), line
        assert not line.endswith("..."), line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    script = extembed_process(env={"_EXTEMBED_COMPLETE": f"source_{shell}"}).ok().out
    assert "_EXTEMBED_COMPLETE=complete_" in script
    for flag in ("--install-completion", "--show-completion"):
        assert flag in extembed("--help").ok().out


@pytest.mark.parametrize(
    ("typed", "completed"), [("ev", ["evaluate"]), soak("evaluate --req", ["--require"]), soak("neural t", ["train"])]
)
def test_bash_completes_commands_and_flags(typed: str, completed: list[str]) -> None:
    words = ["extembed", *typed.split()]
    script = f"""
        eval "$(_EXTEMBED_COMPLETE=source_bash extembed)"
        COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
        _extembed_completion extembed
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == completed


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["aggregat"], ["'aggregat'", "Did you mean 'aggregate'?"]),
        (["colums", "spec.toml"], ["'colums'", "'columns'"]),
        (["aggregate", "--half-lif", "3d"], ["--half-lif ", "--half-life"]),
        (["run", "spec.toml", "--dryrun"], ["--dryrun", "--dry-run"]),
        (["run"], ["SPEC.toml"]),
        (["run", "spec.tml"], ["spec.tml: no such spec file", "extembed sample DIR"]),
        (["run", f"{'a' * 300}.toml"], ["aaa.toml: this name is too long for the file system"]),
        (["run", "spec.toml", "-o", f"{'a' * 300}.parquet"], ["aaa.parquet: this name is too long"]),
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
def test_usage_errors_say_how_to_fix_them(world: World, arguments: list[str], parts: list[str]) -> None:
    world.spec()
    before = names(world.folder)
    done = extembed(*arguments, cwd=world.folder).failed(2, "extembed: error: ", *parts)
    assert done.out == ""
    assert names(world.folder) == before


@pytest.mark.parametrize(
    "flags", [["-e", "text=text.parquet"], ["--history", "a=rating > 3", "--history", "a=rating < 2"]]
)
def test_a_name_given_twice_is_refused(world: World, flags: list[str]) -> None:
    """Otherwise one of the two would be lost without a message."""
    extembed("aggregate", *INPUTS, "-o", "o.parquet", *flags, cwd=world.folder).failed(2, "twice")


def test_a_job_that_does_not_fit_into_memory_is_refused(world: World) -> None:
    extembed("run", world.spec(), "--memory", "1MB").failed(
        5, "needs at least", "libraries", "may use only 1 MiB", "Raise --memory"
    )
    assert "out.parquet" not in names(world.folder)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["run", "--help"]),
        *map(soak, (["neural", "train", "--help"], ["--version"], ["aggregat"])),
        *(soak([command, "--help"]) for command in FLAGS if command not in {"run", "neural train"}),
    ],
)
def test_help_imports_no_data_libraries(arguments: list[str]) -> None:
    shown = extembed_process(*arguments, env={"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.err.splitlines() if "|" in line}
    assert "extembed_cli" in imported
    assert not imported & {"polars", "numpy", "pyarrow"}
