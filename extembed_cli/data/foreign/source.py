"""A file of vectors that another tool wrote, and how to open and read it safely."""

from __future__ import annotations

import csv
import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import pyarrow as pa

from extembed_cli.arrays import Values
from extembed_cli.errors import InputError, ResourceError, first_line
from extembed_cli.spec.defaults import IdKind, ImportFormat
from extembed_cli.system import memory

MAX_DIM = 2**16
"""The longest vectors that are read; a header that claims longer ones is damaged."""
HEAD_BYTES = 2**16
_BLOCK_BYTES = 2**24  # of float32 vectors, read and written at a time
_BLOCK_ROWS = 131_072
_FIX = "Is it complete? If it has another format, name that with --format"
_LONGEST_REASON = 200  # characters; some libraries quote the whole row
Bytes: TypeAlias = IO[bytes] | gzip.GzipFile
"""A file that is open to be read."""
_GZIP = b"\x1f\x8b"
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    struct.error,
    csv.Error,
    zlib.error,
    zipfile.BadZipFile,
    pa.ArrowException,
)
"""What libraries raise for bytes that they cannot read."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What to take from a file; None = what there is no choice about."""

    id_name: str = "item_id"
    """The column of the ids in the embedding table"""
    format: ImportFormat | None = None
    ids: str | None = None
    """A file of ids, an array of the same file, or `rows`"""
    ids_as: IdKind | None = None
    key: str | None = None
    """The array with the vectors"""
    id_column: str | None = None
    vector_columns: str | None = None
    """A column with lists of numbers, or a pattern of columns with one number each"""


@dataclass(frozen=True)
class VectorFile:
    """The vectors of a file, with its sizes checked and its vectors not read yet."""

    rows: int
    dim: int
    blocks: Callable[[], Iterator[Values]]
    """Read the vectors in order, as blocks (n, dim) of any kind of real numbers"""
    ids: pa.Array | None
    """(rows) Integers or text; None = the file has none"""


def block_rows(dim: int) -> int:
    """Return how many vectors are read at a time."""
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * dim)))


@contextmanager
def reading(path: Path, kind: str, fix: str = _FIX) -> Iterator[None]:
    """Turn what libraries raise about a file into an `InputError` that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    except _DAMAGE as error:
        raise damaged(path, kind, first_line(error)[:_LONGEST_REASON], fix) from error


def damaged(path: Path, kind: str, reason: str, fix: str = _FIX) -> InputError:
    """Return the error for a file that is torn, or not of this kind."""
    printable = "".join(each if each.isprintable() else "\ufffd" for each in reason)
    return InputError(f"{path}: cannot be read as {kind}: {printable}. {fix}")


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed by gzip."""
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """Open a file for one pass; one that is compressed by gzip is decompressed."""
    with gzip.open(path) if is_compressed(path) else path.open("rb") as file:
        yield file


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Return the next bytes; raise if there are fewer."""
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends too early")
    return data


def check_memory(needed: int, what: str) -> None:
    """Raise if something that is held whole does not fit into the free memory."""
    free = memory.free()
    if free is not None and needed > free:
        raise ResourceError(
            f"{what}: needs {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free. "
            "Import it in parts, or on a larger machine"
        )
