"""Arrays in mapped files: too large for memory, or shared by several processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from extembed_cli.arrays import Values

_BLOCK = 2**22  # bytes of zeros written at a time


def zeros(shape: tuple[int, ...], dtype: DTypeLike, at: Path | None) -> Values:
    """Return an array of zeros, in memory or in a mapped file.

    `at` is the path of the file, or a folder: then the file has no name and is deleted with the array. Its space is
    allocated before it is mapped: a disk that fills up later would end the process with SIGBUS.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if at is None or size == 0:
        return np.zeros(shape, dtype)
    nameless = at.is_dir()
    if not nameless:
        at.unlink(missing_ok=True)  # it may be a link to a file that others read
    with tempfile.TemporaryFile(dir=at) if nameless else open(at, "wb+") as file:  # noqa: PTH123  a name as text
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS
            for low in range(0, size, _BLOCK):
                file.write(bytes(min(_BLOCK, size - low)))
            file.flush()
        return np.asarray(np.memmap(file if nameless else at, dtype, "r+", shape=shape))


def is_mapped(array: Values) -> bool:
    """Whether an array, or the one that it is a part of, is in a mapped file."""
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


class ArrayFolder:
    """Named arrays in the files of a folder, mapped when they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, name: str) -> ArrayFolder:
        """Return a folder in this one, for names of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return ArrayFolder(folder)

    def put(self, name: str, array: Values) -> dict[str, Any]:
        """Keep an array under a name; return what `get` needs. A file that holds the array already is linked."""
        path = self.folder / name
        source = _file_of(array)
        if source is None or not _linked(source, path):
            zeros(array.shape, array.dtype, path)[...] = array
        return {"file": name, "dtype": array.dtype.str, "shape": list(array.shape)}

    def get(self, about: dict[str, Any], *, writable: bool = False) -> Values:
        """Return the array, read-only; or with writes that stay in memory."""
        shape = tuple(about["shape"])
        if not np.prod(shape):
            return np.zeros(shape, about["dtype"])
        mode: Literal["c", "r"] = "c" if writable else "r"
        return np.asarray(np.memmap(self.folder / about["file"], about["dtype"], mode, shape=shape))


def _linked(source: Path, path: Path) -> bool:
    """Whether a path is a file now, or has become a link to it."""
    if path.exists() and path.samefile(source):
        return True
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:  # on another disk
        return False
    return True


def _file_of(array: Values) -> Path | None:
    """Return the file that holds this array and nothing else, or None."""
    base = array.base
    if not isinstance(base, np.memmap) or base.filename is None or not array.flags.c_contiguous:
        return None
    same = (array.dtype, array.shape, array.ctypes.data) == (base.dtype, base.shape, base.ctypes.data)
    path = Path(base.filename)
    return path if same and path.exists() and path.stat().st_size == array.nbytes else None
