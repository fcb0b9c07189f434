"""A folder for what does not fit into memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder inside `parent`, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".extembed-", dir=parent) as name:
        yield Path(name)


def zeros(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> NDArray[Any]:
    """An array of zeros: in memory, or in a mapped file of the folder that has no name and goes with the array.

    All of the file is there before it is mapped: a disk that fills up later would end the process with SIGBUS.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if folder is None or size == 0:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS
            file.write(bytes(size))
            file.flush()
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
