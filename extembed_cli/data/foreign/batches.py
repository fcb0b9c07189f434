"""Files whose ids and vectors come together: a first pass checks sizes and collects ids, a second reads vectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from extembed_cli.arrays import Values
from extembed_cli.data.foreign.source import VectorFile, check_memory, reading
from extembed_cli.errors import counted


class Batch(NamedTuple):
    """Some rows of a file."""

    ids: pa.Array | None
    """(n) Text; None = the file has no ids"""
    vectors: pa.Array
    """(n) Lists of numbers, or of numbers as text; null = no vector"""


def from_batches(path: Path, kind: str, batches: Callable[[], Iterator[Batch]]) -> VectorFile:
    """Return the vectors of a file that `batches` reads from its beginning, each time it is called."""
    rows, dim = 0, 0

    def checked_ids() -> Iterator[pa.Array]:
        nonlocal rows, dim
        for batch in batches():
            lengths = pc.list_value_length(batch.vectors)
            dim = dim or (lengths.drop_null()[0].as_py() if lengths.null_count < len(lengths) else 0)
            odd = pc.index(pc.fill_null(pc.not_equal(lengths, dim), False), True).as_py()
            if odd >= 0:
                raise ValueError(
                    f"{_row(batch, odd, rows)} has {counted(lengths[odd].as_py(), 'number')}, and others have {dim:,}"
                )
            rows += len(lengths)
            if batch.ids is not None:
                yield batch.ids

    def blocks() -> Iterator[Values]:
        row = 0
        with reading(path, kind):
            for batch in batches():
                yield _numbers(batch, dim, row)
                row += len(batch.vectors)

    with reading(path, kind):
        ids = collected(checked_ids(), str(path))
    return VectorFile(rows, dim, blocks, ids if len(ids) == rows else None)


def collected(parts: Iterable[pa.Array], where: str) -> pa.Array:
    """Return ids as one array of text; raise while they are read if they do not fit into memory."""
    kept: list[pa.Array] = []
    size = 0
    for part in parts:
        size += part.nbytes
        check_memory(size, f"{where}: its ids")
        kept.append(part.cast(pa.large_string()))
    return pa.concat_arrays(kept) if kept else pa.array([], pa.large_string())


def _numbers(batch: Batch, dim: int, row: int) -> Values:
    """Return the vectors (n, dim) of a batch, whose first row is `row`; NaN where there is none."""
    lists = batch.vectors
    values = lists.flatten()
    if pa.types.is_string(values.type):
        try:
            values = values.cast(pa.float64())
        except pa.ArrowInvalid:
            raise ValueError(_not_a_number(batch, row)) from None
    vectors: Values = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    if not lists.null_count:
        return vectors
    filled = np.full((len(lists), dim), np.nan)
    filled[lists.is_valid().to_numpy(zero_copy_only=False)] = vectors
    return filled


def _not_a_number(batch: Batch, row: int) -> str:
    """Return what is wrong with the first vector that has something else than numbers."""
    for place, values in enumerate(batch.vectors):
        for value in values.as_py() or ():
            try:
                pa.scalar(value).cast(pa.float64())
            except pa.ArrowInvalid:
                hint = "; write decimals with a point" if re.fullmatch(r"-?\d+,\d+", value) else ""
                return f"{_row(batch, place, row)} has `{value}`, which is not a number{hint}"
    return f"{_row(batch, 0, row)} or a later one has something that is not a number"


def _row(batch: Batch, place: int, row: int) -> str:
    """Return the name of a row in a message; rows count from 1."""
    id_ = "" if batch.ids is None else f" (id `{batch.ids[place]}`)"
    return f"row {row + place + 1:,}{id_}"
