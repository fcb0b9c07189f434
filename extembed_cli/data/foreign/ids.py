"""The ids of vectors: from a file of their own, and in the type that the embedding table gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data.columns.ids import as_ids
from extembed_cli.data.foreign.batches import collected
from extembed_cli.data.foreign.lines import as_text, lines
from extembed_cli.data.foreign.numpy_files import npy_array
from extembed_cli.data.foreign.source import opened, reading
from extembed_cli.errors import DataError, InputError, SpecError, listing
from extembed_cli.spec.defaults import IdKind

ROWS = "rows"
"""Instead of a file: the ids are the numbers of the rows, from 0"""
_INTEGER = r"^(?:0|-?[1-9][0-9]*|(?:0|-?[1-9][0-9]{0,14})\.0)$"
"""An integer as it is always written: `007` and `+7` are text. pandas writes `7.0` in a column with missing values."""


def read_ids(path: Path) -> pa.Array:
    """Return the ids of a text file with one id a line, or of an .npy file."""
    with reading(path, "ids", "Ids are text, one a line, or an .npy file"):
        with path.open("rb") as file:
            head = file.read(6)
        if head.startswith(b"PAR1"):
            raise InputError(f"{path}: is Parquet; ids are read from text, one a line, or from .npy")
        is_npy = head == b"\x93NUMPY"
        return npy_array(path).ids(str(path)) if is_npy else collected(_lines(path), str(path))


def row_numbers(rows: int) -> pa.Array:
    """Return the numbers of the rows as ids."""
    return pa.array(np.arange(rows))


def _lines(path: Path) -> Iterator[pa.Array]:
    with opened(path) as file:
        for some in lines(file):
            yield as_text([line.rstrip(b"\r") for line in some])


def typed(ids: pa.Array, kind: IdKind | None, where: Path) -> pl.Series:
    """Return ids as integers or text; by default they are integers if all of them are written as such."""
    series = as_ids(pa.chunked_array([ids]), str(where))
    missing = np.flatnonzero((series.cast(pl.String) == "").fill_null(True))
    if len(missing):
        number, first = f"{len(missing):,} of {len(series):,}", 1 + missing[0]
        raise DataError(f"{where}: {number} ids are missing, the first in row {first:,}")
    if series.dtype != pl.String:
        return series.cast(pl.String) if kind == "text" else series
    if kind == "text":
        return series
    written = series.set(~series.str.contains(_INTEGER), None).str.strip_suffix(".0")
    for dtype in (pl.Int64(), pl.UInt64()):
        integers = written.cast(dtype, strict=False)
        if not integers.null_count():
            return integers
    if kind == "integer":
        others = series.filter(integers.is_null())
        raise SpecError(f"--ids-as integer: {where}: {len(others):,} ids are not integers ({listing(others.head(6))})")
    return series
