"""Files of vectors in the formats of other tools. A writer is called with the folder and returns the path."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import extembed

REAL = Path(__file__).parent.parent / "data" / "foreign"
"""Files that the libraries themselves wrote, by `write.py` there"""
VECTORS = ((np.arange(12) - 5) / 8).astype(np.float32).reshape(4, 3)
"""Exact as text, and in half precision"""
WORDS = ["the", "café", "item-1", "4"]
Writer: TypeAlias = Callable[[Path], Path]


def imported(folder: Path, source: Path, *flags: str, of: str = "item") -> tuple[list[Any], np.ndarray]:
    """Import a file, and return the ids and the vectors (n, dim) of the table."""
    extembed("import", source, "-o", "out.parquet", *flags, cwd=folder).ok()
    table = pq.read_table(folder / "out.parquet")
    assert table.column_names == [f"{of}_id", "embedding"]
    vectors = table["embedding"].combine_chunks()
    assert vectors.type.value_type == pa.float32()
    return table[f"{of}_id"].to_pylist(), vectors.flatten().to_numpy().reshape(len(table), -1)


def real(name: str) -> Writer:
    return lambda folder: REAL / name


def raw(name: str, data: bytes) -> Writer:
    """A file with these bytes; compressed if its name ends in .gz."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return folder / name

    return write


def text(name: str, content: str) -> Writer:
    return raw(name, content.encode())


def csv(content: str) -> Writer:
    return text("v.csv", content)


def jsonl(*rows: dict[str, Any]) -> Writer:
    return text("v.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def npy(array: np.ndarray, name: str = "v.npy") -> Writer:
    def write(folder: Path) -> Path:
        with (folder / name).open("wb") as file:
            np.save(file, array)
        return folder / name

    return write


def npz(save: Callable[..., None] = np.savez, /, **arrays: Any) -> Writer:
    def write(folder: Path) -> Path:
        save(folder / "v.npz", **arrays)
        return folder / "v.npz"

    return write


def safetensors(**tensors: tuple[str, np.ndarray]) -> Writer:
    """Tensors by name: type and values, as the description of the format says. numpy has no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        start = len(data)
        data += array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, len(data)]}
    head = json.dumps(header).encode()
    return raw("v.safetensors", struct.pack("<Q", len(head)) + head + data)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def word2vec(end: bytes, name: str = "v.bin") -> Writer:
    rows = zip(WORDS, VECTORS, strict=True)
    return raw(name, b"4 3\n" + b"".join(word.encode() + b" " + row.tobytes() + end for word, row in rows))


def rows(separator: str, ids: Sequence[object] = WORDS, end: str = "\n") -> str:
    """Return a line for each vector: its id and its numbers."""
    lines = zip(ids, VECTORS.tolist(), strict=True)
    return "".join(separator.join(map(str, [each, *values])) + end for each, values in lines)


def lists(form: Callable[[list[float]], str], separator: str = ",", quote: str = '"') -> str:
    """Return a table with the vectors in one column."""
    lines = zip(WORDS, VECTORS.tolist(), strict=True)
    cells = "".join(f"{word}{separator}{quote}{form(values)}{quote}\n" for word, values in lines)
    return f"item_id{separator}embedding\n{cells}"


def cut(write: Writer, number: int = 5) -> Writer:
    """The same file without its last bytes."""

    def torn(folder: Path) -> Path:
        path = write(folder)
        (folder / path.name).write_bytes(path.read_bytes()[:-number])
        return folder / path.name

    return torn
