"""A file that is not Parquet is recognised, and the message has the line that converts it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import pickle
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest
from conftest import World, extembed, run_spec, soak
from helpers.refusals import UNREADABLE, refused

REST = 'candidates = "candidates.parquet"\noutput = "o.parquet"\n[embeddings.text]\npath = "text.parquet"\n'


def frame() -> pl.DataFrame:
    return pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": ["2024-01-01", "2024-01-02"]})


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")


def numpy_file(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones((3, 2)))


def stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, frame().to_arrow().schema) as writer:
        writer.write_table(frame().to_arrow())


def in_sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.commit()
    connection.close()


def tsv(path: Path) -> None:
    frame().write_csv(path, separator="\t")


CONVERTIBLE: dict[str, Callable[[Path], object]] = {
    "CSV": lambda path: frame().write_csv(path),
    "TSV": tsv,
    "JSON": lambda path: path.write_text(json.dumps(frame().to_dicts())),
    "JSON lines": lambda path: frame().write_ndjson(path),
    "Arrow IPC (Feather)": lambda path: frame().write_ipc(path, compat_level=pl.CompatLevel.oldest()),
    "an Arrow IPC stream": stream,
    "Avro": lambda path: frame().write_avro(path),
    "ORC": lambda path: pyarrow.orc.write_table(frame().to_arrow(), str(path)),
    "compressed by gzip": lambda path: path.write_bytes(gzip.compress(frame().write_csv().encode())),
    "text in UTF-16": lambda path: path.write_bytes(frame().write_csv().encode("utf-16")),
}
WITH_SEMICOLONS: dict[str, Callable[[Path], object]] = {
    "CSV": lambda path: frame().write_csv(path, separator=";"),
    "compressed by gzip": lambda path: path.write_bytes(gzip.compress(frame().write_csv(separator=";").encode())),
    "text in UTF-16": lambda path: path.write_bytes(frame().write_csv(separator=";").encode("utf-16")),
}
OTHERS: dict[str, Callable[[Path], object]] = {
    "a NumPy array": numpy_file,
    "a zip archive": zipped,
    "compressed by bzip2": lambda path: path.write_bytes(bz2.compress(b"a,b\n1,2\n")),
    "a Python pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "an SQLite database": in_sqlite,
    "an HTML or XML page": lambda path: path.write_text("<!DOCTYPE html>\n<html><body>403</body></html>"),
    "a pointer of Git LFS": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "text": lambda path: path.write_text("hello\nworld\n"),
}


@pytest.mark.parametrize("kind", [*CONVERTIBLE, *OTHERS])
@pytest.mark.parametrize("name", ["interactions", "text"])
def test_a_file_that_is_not_parquet_is_recognised(world: World, kind: str, name: str) -> None:
    (world.folder / f"{name}.parquet").unlink()
    (CONVERTIBLE | OTHERS)[kind](world.folder / f"{name}.parquet")
    message = refused(world, world.spec(), UNREADABLE, f"{name}.parquet: is {kind}", "not Parquet")
    assert "still being written" not in message


CASES = [*CONVERTIBLE.items(), *WITH_SEMICOLONS.items()]


@pytest.mark.parametrize(("kind", "write"), CASES, ids=[*CONVERTIBLE, *(f"{kind} with ;" for kind in WITH_SEMICOLONS)])
@pytest.mark.few(4)
def test_the_line_of_the_message_converts_it(world: World, kind: str, write: Callable[[Path], object]) -> None:
    path = world.folder / "log.data"
    write(path)
    assert converted(world, path, kind, "log.parquet").equals(as_text(frame()))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        soak("log.parquet", "log.converted.parquet"),
        ("text.csv", "text.converted.parquet"),  # text.parquet is another table
        soak("log.csv.gz", "log.parquet"),
        ("$(touch pwned) 'q\".csv", "$(touch pwned) 'q\".parquet"),
        soak("{source} `x`\\n.csv", "{source} `x`\\n.parquet"),
    ],
)
def test_the_line_is_safe_to_paste(world: World, name: str, target: str) -> None:
    (world.folder / name).write_text(frame().write_csv())
    text = (world.folder / "text.parquet").read_bytes()
    assert converted(world, world.folder / name, "CSV", target).equals(as_text(frame()))
    assert (world.folder / "text.parquet").read_bytes() == text
    assert not (world.folder / "pwned").exists()


@pytest.mark.soak
def test_the_line_that_imports_is_safe_to_paste(world: World) -> None:
    path = world.folder / "$(touch pwned).parquet"
    numpy_file(path)
    message = refused(world, world.spec(f"[embeddings.text]\npath = '{path}'\n"), UNREADABLE, "is a NumPy array")
    line = message.partition("`")[2].rpartition("`")[0].replace("extembed", f"{sys.executable} -m extembed_cli", 1)
    subprocess.run(f"{line} --ids rows", shell=True, check=True, cwd=world.folder)
    assert pl.read_parquet(world.folder / "$(touch pwned).converted.parquet", glob=False).height == 3
    assert not (world.folder / "pwned").exists()


def converted(world: World, path: Path, kind: str, target: str) -> pl.DataFrame:
    """Run the line of the message about a log, and read what it writes."""
    done = extembed("run", world.spec(f"interactions = {json.dumps(str(path))}\n{REST}"))
    line = done.failed(UNREADABLE, f"is {kind}, not Parquet: python -c").err.partition("not Parquet: ")[2].strip()
    line = line.replace("python -c", f"{sys.executable} -c", 1)
    subprocess.run(line, shell=True, check=True, cwd=world.folder)
    return as_text(pl.read_parquet(world.folder / target, glob=False))


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.all().cast(pl.String))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [{"a": 1}, [1], np.ones(3), Path("a")], ids=lambda content: type(content).__name__)
@pytest.mark.few(6)
def test_pickles_of_all_protocols(world: World, protocol: int, content: object) -> None:
    (world.folder / "text.parquet").write_bytes(pickle.dumps(content, protocol))
    refused(world, world.spec(), UNREADABLE, "text.parquet: is a Python pickle, which may run any program")


def test_an_empty_file_and_a_torn_one(world: World) -> None:
    path = world.folder / "interactions.parquet"
    content = path.read_bytes()
    path.write_bytes(b"")
    refused(world, world.spec(), UNREADABLE, "interactions.parquet: is empty")
    path.write_bytes(content[:-9])
    refused(world, world.spec(), UNREADABLE, "cannot be read as Parquet", "still being written?")
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    refused(world, world.spec(), UNREADABLE, "cannot be read as Parquet")


def test_a_spec_in_the_place_of_features(world: World) -> None:
    done = extembed("evaluate", world.spec(), "--label", "label", "-o", world.folder / "report")
    done.failed(UNREADABLE, "spec.toml: is TOML, perhaps a spec, not Parquet")


def test_text_in_other_alphabets_is_cut_where_the_head_ends(world: World) -> None:
    text = "name,größe\n" + "äöü€,1\n" * 2000
    (world.folder / "interactions.parquet").write_bytes(text.encode("utf-8-sig"))
    refused(world, world.spec(), UNREADABLE, "is CSV, not Parquet")


@pytest.mark.parametrize("index", ["described", "nameless"])
def test_ids_in_the_index_of_pandas(world: World, index: str) -> None:
    frame = world.table("text").to_pandas().set_index("item_id")
    if index == "nameless":
        frame.index = frame.index.set_names(None) + 7  # not a range that is only described
        frame = frame.sample(frac=1, random_state=0)
    frame.to_parquet(world.folder / "text.parquet")
    if index == "described":
        import pandas as pd

        frame.index = pd.RangeIndex(len(frame), name="item_id")
        frame.to_parquet(world.folder / "text.parquet")
    refused(
        world, world.spec(), 1, "no column `item_id`", "in the index of pandas: write df.reset_index(names='item_id')"
    )


def test_a_named_index_that_is_stored_is_read(world: World) -> None:
    expected = run_spec(world.spec())
    shuffled = world.table("text").to_pandas().set_index("item_id").sample(frac=1, random_state=0)
    shuffled.to_parquet(world.folder / "text.parquet")
    assert run_spec(world.spec()).equals(expected, null_equal=True)


def test_npz_is_told_from_other_archives(world: World) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    (world.folder / "text.parquet").write_bytes(buffer.getvalue())
    refused(world, world.spec(), UNREADABLE, "extembed import", "makes a table of its vectors")


def test_json_that_is_nested_too_deeply_is_json(world: World) -> None:
    (world.folder / "interactions.parquet").write_text("[" * 100_000 + "\n")
    refused(world, world.spec(), UNREADABLE, "is JSON, not Parquet")
