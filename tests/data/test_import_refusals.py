"""`extembed import` says what is wrong with a file, its ids or a flag, with an exit code, and writes nothing."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import extembed
from helpers.commands import names
from helpers.foreign import VECTORS, WORDS, Writer, csv, cut, jsonl, npy, npz, raw, real, rows, safetensors, text

from extembed_cli.jobs import import_table

IDS = ["--ids", "ids.txt"]
NONE: list[str] = []


class Thing:
    """Something that only a pickle can hold, and that leaves a trace if the pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("was-loaded").touch, ())


THINGS = np.array([Thing()] * 4, object)


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "v.zip", "w") as archive:
        archive.writestr("glove.6B.50d.txt", rows(" "))
    return folder / "v.zip"


def compressed(folder: Path) -> Path:
    return raw("v.npy", gzip.compress(npy(VECTORS)(folder).read_bytes()))(folder)


def header(content: bytes) -> Writer:
    """Return a writer of a safetensors file with a header."""
    return raw("v.safetensors", len(content).to_bytes(8, "little") + content)


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


REFUSED: dict[str, tuple[Writer, list[str], int, list[str]]] = {
    # what is no file of vectors
    "no file": (lambda folder: folder / "v.npy", NONE, 3, ["v.npy: no such file"]),
    "a folder": (lambda folder: folder, NONE, 3, ["is not a file"]),
    "a pipe": (pipe, NONE, 3, ["pipe: is not a file", "read twice"]),
    "an empty file": (text("v.txt", ""), NONE, 3, ["v.txt: is empty"]),
    "prose": (text("v.txt", "hello\nworld\n"), NONE, 3, ["no format that import knows (npy, npz,", "--format"]),
    "bytes": (raw("v.bin", b"\x01\x00\x02,"), NONE, 3, ["no format that import knows"]),
    "Parquet": (text("v.parquet", "PAR1..."), NONE, 3, ["is Parquet, which needs no import"]),
    "HDF5": (raw("v.h5", b"\x89HDF\r\n"), NONE, 3, ["is HDF5; save its matrix with np.save"]),
    "zstandard": (raw("v.zst", b"\x28\xb5\x2f\xfd"), NONE, 3, ["is compressed; decompress it, or use gzip"]),
    "a zip without arrays": (zipped, NONE, 1, ["glove.6B.50d.txt", "Unzip it"]),
    "a compressed npy": (compressed, IDS, 3, ["is a compressed binary file", "gunzip"]),
    "a pickle": (raw("v.pkl", pickle.dumps(Thing())), NONE, 3, ["is a pickle", "never loaded"]),
    "a pickle in an npy": (npy(THINGS), IDS, 1, ["v.npy: has no matrix of real numbers"]),
    "another format": (npy(VECTORS), ["--format", "faiss"], 1, ["faiss index of the kind"]),
    # ids
    "no ids": (npy(VECTORS), NONE, 2, ["has no ids; name them with --ids", "--ids rows"]),
    "no ids in an npz": (npz(v=VECTORS, labels=np.arange(4)), NONE, 2, ["has no ids", "an array of it"]),
    "too few ids": (npy(VECTORS), ["--ids", "two.txt"], 1, ["two.txt: has 2 ids (`a`, `b`) for 4 vectors"]),
    "too many ids": (npy(VECTORS[:1]), ["--ids", "ids.txt"], 1, ["has 4 ids (`the`, `café`, ...) for 1 vector;"]),
    "an empty id": (csv("id,a1,a2\nx,1,2\n,3,4\n"), NONE, 1, ["1 of 2 ids are missing, the first in row 2"]),
    "ids of decimals": (
        npz(v=VECTORS, ids=VECTORS[:, 0]),
        NONE,
        1,
        ["v.npz: 4 ids (", "must be whole numbers", "astype"],
    ),
    "ids of bools": (npz(v=VECTORS, ids=np.ones(4, bool)), NONE, 1, ["`ids`: is (4,) bool", "astype(str)"]),
    "null ids": (npz(v=VECTORS, ids=np.array([1, 2, 3, np.nan])), NONE, 1, ["1 of 4 ids are missing", "row 4"]),
    "pickled ids": (npz(v=VECTORS, ids=THINGS), NONE, 1, ["`ids`: holds Python objects", "never", "astype(str)"]),
    "no such ids": (npy(VECTORS), ["--ids", "none.txt"], 3, ["none.txt: no such file"]),
    "Parquet as ids": (npy(VECTORS), ["--ids", "ids.parquet"], 3, ["is Parquet; ids are"]),
    "text as integers": (
        text("v.txt", rows(" ")),
        ["--ids-as", "integer"],
        2,
        ["3 ids are not integers (the, café, item-1)"],
    ),
    # shapes
    "one dimension": (npy(np.arange(5.0)), IDS, 1, ["no matrix of real numbers", "(5,) float64"]),
    "three dimensions": (npy(np.ones((2, 3, 4))), IDS, 1, ["(2, 3, 4)"]),
    "complex numbers": (npy(VECTORS * 1j), IDS, 1, ["no matrix of real numbers"]),
    "no rows": (npy(VECTORS[:0]), IDS, 1, ["there is no vector in it (0 vectors of 3 numbers)"]),
    "no numbers": (npy(VECTORS[:, :0]), IDS, 1, ["4 vectors of 0 numbers"]),
    "long vectors": (npy(np.ones((1, 2**16 + 1), np.int8)), IDS, 1, ["65,537 numbers; at most 65,536"]),
    "two matrices": (npz(v=VECTORS, w=VECTORS), IDS, 2, ["has 2 matrices (v (4, 3) float32, w", "--key NAME"]),
    "no such array": (npz(vectors=VECTORS), ["--key", "vector"], 2, ["no array `vector`", "`vectors`?"]),
    "ids as vectors": (npz(v=VECTORS, i=np.arange(4)), ["--key", "i"], 1, ["`i` is (4,) int64"]),
    "a graph of faiss": (real("graph.faiss"), NONE, 1, ["kind `IHNf`", "only flat ones", "reconstruct_n"]),
    # columns
    "no id column": (csv("sku,a1,a2\nx,1,2\n"), NONE, 2, ["no column `item_id` or `id`", "--id-column", "sku"]),
    "an index": (csv(",sku,a1,a2\n0,x,1,2\n"), NONE, 2, ["no column `item_id` or `id`", "sku", "--id-column ''"]),
    "a nameless column of a pivot": (csv(",101,102\nx,1,2\n"), NONE, 2, ["no column `item_id`", "--id-column ''"]),
    "no such id column": (csv("sku,a1,a2\n"), ["--id-column", "skus"], 2, ["`skus`; did you mean `sku`?"]),
    "no vector column": (csv("id,name\nx,1\n"), NONE, 2, ["which columns are the vector", "'d*'", "name"]),
    "two families": (csv("id,a1,a2,b1,b2\nx,1,2,3,4\n"), NONE, 2, ["which columns are the vector", "a1, a2, b1"]),
    "no such vector column": (csv("id,a1,a2\n"), ["--vector-columns", "d*"], 2, ["no column fits", "d*"]),
    "a column twice": (csv("id,a1,a1\nx,1,2\n"), NONE, 1, ["column `a1` occurs twice"]),
    "ids without a column": (text("v.jsonl", "{}"), NONE, 2, ["no column `item_id` or `id`"]),
    # flags
    "ids of a GloVe": (text("v.txt", rows(" ")), IDS, 2, ["--ids: ", "v.txt is glove", "Leave it out"]),
    "a key of a csv": (csv("id,a1,a2\n"), ["--key", "x"], 2, ["--key: ", "v.csv is csv"]),
    # what is no number
    "a word in a csv": (csv("id,a1,a2\nx,1,2\ny,1,b\n"), NONE, 3, ["row 2 (id `y`) has `b`, which is not"]),
    "a comma in a decimal": (csv("id;a1;a2\nx;1,5;2,5\n"), NONE, 3, ["row 1 (id `x`) has `1,5`", "with a point"]),
    "a word in a list": (csv('id,embedding\nx,"[1, 2]"\ny,"[1, b]"\n'), NONE, 3, ["row 2 (id `y`) has `b`, which is"]),
    "a list cut for printing": (csv("id,embedding\nx,[1. 2. ... 3.]\n"), NONE, 3, ["has `...`, which is not a number"]),
    "a word in GloVe": (text("v.txt", "a 1 2\nb c 3\n"), NONE, 3, ["row 2 (id `b`) has `c`, which is not a number"]),
    "a word in JSON": (jsonl({"id": 1, "embedding": ["x"]}), NONE, 3, ["v.jsonl: cannot be read as jsonl"]),
    "not UTF-8": (raw("v.txt", rows(" ").encode("latin-1")), NONE, 3, ["not UTF-8 text", "caf"]),
    # rows of other lengths, and files that are torn
    "lists of two lengths": (
        csv('id,embedding\nx,"[1, 2]"\ny,"[1]"\n'),
        NONE,
        3,
        ["row 2 (id `y`) has 1 number, and others have 2"],
    ),
    "a short row": (csv("id,a1,a2\nx,1,2\ny,1\n"), NONE, 3, ["Row #3: Expected 3 columns, got 2: y,1"]),
    "a long line": (text("v.txt", "a 1 2\nb 3 4 5\n"), NONE, 3, ["the line `b 3 ...` has more than 2 numbers"]),
    "a torn line": (cut(text("v.txt", rows(" ")), 6), NONE, 3, ["row 4 (id `4`) has 2 numbers, and others have 3"]),
    "a torn text": (text("v.vec", "5 3\n" + rows(" ")), NONE, 3, ["says 5 vectors, and it has 4"]),
    "a torn binary": (cut(real("gensim.bin")), NONE, 3, ["ends inside a vector", "Is it complete?"]),
    "a torn npy": (cut(npy(VECTORS)), IDS, 3, ["its header says (4, 3) float32, and 43 bytes follow"]),
    "a torn npz": (cut(npz(v=VECTORS)), IDS, 3, ["cannot be read as npz"]),
    "a torn safetensors": (cut(safetensors(v=("F32", VECTORS))), IDS, 3, ["`v` is (4, 3) F32 in the bytes"]),
    "a safetensors header of another shape": (
        header(b'{"v": 1}'),
        IDS,
        3,
        ["does not say the type, the shape and the"],
    ),
    "a safetensors header that is no object": (header(b"{]    }"), IDS, 3, ["as safetensors: its header does not say"]),
    "a deep safetensors header": (header(b'{"v":' + b"[" * 100_000), IDS, 3, ["its header does not say the type"]),
    "a torn index": (cut(real("flat_l2.faiss")), IDS, 3, ["cannot be read as faiss: 12 numbers would begin"]),
    "a torn gzip": (cut(text("v.txt.gz", rows(" "))), NONE, 3, ["v.txt.gz: cannot be read"]),
    "a torn row of JSON": (text("v.jsonl", '{"id": 1, "embedding": [1]}\n{"id": 2'), NONE, 3, ["row 2 is not JSON"]),
    "JSON of another shape": (text("v.jsonl", "[[1, 2]]\n"), NONE, 3, ["row 1 is not an object in one line"]),
    "JSON without an id": (jsonl({"id": 1, "embedding": [1]}, {"embedding": [1]}), NONE, 3, ["row 2 has no `id`"]),
    "JSON with a decimal id": (jsonl({"id": 1.5, "embedding": [1]}), NONE, 3, ["row 1 has `id` = 1.5"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_with_its_exit_code(tmp_path: Path, case: str) -> None:
    write, flags, code, parts = REFUSED[case]
    text("ids.txt", "\n".join(WORDS))(tmp_path)
    text("two.txt", "a\nb\n")(tmp_path)
    pq.write_table(pa.table({"item_id": WORDS}), tmp_path / "ids.parquet")
    source = write(tmp_path)
    before = names(tmp_path)
    done = extembed("import", source, "-o", "out.parquet", *flags, cwd=tmp_path).failed(code, *parts)
    assert done.out == ""
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ("out.csv", ["end in .parquet"]),
        ("out", ["end its name in .parquet"]),
        ("v.parquet", ["would overwrite an input"]),
        ("folder.parquet", ["is a directory"]),
        ("s3://bucket/out.parquet", ["can only be a local path"]),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, output: str, parts: list[str]) -> None:
    (tmp_path / "folder.parquet").mkdir()
    text("v.parquet", rows(" "))(tmp_path)
    extembed("import", "v.parquet", "-o", output, cwd=tmp_path).failed(2, output, *parts)
    assert names(tmp_path) == {"folder.parquet", "v.parquet"}


@pytest.mark.parametrize("after", ["open_vectors", "write_vectors"])
@pytest.mark.parametrize(
    "content", [rows(" ", "abcd"), rows(" ") * 2, rows(" ")[:40], ""], ids=["same size", "more", "cut", "empty"]
)
def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, content: str
) -> None:
    text("v.txt", rows(" "))(tmp_path)
    inner = getattr(import_table, after)

    def then_changed(*args: Any, **named: Any) -> Any:
        result = inner(*args, **named)
        text("v.txt", content)(tmp_path)
        return result

    monkeypatch.setattr(import_table, after, then_changed)
    done = extembed("import", "v.txt", "-o", "out.parquet", cwd=tmp_path)
    assert done.code in {1, 3}
    assert "v.txt: changed while it was read" in done.err or "v.txt: cannot be read as glove" in done.err
    assert names(tmp_path) == {"v.txt"}
