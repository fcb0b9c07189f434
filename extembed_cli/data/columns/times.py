"""Times in one form, whatever their type in the files: microseconds since 1970 UTC."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
import pyarrow as pa
from pyarrow import types

from extembed_cli.data.columns.ids import as_series
from extembed_cli.data.files.parquet import Table
from extembed_cli.errors import DataError, Problems, SpecError, counted, first_line, listing
from extembed_cli.spec.durations import DAY_US, EARLIEST_US, LATEST_US
from extembed_cli.spec.tables import TimeColumn

_US_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}
_ISO = (
    r"(?i)^(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[t ](?P<hour>[01]\d|2[0-3])(?::?(?P<minute>[0-5]\d)(?::?(?P<second>[0-5]\d)(?:[.,](?P<fraction>\d+))?)?)?"
    r" ?(?:z|utc|(?P<sign>[+-])(?P<zone_hour>[01]\d|2[0-3])(?::?(?P<zone_minute>[0-5]\d))?)?)?$"
)
_CLOCK = {"hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}
_OF_DAY = ("%H", "%I", "%k", "%l", "%T", "%R", "%r", "%X", "%c", "%s", "%+")  # parts of a format with a time of day


def check_time_type(table: Table, column: TimeColumn) -> None:
    """Check that times are datetimes, dates, text, or numbers with a unit."""
    problems = Problems()
    for part in table.parts:
        kind = part.schema.field(column.name).type
        with problems.collect():
            if _is_number(kind) and column.unit is None:
                raise DataError(
                    f"{part.name}: column `{column.name}` is {kind}; say what it counts since 1970: "
                    'time_unit = "s", "ms", "us" or "ns" (--time-unit)'
                )
            if not (_is_number(kind) or _is_text(kind) or _is_moment(kind) or types.is_null(kind)):
                raise DataError(
                    f"{part.name}: column `{column.name}` is {kind}; times must be timestamps, dates, ISO 8601 text "
                    "or numbers with a time_unit. Cast it in the program that writes the file (pandas: pd.to_datetime)"
                )
    problems.raise_any()


def has_dates(table: Table, column: str) -> bool:
    """Whether any file has dates without a time of day."""
    return any(types.is_date(part.schema.field(column).type) for part in table.parts)


def has_numbers(table: Table, column: str) -> bool:
    """Whether any file has numbers, whose unit the spec says."""
    return any(_is_number(part.schema.field(column).type) for part in table.parts)


def time_range(table: Table, column: TimeColumn) -> tuple[int, int] | None:
    """Return the earliest and the latest time of a table (us), if the footers of all its files have them."""
    kinds = [part.schema.field(column.name).type for part in table.parts]
    if not all(types.is_integer(kind) or _is_moment(kind) for kind in kinds):
        return None
    extremes = [part.extremes(column.name) for part in table.parts if part.rows]
    if not extremes or any(each is None for each in extremes):
        return None
    try:
        each = [times_us(pa.chunked_array([values]), column, table.label) for values in extremes]
    except DataError:  # raised with all others once the column is read
        return None
    times = pl.concat(each)
    return int(times.min()), int(times.max())  # type: ignore[arg-type]


def times_us(values: pa.ChunkedArray, column: TimeColumn, where: str) -> pl.Series:
    """Return times as Int64 microseconds since 1970 UTC; naive times are UTC, finer ones are floored.

    Raises DataError, which begins with `where`, for text that is no time and for times outside the years 1 to 9999.
    """
    kind = values.type
    if types.is_dictionary(kind):
        return times_us(values.cast(kind.value_type), column, where)
    if _is_text(kind):
        return _of_text(as_series(values.cast(pa.large_string())), column, where)
    if types.is_floating(kind) or types.is_decimal(kind):
        return _of_floats(as_series(values.cast(pa.float64())), column, where)
    if types.is_date(kind):
        series, unit = as_series(values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())), "d"
    elif types.is_timestamp(kind):
        series, unit = as_series(values.cast(pa.int64())), kind.unit
    else:
        unit = column.unit or "us"
        try:
            series = as_series(values.cast(pa.int64()))
        except pa.ArrowInvalid:
            raise DataError(f'{where}: times beyond the year 9999. Is time_unit = "{unit}" right?') from None
    factor = DAY_US if unit == "d" else _US_PER.get(unit, 1)
    if unit == "ns":
        return series // 1000
    _check_years(series, factor, where, f"counted in {unit}")
    return series * factor


def _of_floats(series: pl.Series, column: TimeColumn, where: str) -> pl.Series:
    """Return times that are numbers with a fraction, to the nearest microsecond; NaN = null."""
    unit = column.unit or "us"
    factor = _US_PER.get(unit, 0.001)
    series = series.fill_nan(None)
    _check_years(series, factor, where, f"counted in {unit}")
    return (series * factor).round().cast(pl.Int64)


def _check_years(series: pl.Series, factor: float, where: str, how: str) -> None:
    low: Any = series.min()
    high: Any = series.max()
    if low is not None and (low * factor < EARLIEST_US or high * factor >= LATEST_US):
        extreme = high if high * factor >= LATEST_US else low
        raise DataError(
            f"{where}: the time {extreme} is outside the years 1 to 9999 when {how}. Is the unit (time_unit) right?"
        )


def _of_text(series: pl.Series, column: TimeColumn, where: str) -> pl.Series:
    """Return times that are ISO 8601 text, with a zone or without, or in the format of the column."""
    times = _iso(series) if column.format is None else _formatted(series, column.format)
    wrong = series.filter(times.is_null() & series.is_not_null())
    if len(wrong):
        hint = (
            'as an ISO 8601 time, such as 2026-01-31T06:00:00Z. Set time_format, such as "%d/%m/%Y %H:%M"'
            if column.format is None
            else f"with time_format = {column.format!r}"
        )
        raise DataError(f"{where}: {_some(wrong)} cannot be read {hint}")
    outside = series.filter((times < EARLIEST_US) | (times >= LATEST_US))
    if len(outside):
        raise DataError(f"{where}: {_some(outside)} cannot be used: times must be in the years 1 to 9999")
    return times


def _some(texts: pl.Series) -> str:
    """Return the number of values and a few of them."""
    return f"{counted(len(texts), 'value')} ({listing(map(repr, texts.head(4)), 3)})"


def _iso(series: pl.Series) -> pl.Series:
    """Return the microseconds of ISO 8601 times; null where a text is none."""
    part = pl.col("part").struct.field
    clock = [part(name).cast(pl.Int64).fill_null(0) * us for name, us in _CLOCK.items()]
    fraction = part("fraction").fill_null("").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    minutes = part("zone_hour").cast(pl.Int64) * 60 + part("zone_minute").cast(pl.Int64).fill_null(0)
    offset = pl.when(part("sign") == "-").then(-minutes).otherwise(minutes).fill_null(0) * _CLOCK["minute"]
    day = part("day").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64) * DAY_US
    parts = series.to_frame("text").select(part=pl.col("text").str.strip_chars().str.extract_groups(_ISO))
    return parts.select(time=pl.sum_horizontal(day, *clock, fraction, -offset, ignore_nulls=False)).to_series()


def _formatted(series: pl.Series, form: str) -> pl.Series:
    """Return the microseconds of times in a format of strftime; null where a text does not have it.

    polars reads `%f` as nanoseconds; in Python's formats, and so here, it is the fraction of a second.
    """
    text = series.str
    form = re.sub(r"%%|\.?%f", lambda match: {".%f": "%.f", "%f": "%6f"}.get(match[0], match[0]), form)
    try:
        if not any(directive in form for directive in _OF_DAY):
            return text.to_date(form, strict=False).cast(pl.Int64) * DAY_US
        return text.to_datetime(form, strict=False, time_unit="us").cast(pl.Int64)
    except pl.exceptions.PolarsError as error:
        raise SpecError(f"time_format = {form!r}: not a format of times: {first_line(error)}") from None


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(types.is_timestamp(kind) or types.is_date(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))
