"""`extembed import`: the same vectors in any format give the same table, which a run reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, extembed_process, run_spec, soak
from helpers.commands import names
from helpers.foreign import (
    REAL,
    VECTORS,
    WORDS,
    Writer,
    bfloat16,
    csv,
    imported,
    jsonl,
    lists,
    npy,
    npz,
    real,
    rows,
    safetensors,
    text,
    word2vec,
)
from polars.testing import assert_frame_equal

import extembed_cli

NUMBERS = [10, 20, 30, 2**40]
IDS = ["--ids", "ids.txt"]
TEXTS = np.array(WORDS)
WIDE = "item_id,d0,d1,d2\n"
FORTRAN = np.asfortranarray(VECTORS)
PER_KEY = [{"x2": v[2], "x1": v[1], "id": word, "x0": v[0]} for word, v in zip(WORDS, VECTORS.tolist(), strict=True)]
SOURCES: dict[str, tuple[Writer, list[str]]] = {
    "npy": (npy(VECTORS), IDS),
    "npy float64": (npy(VECTORS.astype(np.float64)), IDS),
    "npy float16": (npy(VECTORS.astype(np.float16)), IDS),
    "npy of another byte order": (npy(VECTORS.astype(">f4")), IDS),
    "npy in Fortran's order": (npy(FORTRAN), IDS),
    "npy under another name": (npy(VECTORS, "vectors.csv"), IDS),
    "npz": (npz(v=VECTORS), IDS),
    "npz with ids": (npz(v=VECTORS, ids=TEXTS), []),
    "npz with ids by the name of the column": (npz(v=VECTORS, item_id=TEXTS, user_id=np.arange(4)), []),
    "npz compressed": (npz(np.savez_compressed, v=VECTORS.astype(">f8"), ids=TEXTS), []),
    "npz in Fortran's order": (npz(np.savez_compressed, v=FORTRAN), IDS),
    "npz with bytes as ids": (npz(v=VECTORS, ids=np.array([word.encode() for word in WORDS])), []),
    "npz with two matrices": (npz(v=VECTORS, w=VECTORS * 2), ["--key", "v", *IDS]),
    "npz with counts": (npz(v=VECTORS, counts=np.ones((9, 9), np.int64)), IDS),
    "npz with two arrays of ids": (npz(v=VECTORS, ids=TEXTS, years=np.arange(4)), ["--ids", "ids"]),
    "safetensors": (safetensors(v=("F32", VECTORS)), IDS),
    "safetensors float16": (safetensors(v=("F16", VECTORS.astype(np.float16))), IDS),
    "safetensors bfloat16": (safetensors(v=("BF16", bfloat16(VECTORS))), IDS),
    "safetensors with two matrices": (
        safetensors(w=("F32", VECTORS * 2), v=("F64", VECTORS.astype(np.float64))),
        ["--key", "v", *IDS],
    ),
    "faiss L2": (real("flat_l2.faiss"), IDS),
    "faiss inner product": (real("flat_ip.faiss"), IDS),
    "faiss L1": (real("flat_l1.faiss"), IDS),
    "faiss map with other ids": (real("map.faiss"), IDS),
    "gensim binary": (real("gensim.bin"), []),
    "gensim text": (real("gensim.vec"), []),
    "gensim without sizes": (real("gensim_without_sizes.txt"), []),
    "word2vec binary": (word2vec(b"\n"), []),
    "word2vec binary compressed": (word2vec(b"\n", "v.bin.gz"), []),
    "word2vec text": (text("v.txt", "4 3\n" + rows(" ")), []),
    "fastText": (text("v.vec", "4 3\n" + rows(" ", end=" \n")), []),
    "GloVe": (text("glove.6B.3d.txt", rows(" ")), []),
    "GloVe compressed": (text("glove.txt.gz", rows(" ")), []),
    "GloVe with tabs": (text("v.txt", rows("\t")), []),
    "GloVe of Windows": (text("v.txt", "\ufeff" + rows(" ", end="\r\n") + "\r\n"), []),
    "csv": (csv(WIDE + rows(",")), []),
    "csv compressed": (text("v.csv.gz", WIDE + rows(",")), []),
    "csv of Windows": (csv("\ufeffitem_id,d0,d1,d2\r\n" + rows(",", end="\r\n")), []),
    "csv with semicolons": (csv("item_id;d0;d1;d2\n" + rows(";")), []),
    "csv of a pivot": (csv("item_id,101,102,1003\n" + rows(",")), []),
    "csv of a pivot with the other name": (csv("id,7,8,9\n" + rows(",")), []),
    "csv of a pivot by a name": (csv("sku,101,102,103\n" + rows(",")), ["--id-column", "sku"]),
    "csv of a pivot by a nameless index": (csv(",101,102,103\n" + rows(",")), ["--id-column", ""]),
    "csv without names": (csv(rows(",")), []),
    "csv by its first line": (text("v.data", WIDE + rows(",")), []),
    "csv with JSON lists": (csv(lists(str)), []),
    "csv with spaces": (csv(lists(lambda values: " ".join(map(str, values)), quote="")), []),
    "csv of pandas": (real("pandas.csv"), ["--id-column", ""]),
    "csv with arrays of pandas": (real("pandas_lists.csv"), []),
    "tsv": (text("v.tsv", "item_id\td0\td1\td2\n" + rows("\t")), []),
    "tsv with lists": (text("v.tsv", lists(lambda values: ",".join(map(str, values)), "\t", "")), []),
    "tsv without ids": (text("v.tsv", rows("\t", [""] * 4).replace("\n\t", "\n").lstrip("\t")), IDS),
    "jsonl": (real("pandas.jsonl"), []),
    "jsonl compressed": (text("v.jsonl.gz", (REAL / "pandas.jsonl").read_text()), []),
    "jsonl with a key for each number": (jsonl(*PER_KEY), []),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_format_gives_the_same_table(tmp_path: Path, source: str) -> None:
    write, flags = SOURCES[source]
    text("ids.txt", "\n".join(WORDS))(tmp_path)
    ids, vectors = imported(tmp_path, write(tmp_path), *flags)
    assert ids == WORDS
    assert np.array_equal(vectors, VECTORS)


def test_int8_vectors(tmp_path: Path) -> None:
    quantised = (VECTORS * 8).astype(np.int8)
    _, vectors = imported(tmp_path, npy(quantised)(tmp_path), "--ids", "rows")
    assert np.array_equal(vectors, quantised.astype(np.float32))


IN_PIECES = (
    "npy", "npy in Fortran's order", "npz compressed", "npz in Fortran's order", "safetensors bfloat16", "faiss L1",
    "gensim binary", "word2vec binary compressed", "fastText", "GloVe of Windows", "jsonl",
)  # fmt: skip


@pytest.mark.parametrize("source", IN_PIECES)
def test_a_file_is_read_in_pieces(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces end inside lines, ids and numbers, and each vector is a block."""
    monkeypatch.setattr("extembed_cli.data.foreign.source._BLOCK_BYTES", 12)
    monkeypatch.setattr("extembed_cli.data.foreign.lines._CHUNK", 7)
    monkeypatch.setattr("extembed_cli.data.foreign.word2vec_binary._CHUNK", 7)
    test_every_format_gives_the_same_table(tmp_path, source)


