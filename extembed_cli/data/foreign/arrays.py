"""Arrays that lie in a file as plain numbers, and the choice of one with the vectors and one with the ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from extembed_cli.arrays import Values
from extembed_cli.data.foreign.source import Choices, VectorFile, block_rows, check_memory, read_exactly, reading
from extembed_cli.errors import DataError, SpecError, did_you_mean, listing

_IDS = ("ids", "id", "item_ids", "user_ids")
"""Names of arrays that are taken for the ids, after that of the column that they become"""
_AS_TEXT = "Save it as text or integers, such as `ids.astype(str)`"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, its size checked against that of the file."""

    open: Callable[[], AbstractContextManager[IO[bytes]]]
    """Open the file at the first byte of the array"""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_column: bool = False
    """Stored in Fortran's order"""
    is_bfloat16: bool = False
    """Then `dtype` is uint16"""

    def __str__(self) -> str:
        return f"{self.shape} {'bfloat16' if self.is_bfloat16 else self.dtype}"

    @property
    def is_matrix(self) -> bool:
        """Whether it can hold vectors."""
        return len(self.shape) == 2 and self.dtype.kind in "fiu"

    def blocks(self) -> Iterator[Values]:
        """Yield the rows of a matrix, some at a time."""
        rows, dim = self.shape
        size = self.dtype.itemsize
        with self.open() as file:
            start = file.tell() if self.by_column else 0
            for low in range(0, rows, block_rows(dim)):
                number = min(block_rows(dim), rows - low)
                if self.by_column:
                    block = np.empty((number, dim), self.dtype)
                    for column in range(dim):
                        file.seek(start + (column * rows + low) * size)
                        block[:, column] = np.frombuffer(read_exactly(file, number * size), self.dtype)
                else:
                    data = read_exactly(file, number * dim * size)
                    block = np.frombuffer(data, self.dtype).reshape(number, dim)
                yield _widened(block) if self.is_bfloat16 else block
            file.read(1)  # a zip checks its checksum at the end

    def ids(self, where: str) -> pa.Array:
        """Return the values of an array of ids."""
        if self.dtype.hasobject:
            raise DataError(f"{where}: holds Python objects, that is a pickle, which is never loaded. {_AS_TEXT}")
        if len(self.shape) != 1 or self.dtype.kind not in "iufUS":
            raise DataError(f"{where}: is {self}; ids are one-dimensional, of integers or text. {_AS_TEXT}")
        check_memory(3 * self.shape[0] * self.dtype.itemsize, where)
        with self.open() as file:
            values = np.frombuffer(read_exactly(file, self.shape[0] * self.dtype.itemsize), self.dtype)
            file.read(1)
        if self.dtype.kind == "S":
            return pa.array(values, pa.binary()).cast(pa.large_string())
        native = values.astype(self.dtype.newbyteorder("="))
        return pa.array(native, pa.large_string()) if self.dtype.kind == "U" else pa.array(native)


def stored_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the size of an array in a file; raise if its shape cannot be one."""
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape {shape} has a negative length")
    return prod(shape) * dtype.itemsize


def at(path: Path, offset: int) -> Callable[[], AbstractContextManager[IO[bytes]]]:
    """Return a function that opens a file at a place."""

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with path.open("rb") as file:
            file.seek(offset)
            yield file

    return opened


def from_arrays(path: Path, kind: str, arrays: Mapping[str, StoredArray], choices: Choices) -> VectorFile:
    """Return the vectors and the ids among the arrays of a file."""
    vectors = arrays[_matrix_name(path, arrays, choices.key)]
    rows, dim = vectors.shape

    def blocks() -> Iterator[Values]:
        with reading(path, kind):
            yield from vectors.blocks()

    names = (choices.id_name, *_IDS) if choices.ids is None else (choices.ids,)
    ids = None
    for name in names:
        if ids is None and name in arrays:
            with reading(path, kind):
                ids = arrays[name].ids(f"{path}: `{name}`")
    return VectorFile(rows, dim, blocks, ids)


def _matrix_name(path: Path, arrays: Mapping[str, StoredArray], key: str | None) -> str:
    """Return the name of the array with the vectors."""
    if key is not None:
        if key not in arrays:
            raise SpecError(f"{path}: has no array `{key}`{did_you_mean(key, arrays)}")
        if not arrays[key].is_matrix:
            raise DataError(f"{path}: `{key}` is {arrays[key]}; vectors are the rows of a matrix of real numbers")
        return key
    matrices = [name for name, array in arrays.items() if array.is_matrix]
    matrices = [name for name in matrices if arrays[name].dtype.kind == "f" or arrays[name].is_bfloat16] or matrices
    if len(matrices) == 1:
        return matrices[0]
    shown = listing((f"{name} {arrays[name]}".strip() for name in matrices or arrays), 8)
    if matrices:
        raise SpecError(f"{path}: has {len(matrices)} matrices ({shown}); name that of the vectors with --key NAME")
    raise DataError(
        f"{path}: has no matrix of real numbers, whose rows would be the vectors ({shown or 'it is empty'})"
    )


def _widened(halves: Values) -> Values:
    """Return bfloat16 numbers, which are the upper halves of float32 ones, as float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
