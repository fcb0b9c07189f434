"""`verify` tells what is wrong with the files of a run: exit 0 if nothing is, else 1 and all problems together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from conftest import World, extembed, soak
from helpers.commands import only_json
from helpers.faults import MANIFEST, undisturbed
from helpers.refusals import contents

from extembed_cli.data.files.sealed import sealed
from extembed_cli.jobs import verify as verify_module

SPEC = "[[aggregate]]\n[[dual]]\n{0}user_vectors = 'users.parquet'\n"
REPORT = "out.parquet.run.json"
CENTERED = '[embeddings.text]\npath = "text.parquet"\ncenter = "mean.parquet"\n[[aggregate]]\n'


@pytest.fixture
def written(world: World) -> World:
    """Provides an output with user vectors: `out.parquet`, `users.parquet`."""
    undisturbed("run", world.spec(SPEC.format(""))).ok()
    return world


@pytest.fixture
def parts(world: World) -> World:
    """Provides an output of three parts: `out`."""
    undisturbed("run", world.spec(), "-o", world.folder / "out").ok()
    return world


def quick(cases: dict[str, Any], *names: str) -> list[Any]:
    """Return all cases, those without these names for `make soak` alone."""
    return [case if case in names else soak(case) for case in cases]


def flip(path: Path, place: int = 100) -> None:  # in the values of the first page
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def first_part(folder: Path) -> Path:
    return min(folder.glob("out/part-*"))


def report_of(folder: Path, **changes: object) -> None:
    """Write the run report with other values, as the run would have written them."""
    path = folder / REPORT
    report = {**json.loads(path.read_text()), **changes}
    del report["checksum"]
    path.write_text(json.dumps(sealed(report), indent=2, ensure_ascii=False) + "\n")


def test_whole_files_pass_and_nothing_is_written(written: World) -> None:
    before = contents(written.folder)
    for output in ("out.parquet", "users.parquet"):
        done = extembed("verify", output, cwd=written.folder).ok()
        assert done.err == ""
        names = [line.partition(": ")[::2] for line in done.out.splitlines()]
        assert [(Path(name).name, said) for name, said in names[:2]] == [
            ("out.parquet", "300 rows, as its run wrote it"),
            ("users.parquet", "30 rows, as its run wrote it"),
        ]
        assert names[2][0].startswith("inputs since 20") and names[2][1] == "unchanged"
    quiet = extembed("verify", written.folder / "out.parquet", "-q").ok()
    assert quiet.out == quiet.err == ""
    assert contents(written.folder) == before


def test_json_has_every_file_and_input(written: World) -> None:
    told = only_json(extembed("verify", written.folder / "out.parquet", "--json").ok().out)
    assert [(Path(file["path"]).name, file["rows"], len(file["sha256"])) for file in told["files"]] == [
        ("out.parquet", 300, 64),
        ("users.parquet", 30, 64),
    ]
    assert told["inputs"] == dict.fromkeys(("interactions", "candidates", "embeddings text"), "unchanged")
    flip(written.folder / "users.parquet")
    told = only_json(extembed("verify", written.folder / "out.parquet", "--json").failed(1, "users.parquet").out)
    assert (told["error"]["kind"], told["exit"]) == ("data", 1)


def rewritten(path: Path) -> None:
    """Write a file again by another program, with the same rows."""
    pl.read_parquet(path).write_parquet(path)


OF_A_FILE: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "a flipped bit": (lambda f: flip(f / "out.parquet"), 1, ("out.parquet: cannot be read", "CRC")),
    "torn": (lambda f: (f / "out.parquet").write_bytes(b"PAR1"), 1, ("out.parquet: cannot be read", "Write it again")),
    "another program": (lambda f: rewritten(f / "out.parquet"), 1, ("out.parquet: has other bytes", "Run again")),
    "gone": (lambda f: (f / "out.parquet").unlink(), 1, ("out.parquet: is missing", "Run again")),
    "vectors gone": (lambda f: (f / "users.parquet").unlink(), 1, ("users.parquet: is missing",)),
    "vectors damaged": (lambda f: flip(f / "users.parquet"), 1, ("users.parquet: cannot be read", "CRC")),
    "no report": (lambda f: (f / REPORT).unlink(), 1, (f"no run report {REPORT}", "--report")),
    "another report": (lambda f: (f / REPORT).write_text("{}\n"), 1, (f"{REPORT}: was changed", "Run again")),
    "a changed report": (
        lambda f: (f / REPORT).write_text((f / REPORT).read_text().replace("300", "301")),
        1, (f"{REPORT}: was changed or damaged",),
    ),
    "no run report at all": (
        lambda f: (f / REPORT).write_text(json.dumps(sealed({"a": 1}), indent=2) + "\n"),
        1, (f"{REPORT}: is not a run report of this version",),
    ),
    "other rows": (lambda f: report_of(f, rows_out=301), 1, ("has 300 rows, but its run wrote 301",)),
    "no output": (lambda f: [path.unlink() for path in f.glob("out*")], 3, ("out.parquet: no such file or directory",)),
}  # fmt: skip


@pytest.mark.parametrize("case", quick(OF_A_FILE, "a flipped bit", "another program", "gone", "a changed report"))
def test_what_is_wrong_with_a_file(written: World, case: str) -> None:
    change, code, message = OF_A_FILE[case]
    change(written.folder)
    before = contents(written.folder)
    assert extembed("verify", written.folder / "out.parquet").failed(code, *message).out == ""
    assert contents(written.folder) == before


OF_A_DIRECTORY: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a flipped bit": (lambda f: flip(first_part(f)), ("part-00000", "cannot be read", "CRC")),
    "a part of another program": (lambda f: rewritten(first_part(f)), ("part-00000", "has other bytes")),
    "a part is gone": (lambda f: first_part(f).unlink(), ("part-00000", "is missing")),
    "a changed manifest": (lambda f: flip(f / "out" / MANIFEST, 12), (f"{MANIFEST}: has other bytes",)),
    "no manifest": (lambda f: (f / "out" / MANIFEST).unlink(), (f"{MANIFEST}: cannot be read: No such file",)),
    "another manifest": (lambda f: (f / "out" / MANIFEST).write_text("[1]"), (f"{MANIFEST}: not a readable manifest",)),
    "a wrong manifest": (
        lambda f: (f / "out" / MANIFEST).write_text('{"parts": [{"file": "x", "rows": "many", "sha256": 1}]}'),
        ("not a readable manifest",),
    ),
    "endless rows": (
        lambda f: (f / "out" / MANIFEST).write_text('{"parts": [{"file": "x", "rows": 1e999, "sha256": ""}]}'),
        ("not a readable manifest",),
    ),
    "a name with NUL": (
        lambda f: (f / "out" / MANIFEST).write_text('{"parts": [{"file": "a\\u0000b", "rows": 1, "sha256": ""}]}'),
        ("not a readable manifest",),
    ),
    "a deep manifest": (lambda f: (f / "out" / MANIFEST).write_text("[" * 100_000), ("nested too deeply",)),
    "a stray part": (
        lambda f: shutil.copy(first_part(f), f / "out" / "part-00009-aaaaaaaaaaaa.parquet"),
        ("out: has other parts, part-00009-aaaaaaaaaaaa.parquet", "Remove them"),
    ),
    "stray parts in a folder": (
        lambda f: shutil.copytree(f / "out", f / "out" / "sub"), ("out: has other parts, sub/part-00000-",)
    ),
    "a file in its place": (
        lambda f: (shutil.rmtree(f / "out"), shutil.copy(f / "text.parquet", f / "out")), ("out: has other bytes",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", quick(OF_A_DIRECTORY, "a flipped bit", "a changed manifest"))
def test_what_is_wrong_with_a_directory(parts: World, case: str) -> None:
    change, message = OF_A_DIRECTORY[case]
    change(parts.folder)
    extembed("verify", parts.folder / "out").failed(1, *message)


def test_other_files_in_a_directory_are_told(parts: World) -> None:
    assert extembed("verify", parts.folder / "out").ok().err == ""
    (parts.folder / "out" / "notes.txt").touch()
    assert "other files, which are no parts: notes.txt" in extembed("verify", f"{parts.folder / 'out'}/").ok().err


def test_a_directory_is_verified_from_inside(parts: World) -> None:
    assert str(parts.folder / "out") in extembed("verify", ".", cwd=parts.folder / "out").ok().out
    extembed("verify", "/").failed(3, "/: is no output of a run")


def test_all_problems_are_told_together(written: World) -> None:
    flip(written.folder / "out.parquet")
    (written.folder / "users.parquet").unlink()
    (written.folder / "text.parquet").unlink()
    done = extembed("verify", written.folder / "out.parquet", "--inputs", "error")
    done.failed(1, "out.parquet: cannot be read", "users.parquet: is missing", "text.parquet: no such file")
    assert len(done.err.splitlines()) == 3


def test_files_of_another_run_are_told_apart(written: World) -> None:
    """As after a kill between the renames, and as if another job wrote the same file of vectors."""
    folder = written.folder
    old = {name: (folder / name).read_bytes() for name in ("out.parquet", "users.parquet", REPORT)}
    undisturbed("run", written.spec(SPEC.format("regularization = 7\n"))).ok()
    new = {name: (folder / name).read_bytes() for name in old}
    apart = "out.parquet: not all files are of one run: (1) {}; (2) {}. A run was killed between renaming them"
    cases = [
        ((new, old, old), ("out.parquet.run.json, users.parquet", "out.parquet")),
        ((new, new, old), ("out.parquet.run.json", "out.parquet, users.parquet")),
        ((new, old, new), ("out.parquet.run.json, out.parquet", "users.parquet")),
    ]
    for states, groups in cases:
        for name, state in zip(old, states, strict=True):
            (folder / name).write_bytes(state[name])
        done = extembed("verify", "out.parquet", cwd=folder).failed(1)
        assert apart.format(*groups) in done.err.replace(f"{folder}/", "")
        assert len(done.err.splitlines()) == 1
    undisturbed("run", folder / "spec.toml").ok()
    extembed("verify", folder / "out.parquet").ok()


def test_parts_of_another_run_are_told(parts: World) -> None:
    report = (parts.folder / "out.run.json").read_bytes()
    undisturbed("run", parts.spec('[[aggregate]]\nhalf_lives = ["7d"]\n'), "-o", parts.folder / "out").ok()
    extembed("verify", parts.folder / "out").ok()
    (parts.folder / "out.run.json").write_bytes(report)
    done = extembed("verify", "out", cwd=parts.folder).failed(1, "(1) out.run.json; (2) out. A run was killed")
    assert len(done.err.splitlines()) == 1


def test_a_run_that_replaces_the_output_meanwhile(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read, spec = verify_module.read_whole, written.spec(SPEC.format("regularization = 7\n"))

    def read_slowly(*args: object) -> object:
        undisturbed("run", spec).ok()
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(verify_module, "read_whole", read_slowly)
    done = extembed("verify", written.folder / "out.parquet").failed(1, "was replaced while it was read")
    assert len(done.err.splitlines()) == 1


def test_links_are_followed(written: World) -> None:
    elsewhere = written.folder / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "link.parquet"
    link.symlink_to(written.folder / "out.parquet")
    extembed("verify", link).ok()
    extembed("run", written.folder / "spec.toml", "-o", link).ok()  # its report is beside the link
    extembed("verify", link).ok()
    flip(written.folder / "out.parquet")
    extembed("verify", link).failed(1, "link.parquet: cannot be read")


def test_copies_are_verified_where_they_are(written: World, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in ("out.parquet", "out.parquet.run.json"):
        shutil.copy(written.folder / name, copies)
    done = extembed("verify", copies / "out.parquet").ok()
    assert "users.parquet: is not there; the run wrote it, and it was not copied" in done.err
    shutil.copy(written.folder / "users.parquet", copies)
    assert extembed("verify", copies / "out.parquet").ok().err == ""
    flip(written.folder / "out.parquet")
    extembed("verify", copies / "out.parquet").ok()
    (copies / "out.parquet").rename(copies / "kept.parquet")
    extembed("verify", copies / "kept.parquet").failed(1, "has no run report kept.parquet.run.json")
    extembed("verify", copies / "kept.parquet", "--report", copies / "out.parquet.run.json").ok()
    extembed("verify", copies / "kept.parquet", "--report", copies / "none.json").failed(3, "none.json: is no file")
    extembed("verify", copies / "out.parquet").failed(1, "out.parquet: is missing")
    extembed("verify", copies / "a.parquet", "--report", copies / "out.parquet.run.json").failed(
        1, "a.parquet: is miss"
    )


def test_the_newest_report_that_lists_a_file_counts(written: World) -> None:
    vectors_alone = 'candidates = ""\n' + SPEC.format("regularization = 3\n").replace("[[aggregate]]\n", "")
    text = written.spec(vectors_alone).read_text()
    spec = written.folder / "vectors.toml"
    spec.write_text("\n".join(line for line in text.splitlines() if not line.startswith(("candidates", "output"))))
    extembed("run", spec).ok()
    assert (written.folder / "users.parquet.run.json").exists()
    assert len(extembed("verify", written.folder / "users.parquet").ok().out.splitlines()) == 2
    undisturbed("run", written.spec(SPEC.format(""))).ok()
    assert len(extembed("verify", written.folder / "users.parquet").ok().out.splitlines()) == 3


def more_rows(folder: Path) -> None:
    frame = pl.read_parquet(folder / "interactions.parquet")
    pl.concat([frame, frame[:1]]).write_parquet(folder / "interactions.parquet")


INPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "more rows": (more_rows, "interactions: has changed since the run: 600 rows in 1 file then, 601 rows in 1 file"),
    "other bytes": (lambda f: rewritten(f / "text.parquet"), "embeddings text: has changed since the run: 35 rows in"),
    "gone": (lambda f: (f / "candidates.parquet").unlink(), "candidates.parquet: no such file or directory"),
    "another mean": (lambda f: flip(f / "mean.parquet"), "embeddings text center: "),
}  # fmt: skip


@pytest.mark.parametrize("case", quick(INPUTS, "more rows", "another mean"))
def test_changed_inputs(world: World, case: str) -> None:
    change, message = INPUTS[case]
    extembed("center", world.folder / "text.parquet", "-o", world.folder / "mean.parquet").ok()
    extembed("run", world.spec(CENTERED)).ok()
    output = world.folder / "out.parquet"
    assert extembed("verify", output, "--inputs", "error").ok().err == ""
    change(world.folder)
    done = extembed("verify", output).ok()
    assert done.err.startswith("warning: ") and message in done.err and len(done.err.splitlines()) == 1
    assert done.out.endswith(": 3 of 4 unchanged\n")
    assert message in extembed("verify", output, "-q").ok().err
    extembed("verify", output, "--inputs", "error").failed(1, message)
    skipped = extembed("verify", output, "--inputs", "skip").ok()
    assert skipped.err == "" and len(skipped.out.splitlines()) == 1


def test_a_new_file_of_a_glob_is_a_change(world: World) -> None:
    table = world.table("interactions")
    world.write("log/1", table.slice(0, 300))
    world.write("log/2", table.slice(300))
    spec = world.spec(
        'interactions = "log/*.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
        '[embeddings.text]\npath = ["text.parquet"]\n'
    )
    extembed("run", spec).ok()
    assert extembed("verify", world.folder / "out.parquet").ok().err == ""
    world.write("log/3", pa.table(table.slice(0, 1)))
    assert "600 rows in 2 files then, 601 rows in 3 files now" in extembed("verify", world.folder / "out.parquet").err


def test_paths_of_inputs_are_in_the_report_and_not_in_the_output(written: World) -> None:
    report = json.loads((written.folder / "out.parquet.run.json").read_text())
    assert report["input_paths"] == {
        "interactions": str(written.folder / "interactions.parquet"),
        "candidates": str(written.folder / "candidates.parquet"),
        "embeddings": {"text": str(written.folder / "text.parquet")},
    }
    for name in ("out.parquet", "users.parquet"):
        assert str(written.folder).encode() not in (written.folder / name).read_bytes()