@pytest.mark.soak
def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    """The file has 2 GiB, of zeros that the disk does not hold."""
    rows, dim = 2**20, 512
    np.lib.format.open_memmap(tmp_path / "v.npy", "w+", np.float32, (rows, dim)).flush()
    done = extembed_process("import", "v.npy", "--ids", "rows", "-o", "out.parquet", "--json", cwd=tmp_path).ok()
    assert done.json["rows"] == done.json["bad_vectors"] == rows
    assert done.json["peak_memory_bytes"] < 500 * 2**20


def test_columns_are_chosen_by_name_and_in_natural_order(tmp_path: Path) -> None:
    others = {"sku": ["a", "b", "c"], "price2": [1, 2, 3], "price1": [1, 2, 3]}
    numbers = {f"d{place}": np.arange(3) + place for place in reversed(range(12))}
    pl.DataFrame({**others, **numbers}).write_csv(tmp_path / "v.csv")
    ids, vectors = imported(tmp_path, tmp_path / "v.csv", "--id-column", "sku", "--vector-columns", "d*")
    assert ids == ["a", "b", "c"]
    assert np.array_equal(vectors, np.arange(3)[:, None] + np.arange(12))


def test_names_with_more_digits_than_python_converts(tmp_path: Path) -> None:
    _, vectors = imported(tmp_path, csv(f"id,d1{'0' * 5000},d9\nx,1,2\n")(tmp_path))
    assert vectors.tolist() == [[2, 1]]


