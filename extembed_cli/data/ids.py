"""Ids and times in one form, whatever type a file keeps them in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from extembed_cli.data.parquet import Table
from extembed_cli.errors import DataError, Problems

_US_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LATEST_US = 253_402_300_800_000_000  # year 10,000
_EARLIEST_US = -62_135_596_800_000_000  # year 1


# --- ids ---------------------------------------------------------------------------------------------


def _storage(kind: pa.DataType) -> pa.DataType:
    """The type below dictionary encoding and extension types such as UUID."""
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def id_kind(kind: pa.DataType) -> str | None:
    """`integer`, `text` or `binary`, `nothing` for a column without values; None for a type that ids cannot have."""
    kind = _storage(kind)
    if types.is_null(kind):
        return "nothing"
    if types.is_integer(kind):
        return "integer"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    ):
        return "binary"
    return None


def check_id_kinds(what: str, uses: Iterable[tuple[Table, str]]) -> None:
    """All tables must keep the ids of users (or items) as the same kind, and as one that ids can have."""
    seen: dict[str | None, str] = {}
    problems = Problems()
    for table, column in uses:
        for part in table.parts:
            kind = id_kind(part.schema.field(column).type)
            with problems.collect():
                if kind is None:
                    raise DataError(
                        f"{part.path}: column `{column}` is {part.schema.field(column).type}; {what} ids must be "
                        "integers, text or binary. Cast it in whatever writes the file"
                    )
            if kind not in {None, "nothing"}:
                seen.setdefault(kind, f"{table.label} ({part.path}, column `{column}`)")
    if len(seen) > 1:
        found = " but ".join(f"{kind} in {where}" for kind, where in seen.items())
        problems.errors.append(
            DataError(f"{what} ids are {found}: they would never match. Cast one side in whatever writes the file")
        )
    problems.raise_any()


def ids(column: pa.ChunkedArray) -> pl.Series:
    """Ids as Int64 (Int128 where unsigned ones need it), String or Binary."""
    while types.is_dictionary(column.type) or isinstance(column.type, pa.BaseExtensionType):
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        else:
            chunks = [chunk.storage for chunk in column.chunks]
            column = pa.chunked_array(chunks, column.type.storage_type)
    kind = id_kind(column.type)
    if kind == "text":
        return _series(column.cast(pa.large_string()))
    if kind == "binary":
        return _series(column.cast(pa.large_binary()))
    series = _series(column)
    if kind == "nothing":
        return series
    if series.dtype == pl.UInt64 and (series.max() or 0) > 2**63 - 1:  # type: ignore[operator]
        return series.cast(pl.Int128)
    return series.cast(pl.Int64)


def as_stored(series: pl.Series, table: Table, column: str) -> pa.Array:
    """Ids in the type of the column that they come from, dictionaries as what they stand for.

    Where the files of a table differ, or have no id at all, in a type that holds all of them.
    """
    kinds = {part.schema.field(column).type for part in table.parts}
    kind = kinds.pop()
    while types.is_dictionary(kind):
        kind = kind.value_type
    if kinds or types.is_null(kind):
        return narrowed(series).to_arrow()
    if types.is_integer(kind):
        series = series.cast(pl.UInt64() if types.is_unsigned_integer(kind) else pl.Int64())
    array = series.to_arrow().cast(_storage(kind))
    return pa.ExtensionArray.from_storage(kind, array) if isinstance(kind, pa.BaseExtensionType) else array


def narrowed(series: pl.Series) -> pl.Series:
    """Integers of 128 bits, which Arrow does not have, in the narrowest type that holds them."""
    if series.dtype != pl.Int128():
        return series
    for dtype in (pl.Int64(), pl.UInt64()):
        if series.cast(dtype, strict=False).null_count() == series.null_count():
            return series.cast(dtype)
    return series.cast(pl.Decimal(38, 0))


def hashes(ids: pl.Series) -> NDArray[np.uint64]:
    """A hash of each id, the same for equal ids of any width and on every run of one version of polars."""
    if ids.dtype.is_integer():
        ids = ids.to_frame("id").select(pl.col("id").cast(pl.Int64, wrap_numerical=True)).to_series()
    return ids.hash().to_numpy()


def same_type(*series: pl.Series) -> list[pl.Series]:
    """Ids in one type: the widest integer among them, and what the others have for columns without any value."""
    types_ = {s.dtype for s in series} - {pl.Null()}
    if not types_:
        return [s.cast(pl.Int64) for s in series]
    dtype = pl.Int128() if pl.Int128() in types_ else next(iter(types_))
    return [s.cast(dtype) for s in series]


# --- times -------------------------------------------------------------------------------------------


def check_time_type(table: Table, column: str, time_unit: str | None) -> None:
    """Times are datetimes, dates, or integers with a unit."""
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
                    "Cast it in whatever writes the file"
                )
    problems.raise_any()


def has_dates(table: Table, column: str) -> bool:
    """Whether any file keeps dates without a time of day."""
    return any(types.is_date(part.schema.field(column).type) for part in table.parts)


def times_us(column: pa.ChunkedArray, time_unit: str | None, where: str) -> pl.Series:
    """Times as Int64 microseconds since 1970 UTC; naive ones are UTC, finer ones are floored."""
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
    series = _series(column)
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


def _series(column: pa.ChunkedArray) -> pl.Series:
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series
