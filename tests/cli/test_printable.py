"""No id, path or name of a column fakes a line, colours or erases a terminal, or turns the text that follows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, extembed_process, soak, vectors
from helpers.commands import INPUTS, only_json
from helpers.terminal import on_a_terminal

from extembed_cli.data.files.sealed import read_sealed
from extembed_cli.printable import printable, printable_json

BAD = "x\nextembed: error: faked\x1b[31m\u202ey\x9b\x7f\u2028\u2066"
SHOWN = r"x\nextembed: error: faked\x1b[31m\u202ey\x9b\x7f\u2028\u2066"
UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def assert_plain(text: str, lines: int | None = None) -> None:
    assert not UNPRINTABLE.search(text), ascii(text)
    assert not re.search("^extembed: error: faked", text, re.MULTILINE)
    assert lines is None or len(text.splitlines()) == lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe Σ 😀 \\n 'a'", "größe Σ 😀 \\n 'a'"),
        ("a\nb\tc\rd\x00", r"a\nb\tc\rd\x00"),
        ("\x1b[2J\x7f\x9b", r"\x1b[2J\x7f\x9b"),
        ("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\udcff\udc80\ud800", r"\xff\x80\ud800"),
    ],
)
def test_unprintable_characters_are_written_as_in_python(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert json.loads(printable_json({text: [text]})) == {text: [text]}
    assert not UNPRINTABLE.search(printable_json({text: [text]}))


class Case(NamedTuple):
    """A command on inputs with bad text in them."""

    command: tuple[str, ...]
    change: Callable[[World], object] = lambda world: None
    code: int = 0
    lines: int | None = 1
    """Of stderr"""


PATHS = 'interactions = "interactions.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
TABLE = '[embeddings.text]\npath = "text.parquet"\n'


def spec(text: str, top: str = "") -> Callable[[World], object]:
    """A spec with some tables, and with some keys before its first table."""
    return lambda world: world.spec(f"{PATHS}{top}{TABLE}{text}")


def renamed(name: str, column: str) -> Callable[[World], object]:
    def change(world: World) -> None:
        table = world.table(name)
        world.write(name, table.rename_columns([BAD if each == column else each for each in table.column_names]))
        world.spec()

    return change


def repeated_ids(world: World) -> None:
    world.write("text", {"item_id": [BAD, BAD], "embedding": vectors(np.ones((2, 8)))})
    for name in ("interactions", "candidates"):
        table = world.table(name)
        world.write(name, table.set_column(1, "item_id", pa.array([BAD] * len(table))))
    world.spec()


def hive_folders(world: World) -> None:
    folder = world.folder / f"k{BAD}=v{BAD}"
    folder.mkdir()
    (world.folder / "interactions.parquet").rename(folder / "part.parquet")
    (world.folder / "log").mkdir()
    folder.rename(world.folder / "log" / folder.name)
    world.spec(f'weight = "k"\n{PATHS.replace("interactions.parquet", "log")}{TABLE}')


def text_of_times(world: World) -> None:
    table = world.table("interactions")
    world.write("interactions", table.set_column(2, "timestamp", pa.array([BAD] * len(table))))
    world.spec()


def torn(world: World) -> None:
    (world.folder / f"{BAD}.parquet").write_bytes(b"PAR1")


TOML = json.dumps(BAD).replace("\x7f", "\\u007f")
RUN, CHECK = ("run", "spec.toml"), ("check", "spec.toml")
AGGREGATE = ("aggregate", *INPUTS, "-o")
ABSENT = ("aggregate", "-i", f"{BAD}.parquet", *INPUTS[2:], "-o", "o.parquet")
CASES = {
    "path of an input": Case(ABSENT, code=3),
    "path of a torn input": Case(ABSENT, torn, 3),
    "path of an output": Case((*AGGREGATE, f"{BAD}.csv"), code=2),
    "path in the summary": Case((*AGGREGATE, f"{BAD}.parquet")),
    "path of a spec": Case(("run", f"{BAD}.toml"), code=2),
    "path in a plan": Case((*AGGREGATE, f"{BAD}.parquet", "--dry-run"), lines=0),
    "path as JSON": Case((*AGGREGATE, f"{BAD}.parquet", "--json")),
    "path of a model": Case(RUN, spec(f"[[neural]]\nmodel = {TOML}\n"), 3),
    "path of vectors": Case(RUN, spec(f"[[dual]]\nuser_vectors = {TOML}\n"), 2),
    "path to verify": Case(("verify", BAD), code=3),
    "path to columns": Case(("columns", BAD), code=3),
    "path of a sample": Case(("sample", BAD)),
    "names of folders": Case(RUN, hive_folders, 2),
    "column": Case(RUN, renamed("candidates", "user_id"), 1),
    "column of vectors": Case(CHECK, renamed("text", "embedding"), 1),
    "column in a spec": Case(RUN, spec(f"[columns]\nuser = {TOML}\n"), 1, 2),
    "expression": Case(RUN, spec("", f"weight = {TOML}\n"), 2),
    "text in an expression": Case(RUN, spec(f"[histories.a]\nwhere = {TOML}\n"), 2),
    "key": Case(RUN, spec("", f"{TOML} = 1\n"), 2),
    "name of a table": Case(RUN, spec(f'[embeddings.{TOML}]\npath = "text.parquet"\n'), 2, None),
    "name of a history": Case(RUN, spec(f"[[aggregate]]\nhistories = [{TOML}]\n"), 2),
    "name of a group": Case(RUN, spec(f"[[aggregate]]\nname = {TOML}\n"), 2),
    "column of requests": Case(RUN, spec(f"[within]\nby = {TOML}\ncolumns = [{TOML}]\n"), 2, 2),
    "time": Case(RUN, spec("", f"as_of = {TOML}\nlag = {TOML}\n"), 2, 2),
    "id": Case(RUN, repeated_ids, 1),
    "id as JSON": Case((*CHECK, "--json"), repeated_ids, 1),
    "values": Case(RUN, text_of_times, 1),
    "flag": Case((*RUN, "--memory", BAD), spec(""), 2),
    "override": Case((*RUN, "--set", BAD), spec(""), 2),
    "key of an override": Case((*RUN, "--set", f"{BAD}=1"), spec(""), 2),
    "unknown option": Case((*RUN, f"--{BAD}"), spec(""), 2, 4),
    "unknown command": Case((BAD,), code=2, lines=4),
    "traceback": Case(("run", f"{BAD}.toml", "-vv"), code=2, lines=None),
}
QUICK = {"path of a torn input", "path as JSON", "column", "id", "key", "column of requests", "unknown option"}


@pytest.mark.parametrize("name", [name if name in QUICK else soak(name) for name in CASES])
def test_nothing_unprintable_is_printed(world: World, name: str) -> None:
    case = CASES[name]
    case.change(world)
    done = extembed(*case.command, cwd=world.folder)
    assert done.code == case.code, done.err
    assert_plain(done.out)
    assert_plain(done.err, case.lines)
    shown = done.err or done.out
    assert SHOWN in shown or "x\\x0aextembed: error: faked" in shown or "x\\nextembed" in shown
    if "--json" in case.command:
        assert BAD in only_json(done.out).get("output", BAD)


def test_names_in_results_and_reports(world: World) -> None:
    renamed("candidates", "label")(world)
    output = world.folder / f"{BAD}.parquet"
    extembed("run", world.folder / "spec.toml", "-o", output).ok()
    report = output.with_name(f"{output.name}.run.json")
    assert_plain(report.read_text())
    assert read_sealed(report)["output"] == str(output)
    assert SHOWN in extembed("verify", output).ok().out
    listed = extembed("columns", output, "--catboost", "-", "--label", BAD).ok().out
    assert f"3\tLabel\t{SHOWN}\n" in listed
    assert_plain(listed.replace("\t", " "))
    extembed("columns", output, "--catboost", world.folder / "features.cd").ok()
    assert f"3\tAuxiliary\t{SHOWN}\n" in (world.folder / "features.cd").read_text()
    extembed("columns", output, "--catboost", "-", "--label", "labl").failed(2, SHOWN)


def test_features_of_a_crafted_footer_are_listed_as_text(world: World) -> None:
    """The columns of earlier runs come from the candidates, whose metadata anybody may have written."""
    renamed("candidates", "label")(world)
    column = {"name": BAD, "dtype": BAD, "technique": BAD, "meaning": BAD}
    about = json.dumps({"columns": [column, 1, {"name": ["a"]}], "spec": {}})
    world.write("candidates", world.table("candidates").replace_schema_metadata({"extembed": about}))
    extembed("columns", world.folder / "candidates.parquet").failed(3, "no readable `extembed` metadata")
    about = json.dumps({"columns": [column], "spec": {}})
    world.write("candidates", world.table("candidates").replace_schema_metadata({"extembed": about}))
    shown = extembed("columns", world.folder / "candidates.parquet").ok()
    assert shown.out == "\t".join([SHOWN] * 4) + "\n"
    assert extembed("columns", world.folder / "candidates.parquet", "--names").ok().out == f"{SHOWN}\n"


BYTES = os.fsdecode(b"b\xff")
NOT_UTF8 = {
    "input": (("aggregate", "-i", f"{BYTES}.parquet", *INPUTS[2:], "-o", "o.parquet"), 3),
    "output": (("aggregate", *INPUTS, "-o", f"{BYTES}.parquet"), 2),
    "directory": (("aggregate", *INPUTS, "-o", BYTES), 2),
    "vectors": (("dual", *INPUTS, "-o", "o.parquet", "--user-vectors", f"{BYTES}.parquet"), 2),
    "spec": (("run", f"{BYTES}.toml"), 2),
    "expression": (("aggregate", *INPUTS, "-o", "o.parquet", "--weight", BYTES), 2),
    "history": (("aggregate", *INPUTS, "-o", "o.parquet", "--history", f"{BYTES}=rating > 3"), 2),
    "text": (("aggregate", *INPUTS, "-o", "o.parquet", "--history", f"a=rating = '{BYTES}'"), 2),
    "cache": (("aggregate", *INPUTS, "-o", "o.parquet", "--cache", BYTES), 2),
    "mean": (("center", "text.parquet", "-o", f"{BYTES}.parquet"), 2),
    "sample": (("sample", BYTES), 2),
    "verify": (("verify", f"{BYTES}.parquet"), 1),
    "columns": (("columns", f"{BYTES}.parquet"), 3),
    "evaluate": (("evaluate", f"{BYTES}.parquet", "--label", "label", "-o", "report"), 3),
    "flag": (("run", "spec.toml", "--memory", BYTES), 2),
}


@pytest.mark.parametrize("case", [case if case in {"input", "output", "history"} else soak(case) for case in NOT_UTF8])
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_names_that_are_no_utf8_are_refused(world: World, case: str, flags: tuple[str, ...]) -> None:
    world.spec()
    (world.folder / f"{BYTES}.parquet").write_bytes((world.folder / "interactions.parquet").read_bytes())
    before = {path.name for path in world.folder.iterdir()}
    command, code = NOT_UTF8[case]
    done = extembed(*command, *(flags if case != "sample" else ()), cwd=world.folder).failed(code)
    if case not in {"verify", "columns", "evaluate", "expression", "text", "flag", "spec"}:
        assert "is not valid UTF-8" in done.err
    assert re.search(r"b(\\xff|\\udcff)", done.err)
    assert_plain(done.err, lines=1)
    assert_plain(done.out)
    assert not [path for path in world.folder.iterdir() if path.name not in before and path.is_file()]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("command", "code", "part"),
    [
        (("columns", "spec.toml"), 0, r"t \u2212 newest visible event"),
        soak(("run", "spec.toml", "-o", "größe.parquet"), 2, "is not valid UTF-8; rename the file or folder, or set a"),
        soak(("aggregate", "-i", "größe.parquet", *INPUTS[2:], "-o", "o.parquet"), 3, "größe.parquet: no such file"),
        soak(("run", "größe.toml"), 2, "größe.toml: no such spec file"),
    ],
)
def test_a_terminal_without_the_characters_gets_them_escaped(
    world: World, command: tuple[str, ...], code: int, part: str
) -> None:
    world.spec()
    done = extembed_process(*command, cwd=world.folder, env=ASCII)
    assert done.code == code, done.err
    shown = part.replace("ö", r"\xc3\xb6").replace("ß", r"\xc3\x9f")
    assert shown in done.out + done.err
    assert (done.out + done.err).isascii()


def test_messages_on_a_terminal_are_plain(world: World) -> None:
    output = world.folder / "out"
    extembed("run", world.spec(), "-o", output).ok()
    (output / BAD).touch()
    code, _, err = on_a_terminal("verify", output, env={"TERM": "xterm"})
    assert code == 0
    without_bar = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\r", "", err)
    assert_plain(without_bar)
    (line,) = (line for line in without_bar.splitlines() if "other files" in line)
    assert line.rstrip().endswith(f"out: other files, which are no parts: {SHOWN}")