def test_an_id_may_have_spaces_commas_and_line_feeds(tmp_path: Path) -> None:
    glove = text("v.txt", "a 1 2\n. . . 3 4\nat b.com 5 6\n7 8 9\n")
    ids, vectors = imported(tmp_path, glove(tmp_path))
    assert ids == ["a", ". . .", "at b.com", "7"]
    assert vectors.tolist() == [[1, 2], [3, 4], [5, 6], [8, 9]]
    ids, vectors = imported(tmp_path, csv('id,a1,a2\n"x,\ny",1,2\n"""z""",3,4\n')(tmp_path))
    assert ids == ["x,\ny", '"z"']
    assert vectors.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "write",
    [
        csv("id,a1,a2\nx,1,2\ny,,\n"),
        csv('id,embedding\nx,"[1, 2]"\ny,\n'),
        jsonl({"id": "x", "embedding": [1, 2]}, {"id": "y", "embedding": None}),
        jsonl({"id": "x", "embedding": [1, 2]}, {"id": "y", "embedding": [float("nan"), None]}),
    ],
    ids=["columns", "list", "null", "nan"],
)
def test_a_missing_vector_is_a_bad_one(tmp_path: Path, write: Writer) -> None:
    """So `run` takes its item as one without a vector, if the spec says so."""
    _, vectors = imported(tmp_path, write(tmp_path))
    assert np.array_equal(vectors, [[1, 2], [np.nan, np.nan]], equal_nan=True)
    done = extembed("import", write(tmp_path), "-o", "out.parquet", cwd=tmp_path).ok()
    assert "1 of 2 vectors are zero or not finite (item_id y)" in done.err


# --- ids -------------------------------------------------------------------------------------------------------------


def with_ids(kind: str, ids: list[str], folder: Path) -> list[str]:
    """Write vectors with these ids, and return the arguments that import them."""
    vectors = zip(ids, VECTORS.tolist(), strict=True)
    if kind == "text":
        return [str(npy(VECTORS)(folder)), "--ids", str(text("ids.txt", "\n".join(ids) + "\n")(folder))]
    if kind == "npy":
        return [str(npy(VECTORS)(folder)), "--ids", str(npy(np.array(ids), "ids.npy")(folder))]
    writers = {
        "glove": text("v.txt", rows(" ", ids)),
        "csv": csv(WIDE + rows(",", ids)),
        "jsonl": jsonl(*({"item_id": each, "embedding": values} for each, values in vectors)),
    }
    return [str(writers[kind](folder))]


@pytest.mark.parametrize(
    ("ids", "flags", "expected"),
    [
        (["1", "-2", "0", "30"], [], [1, -2, 0, 30]),
        (["1", "2", "3", str(2**64 - 1)], [], [1, 2, 3, 2**64 - 1]),
        (["1", "2", "3", str(2**64)], [], None),
        (["-1", "2", "3", str(2**63)], [], None),
        (["1", "2", "3", "x"], [], None),
        (["1", "2", "3", "04"], [], None),
        (["1", "2", "3", "+4"], [], None),
        (["1.0", "0.0", "-3.0", "4"], [], [1, 0, -3, 4]),
        (["1.0", "2.0", "3.0", "4.5"], [], None),
        (["1.0", "2.0", "3.0", f"{2**53}.0"], [], None),
        (["1.0", "2.0", "3.0", "4.0"], ["--ids-as", "text"], None),
        (["1", "2", "3", "4"], ["--ids-as", "text"], None),
    ],
)
@pytest.mark.parametrize("kind", ["text", "jsonl", soak("npy"), soak("glove"), soak("csv")])
def test_ids_are_integers_if_all_of_them_are(
    tmp_path: Path, kind: str, ids: list[str], flags: list[str], expected: list[int] | None
) -> None:
    source, *more = with_ids(kind, ids, tmp_path)
    assert imported(tmp_path, Path(source), *more, *flags)[0] == (expected or ids)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint64", ">i8", "float64"])
def test_integers_of_numpy_stay_integers(tmp_path: Path, dtype: str) -> None:
    source, ids = npy(VECTORS)(tmp_path), ["--ids", str(npy(np.array([1, 2, 3, 4], dtype), "ids.npy")(tmp_path))]
    assert imported(tmp_path, source, *ids)[0] == [1, 2, 3, 4]
    assert imported(tmp_path, source, *ids, "--ids-as", "text")[0] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "write",
    [real("map.faiss"), real("map2.faiss"), safetensors(v=("F32", VECTORS), ids=("I64", np.array(NUMBERS)))],
    ids=["faiss map", "faiss map 2", "safetensors"],
)
def test_ids_beside_the_vectors_are_used(tmp_path: Path, write: Writer) -> None:
    ids, vectors = imported(tmp_path, write(tmp_path))
    assert ids == NUMBERS
    assert np.array_equal(vectors, VECTORS)


