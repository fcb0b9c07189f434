"""numpy's files: .npy with one array, .npz with several. Objects in them are pickles, which are never loaded."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from extembed_cli.data.foreign.arrays import StoredArray, at, from_arrays, stored_bytes
from extembed_cli.data.foreign.source import HEAD_BYTES, Choices, VectorFile, damaged, read_exactly, reading
from extembed_cli.errors import DataError, listing

_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_DEFLATE_RATIO = 1032
"""The highest that deflate can reach"""


def read_npy(path: Path, choices: Choices) -> VectorFile:
    """Return the matrix of an .npy file."""
    return from_arrays(path, "npy", {"": npy_array(path)}, choices)


def npy_array(path: Path) -> StoredArray:
    """Return the array of an .npy file."""
    with reading(path, "npy"), path.open("rb") as file:
        shape, by_column, dtype, offset = _header(file.read(HEAD_BYTES))
        size = path.stat().st_size - offset
        if not dtype.hasobject and stored_bytes(shape, dtype) != size:
            raise ValueError(f"its header says {shape} {dtype}, and {size:,} bytes follow")
    return StoredArray(at(path, offset), shape, dtype, by_column)


def read_npz(path: Path, choices: Choices) -> VectorFile:
    """Return a matrix of an .npz file, with the ids where they are an array of it."""
    arrays, others = {}, []
    with reading(path, "npz"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, dot, ending = info.filename.rpartition(".")
            if (dot, ending) == (".", "npy"):
                arrays[name] = _member(path, archive, info)
            else:
                others.append(info.filename)
    if not arrays:
        raise DataError(
            f"{path}: is a zip without a numpy array ({listing(others) or 'it is empty'}). "
            "Unzip it and name a file in it; of a model, save the vectors with np.save"
        )
    return from_arrays(path, "npz", arrays, choices)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> StoredArray:
    """Return an array of an .npz file."""
    if info.compress_type not in _METHODS or info.flag_bits & 1:
        raise damaged(path, "npz", f"`{info.filename}` is compressed or encrypted in a way that numpy does not use")
    with archive.open(info) as file:
        shape, by_column, dtype, offset = _header(file.read(HEAD_BYTES))
    size = info.file_size - offset
    if info.file_size > _DEFLATE_RATIO * (info.compress_size + 1):
        raise ValueError(f"`{info.filename}` would be {info.file_size:,} bytes, which {info.compress_size:,} cannot be")
    if not dtype.hasobject and stored_bytes(shape, dtype) != size:
        raise ValueError(f"the header of `{info.filename}` says {shape} {dtype}, and {size:,} bytes follow")

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(path) as again, again.open(info) as file:
            read_exactly(file, offset)  # a seek would switch the check of the checksum off
            yield file

    return StoredArray(opened, shape, dtype, by_column)


def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return the shape of an array, whether it is in Fortran's order, its type, and where its numbers begin."""
    file = io.BytesIO(head)
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of .npy, which has named fields")
    try:
        with warnings.catch_warnings(action="ignore"):
            shape, by_column, dtype = _HEADERS[version](file)
    except Exception as error:  # numpy evaluates the header as a literal of Python, and catches some of its errors
        raise ValueError(f"its header is damaged: {error}") from None
    return tuple(map(int, shape)), by_column, dtype, file.tell()
