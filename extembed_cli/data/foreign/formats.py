"""The formats that are read, and which of them a file has: by its first bytes, then its name, then its first line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extembed_cli.data.foreign.delimited import read_csv, read_tsv
from extembed_cli.data.foreign.faiss_index import is_index, read_faiss
from extembed_cli.data.foreign.json_lines import read_json_lines
from extembed_cli.data.foreign.lines import LONGEST_LINE, first_line
from extembed_cli.data.foreign.numpy_files import read_npy, read_npz
from extembed_cli.data.foreign.safetensors_file import read_safetensors
from extembed_cli.data.foreign.source import HEAD_BYTES, Choices, VectorFile, is_compressed, opened, reading
from extembed_cli.data.foreign.word2vec_binary import read_word2vec_binary
from extembed_cli.data.foreign.words import numbers_at_end, read_glove, read_word2vec_text, sizes
from extembed_cli.errors import InputError
from extembed_cli.spec.defaults import ImportFormat


@dataclass(frozen=True)
class Format:
    """How a format is read."""

    read: Callable[[Path, Choices], VectorFile]
    flags: tuple[str, ...] = ()
    """The choices that there are"""


FORMATS: dict[ImportFormat, Format] = {
    "npy": Format(read_npy, ("ids",)),
    "npz": Format(read_npz, ("ids", "key")),
    "safetensors": Format(read_safetensors, ("ids", "key")),
    "faiss": Format(read_faiss, ("ids",)),
    "word2vec-binary": Format(read_word2vec_binary),
    "word2vec-text": Format(read_word2vec_text),
    "glove": Format(read_glove),
    "csv": Format(read_csv, ("ids", "id_column", "vector_columns")),
    "tsv": Format(read_tsv, ("ids", "id_column", "vector_columns")),
    "jsonl": Format(read_json_lines, ("id_column", "vector_columns")),
}
_FIRST_BYTES: dict[bytes, ImportFormat] = {b"\x93NUMPY": "npy", b"PK\x03\x04": "npz", b"PK\x05\x06": "npz"}
_ENDINGS: dict[str, ImportFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_OTHERS = {
    b"PAR1": "is Parquet, which needs no import: name it as the path of an embedding table",
    b"ARROW1": "is an Arrow file; write Parquet with `item_id` and `embedding`, which needs no import",
    b"\x89HDF": "is HDF5; save its matrix with np.save",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "is a pickle, which could run any program and is never loaded; save its matrix with np.save",
    ),
    **dict.fromkeys((b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "is compressed; decompress it, or use gzip"),
}


def detect(path: Path) -> ImportFormat:
    """Return the format of a file."""
    with reading(path, "a file of vectors"):
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not head:
            raise InputError(f"{path}: is empty")
        return _binary(path, head) or _text(path)


def _binary(path: Path, head: bytes) -> ImportFormat | None:
    for first, problem in _OTHERS.items():
        if head.startswith(first):
            raise InputError(f"{path}: {problem}")
    for first, format_ in _FIRST_BYTES.items():
        if head.startswith(first):
            return format_
    if is_index(head):
        return "faiss"
    # The length of a JSON header, which has less than 2^48 bytes, and its first character.
    return "safetensors" if head[6:9] == b"\0\0{" else None


def _text(path: Path) -> ImportFormat:
    with opened(path) as file:
        first = first_line(file)
        second = file.readline(LONGEST_LINE)  # of a binary file, it may have no end
    if is_compressed(path) and _binary(path, first):
        raise InputError(f"{path}: is a compressed binary file; decompress it (gunzip)")
    if b"\0" in first:
        raise _unknown(path)
    by_name = _ENDINGS.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if by_name is not None:
        return by_name
    if first.lstrip().startswith(b"{"):
        return "jsonl"
    said = sizes(first)
    if said is not None:
        return "word2vec-text" if 2 * numbers_at_end(second) >= said[1] else "word2vec-binary"
    if numbers_at_end(first):
        return "glove"
    if any(delimiter in first for delimiter in (b",", b"\t", b";")):
        return "csv"
    raise _unknown(path)


def _unknown(path: Path) -> InputError:
    return InputError(f"{path}: is in no format that import knows ({', '.join(FORMATS)}); name one with --format")