def test_users(tmp_path: Path) -> None:
    ids, _ = imported(tmp_path, csv("user_id,a1,a2\n7,1,2\n")(tmp_path), "--users", of="user")
    assert ids == [7]


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_run_reads_the_table(world: World) -> None:
    """The features are those of the table that was exported, to the bit."""
    expected = run_spec(world.spec())
    table = world.table("text")
    exported = npz(embeddings=np.array(table["embedding"].to_pylist(), np.float32), ids=table["item_id"].to_numpy())
    extembed("import", exported(world.folder), "-o", "text.parquet", cwd=world.folder).ok()
    assert_frame_equal(run_spec(world.spec()), expected, check_exact=True)


def test_a_run_reads_a_table_of_users(world: World) -> None:
    profiles = npy(np.random.default_rng(1).standard_normal((33, 4)))(world.folder)
    extembed("import", profiles, "--ids", "rows", "--users", "-o", "profile.parquet", cwd=world.folder).ok()
    spec = '[user_embeddings.profile]\npath = "profile.parquet"\n[[aggregate]]\nside = "item"\nhalf_lives = ["none"]\n'
    assert run_spec(world.spec(spec))["profile__all__item_cos_mean"].null_count() < 300


def test_what_a_run_would_refuse_is_a_warning(world: World) -> None:
    vectors = np.ones((40, 4))
    vectors[3], vectors[5, 2], vectors[7, 1] = 0, np.nan, 1e40
    npz(v=vectors, ids=np.arange(40) % 38)(world.folder)
    done = extembed("import", "v.npz", "-o", "text.parquet", "--json", cwd=world.folder).ok()
    assert (done.json["repeated_ids"], done.json["bad_vectors"], len(done.json["warnings"])) == (4, 3, 2)
    assert "warning: v.npz: 4 of 40 rows share their item_id with others (0, 1)" in done.err
    assert "v.npz: 3 of 40 vectors are zero or not finite (item_id 3, 5, 7); 1 of them have numbers beyond" in done.err
    table = '[embeddings.text]\npath = "text.parquet"\n'
    extembed("run", world.spec(table)).failed(1, "4 of 40 rows share an item id")
    for key in ('duplicates = "last"', 'bad_vectors = "missing"'):
        assert key in done.err
    table += 'duplicates = "last"\n'
    extembed("run", world.spec(table)).failed(1, "3 of 40 vectors are zero or not finite")
    run_spec(world.spec(table + 'bad_vectors = "missing"\n'))


def test_the_same_file_gives_the_same_bytes_and_the_table_says_what_it_is(tmp_path: Path) -> None:
    source = npz(v=VECTORS, w=VECTORS, ids=TEXTS)(tmp_path)
    written = []
    for _ in range(2):
        imported(tmp_path, source, "--key", "w")
        written.append((tmp_path / "out.parquet").read_bytes())
    assert written[0] == written[1]
    about = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"extembed"])
    assert about["version"] == extembed_cli.__version__
    assert {key: about["imported"][key] for key in ("format", "key")} == {"format": "npz", "key": "w"}
    assert [len(digest) for digest in about["imported"]["sha256"]] == [64]


def test_the_report_and_the_closing_line(tmp_path: Path) -> None:
    text("v.txt", rows(" "))(tmp_path)
    done = extembed("import", "v.txt", "-o", "new/out.parquet", "--json", cwd=tmp_path).ok()
    expected = {
        "source": "v.txt",
        "format": "glove",
        "output": "new/out.parquet",
        "rows": 4,
        "dim": 3,
        "id_column": "item_id",
        "id_type": "text",
        "repeated_ids": 0,
        "bad_vectors": 0,
        "warnings": [],
    }
    assert {key: done.json[key] for key in expected} == expected
    assert done.err.startswith("new/out.parquet: 4 vectors of 3 numbers, item_id as text, of glove in ")
    assert len(done.err.splitlines()) == 1
    quiet = extembed("import", "v.txt", "-o", "out.parquet", "-q", cwd=tmp_path).ok()
    assert quiet.out == quiet.err == ""
    assert names(tmp_path) == {"v.txt", "out.parquet", "new"}
