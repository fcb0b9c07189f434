"""word2vec's binary files: a line with the sizes, then for each vector its id, a space, and float32 numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from extembed_cli.data.foreign.batches import Batch, from_batches
from extembed_cli.data.foreign.lines import as_text, first_line
from extembed_cli.data.foreign.source import Choices, VectorFile, opened
from extembed_cli.data.foreign.words import check_rows, read_sizes

_CHUNK = 2**23
_LONGEST_ID = 2**12  # bytes


def read_word2vec_binary(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a binary file of word2vec or gensim."""
    rows, dim = read_sizes(path, "word2vec-binary")
    return check_rows(
        path, "word2vec-binary", rows, from_batches(path, "word2vec-binary", partial(_batches, path, dim))
    )


def _batches(path: Path, dim: int) -> Iterator[Batch]:
    with opened(path) as file:
        first_line(file)
        rest = b""
        while chunk := file.read(_CHUNK):
            data = rest + chunk
            ids, vectors, end = _records(data, 4 * dim)
            rest = data[end:]
            numbers = np.frombuffer(b"".join(vectors), "<f4").astype(np.float32)
            yield Batch(as_text(ids), pa.FixedSizeListArray.from_arrays(numbers, dim))
        if rest.strip():
            raise EOFError("it ends inside a vector")


def _records(data: bytes, size: int) -> tuple[list[bytes], list[bytes], int]:
    """Return the ids and the vectors that are complete, and where these end."""
    ids, vectors, end = [], [], 0
    while (space := data.find(b" ", end, end + _LONGEST_ID)) >= 0 and space + 1 + size <= len(data):
        ids.append(data[end:space].lstrip(b"\n"))  # word2vec ends a vector with a line feed, gensim does not
        end = space + 1 + size
        vectors.append(data[space + 1 : end])
    if space < 0 and len(data) - end > _LONGEST_ID:
        raise ValueError(f"an id has more than {_LONGEST_ID:,} bytes")
    return ids, vectors, end
