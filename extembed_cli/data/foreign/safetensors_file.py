"""safetensors: the length of a JSON header (8 bytes), the header, then the numbers of all tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter

from extembed_cli.data.foreign.arrays import StoredArray, at, from_arrays, stored_bytes
from extembed_cli.data.foreign.source import Choices, VectorFile, read_exactly, reading
from extembed_cli.json_files import parsed

_TYPES = {
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BF16": np.dtype("<u2"),
}
_LONGEST_HEADER = 2**24  # bytes
_METADATA = "__metadata__"


class _Tensor(BaseModel):
    """The entry of a tensor in the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """First byte, and the byte after the last, counted from the end of the header"""


_TENSORS = TypeAdapter(dict[str, _Tensor])


def read_safetensors(path: Path, choices: Choices) -> VectorFile:
    """Return a matrix of a safetensors file, with the ids where they are a tensor of it."""
    with reading(path, "safetensors"), path.open("rb") as file:
        length = int.from_bytes(read_exactly(file, 8), "little")
        size = os.fstat(file.fileno()).st_size - 8 - length
        if size < 0 or length > _LONGEST_HEADER:
            raise ValueError(f"its header would have {length:,} bytes")
        tensors = _tensors(read_exactly(file, length))
        arrays = {
            name: _array(path, name, tensor, 8 + length, size)
            for name, tensor in tensors.items()
            if tensor.dtype in _TYPES
        }
    return from_arrays(path, "safetensors", arrays, choices)


def _tensors(header: bytes) -> dict[str, _Tensor]:
    """Return the tensors that a header describes."""
    try:
        entries = parsed(header)
        entries.pop(_METADATA, None)
        return _TENSORS.validate_python(entries)
    except ValueError:
        raise ValueError("its header does not say the type, the shape and the place of each tensor") from None


def _array(path: Path, name: str, tensor: _Tensor, start: int, size: int) -> StoredArray:
    """Return a tensor among the `size` bytes that begin at `start`."""
    dtype, (begin, end) = _TYPES[tensor.dtype], tensor.data_offsets
    if not 0 <= begin <= end <= size or end - begin != stored_bytes(tensor.shape, dtype):
        raise ValueError(f"`{name}` is {tensor.shape} {tensor.dtype} in the bytes {begin:,} to {end:,} of {size:,}")
    return StoredArray(at(path, start + begin), tensor.shape, dtype, is_bfloat16=tensor.dtype == "BF16")
