"""Times in one form, whatever their type in the files."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
from pyarrow import types

from extembed_cli.data.ids import as_series
from extembed_cli.data.parquet import Table
from extembed_cli.errors import DataError, Problems

_US_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LATEST_US = 253_402_300_800_000_000  # year 10,000
_EARLIEST_US = -62_135_596_800_000_000  # year 1


def check_time_type(table: Table, column: str, time_unit: str | None) -> None:
    """Check that times are datetimes, dates, or integers with a unit."""
    problems = Problems()
    for part in table.parts:
        kind = part.schema.field(column).type
        with problems.collect():
            if types.is_integer(kind) and time_unit is None:
                raise DataError(
                    f"{part.path}: column `{column}` is {kind}; say what it counts since 1970: "
                    'time_unit = "s", "ms", "us" or "ns" (--time-unit)'
                )
            if not (types.is_integer(kind) or types.is_timestamp(kind) or types.is_date(kind) or types.is_null(kind)):
                raise DataError(
                    f"{part.path}: column `{column}` is {kind}; times must be timestamps, dates or integers. "
                    "Cast it in the program that writes the file"
                )
    problems.raise_any()


def has_dates(table: Table, column: str) -> bool:
    """Whether any file has dates without a time of day."""
    return any(types.is_date(part.schema.field(column).type) for part in table.parts)


def time_range(table: Table, column: str, time_unit: str | None) -> tuple[int, int] | None:
    """Return the earliest and the latest time of a table (us), if the footers of all its files have them."""
    extremes = [part.extremes(column) for part in table.parts if part.rows]
    if not extremes or any(each is None for each in extremes):
        return None
    try:
        each = [times_us(pa.chunked_array([values]), time_unit, table.label) for values in extremes]
    except DataError:  # raised with all others once the column is read
        return None
    times = pl.concat(each)
    return int(times.min()), int(times.max())  # type: ignore[arg-type]


def times_us(column: pa.ChunkedArray, time_unit: str | None, where: str) -> pl.Series:
    """Return times as Int64 microseconds since 1970 UTC; naive times are UTC, finer ones are floored."""
    kind = column.type
    if types.is_date(kind):
        column, unit = column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()), "d"
    elif types.is_timestamp(kind):
        column, unit = column.cast(pa.int64()), kind.unit
    else:
        unit = time_unit or "us"
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:
            raise DataError(f'{where}: times beyond the year 9999. Is time_unit = "{unit}" right?') from None
    series = as_series(column)
    factor = 86_400_000_000 if unit == "d" else _US_PER.get(unit, 1)
    if unit == "ns":
        return series // 1000
    low: Any = series.min()
    high: Any = series.max()
    if low is not None and (low * factor < _EARLIEST_US or high * factor >= _LATEST_US):
        extreme = high if high * factor >= _LATEST_US else low
        raise DataError(
            f"{where}: the time {extreme} is outside the years 1 to 9999 when counted in {unit}. "
            "Is the unit (time_unit) right?"
        )
    return series * factor
