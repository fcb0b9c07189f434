"""faiss: flat indexes, which hold the vectors themselves, also inside an IDMap, whose ids are theirs.

    flat   = kind (4 bytes), head, number of floats (u64), floats
    mapped = kind (4 bytes), head, flat, number of ids (u64), ids (i64)
    head   = dim (i32), vectors (i64), two unused (i64), trained (u8), metric (i32), its argument (f32) if metric > 1

The library reads an index whole, and trusts the sizes in it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

import numpy as np

from extembed_cli.data.foreign.arrays import StoredArray, at, from_arrays
from extembed_cli.data.foreign.source import Choices, VectorFile, read_exactly, reading
from extembed_cli.errors import DataError

_FLAT, _MAPPED = (b"IxF2", b"IxFI", b"IxFl"), (b"IxMp", b"IxM2")
_HEAD = struct.Struct("<iqqqBi")
_SIZE = struct.Struct("<Q")


def is_index(head: bytes) -> bool:
    """Whether a file begins as any index of faiss: with its kind, and a length of vectors below 2^24."""
    return head[:1] == b"I" and head[:4].isalnum() and head[7:8] == b"\0"


def read_faiss(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a flat index, and their ids where it has a map of ids."""
    arrays = {}
    with reading(path, "faiss"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        kind = read_exactly(file, 4)
        if kind in _MAPPED:
            rows, _ = _head(file)
            arrays["vectors"] = _flat(path, file, read_exactly(file, 4), size)
            offset = _skip(file, rows, 8, size)
            arrays["ids"] = StoredArray(at(path, offset), (rows,), np.dtype("<i8"))
            if arrays["vectors"].shape[0] != rows:
                raise ValueError(f"it has {rows:,} ids for {arrays['vectors'].shape[0]:,} vectors")
        else:
            arrays["vectors"] = _flat(path, file, kind, size)
        if file.tell() != size:
            raise ValueError(f"{size - file.tell():,} bytes follow after its end")
    return from_arrays(path, "faiss", arrays, choices)


def _flat(path: Path, file: IO[bytes], kind: bytes, size: int) -> StoredArray:
    """Return the vectors of the flat index that begins here, and leave the file at its end."""
    if kind not in _FLAT:
        raise DataError(
            f"{path}: is a faiss index of the kind `{kind.decode('ascii', 'replace')}`; only flat ones are read. "
            "Take the vectors out of it with faiss: np.save(PATH, index.reconstruct_n(0, index.ntotal))"
        )
    rows, dim = _head(file)
    offset = _skip(file, rows * dim, 4, size)
    return StoredArray(at(path, offset), (rows, dim), np.dtype("<f4"))


def _head(file: IO[bytes]) -> tuple[int, int]:
    """Return the number and the length of the vectors."""
    dim, rows, _, _, _, metric = _HEAD.unpack(read_exactly(file, _HEAD.size))
    if metric > 1:
        read_exactly(file, 4)
    if rows < 0 or dim < 0:
        raise ValueError(f"its header says {rows:,} vectors of {dim:,} numbers")
    return rows, dim


def _skip(file: IO[bytes], number: int, each: int, size: int) -> int:
    """Check the size of an array that begins here, go to its end, and return where its numbers begin."""
    (said,) = _SIZE.unpack(read_exactly(file, _SIZE.size))
    offset = file.tell()
    if said != number or offset + number * each > size:
        raise ValueError(f"{number:,} numbers would begin at byte {offset:,} of {size:,}, and it says {said:,}")
    file.seek(number * each, os.SEEK_CUR)
    return offset
