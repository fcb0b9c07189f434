"""Columns other than features, for evaluation and training: labels, times, users, requests."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.data.columns.ids import as_ids, check_id_kinds, same_type
from extembed_cli.data.columns.times import check_time_type, times_us
from extembed_cli.data.files.parquet import Table
from extembed_cli.errors import DataError, listing
from extembed_cli.spec.tables import TimeColumn

NO_TIME = np.iinfo(np.int64).min
_ROWS = 131_072  # read at a time
_MOST_GRADES = 30  # the gains 2^grade - 1 that LightGBM knows


def read_labels(table: Table, name: str, *, graded: bool) -> Doubles:
    """Return the labels (n): 0 or 1, or grades; NaN = null."""
    where = f"{table.parts[0].name}: label `{name}`"
    parts = [numbers(part[name], where) for part in _tables(table, name)]
    labels = np.concatenate(parts) if parts else np.empty(0)
    values = np.unique(labels[~np.isnan(labels)])
    if graded:
        if ((values < 0) | (values != np.floor(values)) | (values > _MOST_GRADES)).any():
            raise DataError(
                f"--label {name}: has the values {_shown(values)}; requests are ranked by grades, whole numbers from 0 "
                f"to {_MOST_GRADES}"
            )
    elif not np.isin(values, [0, 1]).all():
        raise DataError(
            f"--label {name}: has the values {_shown(values)}; it must be 0 or 1. Compute such a column before the run "
            "(rating >= 4, say), or rank requests by a graded label with --group"
        )
    return labels


def read_times(table: Table, column: TimeColumn) -> Ints:
    """Return the times (n) in µs UTC; NO_TIME = null."""
    check_time_type(table, column)
    where = f"{table.parts[0].name}: `{column.name}`"
    tables = _tables(table, column.name)
    parts = [times_us(part[column.name], column, where).fill_null(NO_TIME).to_numpy() for part in tables]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def read_codes(table: Table, role: str, name: str) -> Ints:
    """Return a number for each row (n): distinct ids count from 1 in order of ids; 0 = null."""
    check_id_kinds(role, [(table, name)])
    return codes([part[name] for part in _tables(table, name)], f"{table.parts[0].name}: column `{name}`")


def codes(columns: list[pa.ChunkedArray], where: str) -> Ints:
    """Return a number for each row of all columns: distinct values count from 1 in order of values; 0 = null."""
    values = pl.concat(same_type(*(as_ids(column, where) for column in columns)))
    return values.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def numbers(column: pa.ChunkedArray, where: str) -> Doubles:
    """Return numbers as float64, null as NaN."""
    if not is_number(column.type):
        raise DataError(f"{where}: is {column.type}; a number or a boolean is needed")
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series.cast(pl.Float64).fill_null(np.nan).to_numpy()


def is_number(kind: pa.DataType) -> bool:
    """Whether a column has numbers or booleans, or nothing but nulls."""
    t = pa.types
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_decimal128(kind)) or t.is_null(
        kind
    )


def _tables(table: Table, name: str) -> list[pa.Table]:
    return [pa.concat_tables(part.tables([name], _ROWS)) for part in table.parts if part.rows]


def _shown(values: Doubles) -> str:
    return listing(f"{value:g}" for value in values)
