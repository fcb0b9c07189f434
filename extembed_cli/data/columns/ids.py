"""Ids in one form, whatever their type in the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from extembed_cli.data.files.parquet import Table
from extembed_cli.errors import DataError, Problems, counted, listing

_LARGEST_EXACT = 2.0**53  # of the floats, above which not every integer is one
_FIRST_IDS, _EXAMPLES = 1000, 3  # looked at, and shown


def storage_type(kind: pa.DataType) -> pa.DataType:
    """Return the type below dictionary encoding and extension types such as UUID."""
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def id_kind(kind: pa.DataType) -> str | None:
    """Return `integer`, `text`, `binary`, `nothing` (a column of nulls), or None for a type that ids cannot have.

    Floats count as integers, because pandas makes floats of integers where one is missing.
    """
    kind = storage_type(kind)
    if types.is_null(kind):
        return "nothing"
    if types.is_integer(kind) or types.is_floating(kind) or (types.is_decimal(kind) and kind.scale == 0):
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


def check_id_kinds(role: str, uses: Iterable[tuple[Table, str]]) -> None:
    """Check that all tables have the ids of users (or items) in the same kind, and in one that ids can have."""
    seen: dict[str | None, str] = {}
    problems = Problems()
    for table, column in uses:
        for part in table.parts:
            kind = id_kind(part.schema.field(column).type)
            with problems.collect():
                if kind is None:
                    raise _no_ids(f"{part.name}: column `{column}`", part.schema.field(column).type)
            if kind not in {None, "nothing"}:
                seen.setdefault(kind, f"{table.label} ({part.name}, column `{column}`)")
    if len(seen) > 1:
        kinds = " but ".join(f"{kind} in {where}" for kind, where in seen.items())
        problems.errors.append(
            DataError(
                f"{role} ids are {kinds}: they would never match. Cast one side in the program that writes the file"
            )
        )
    problems.raise_any()


def _no_ids(where: str, kind: pa.DataType) -> DataError:
    return DataError(
        f"{where} is {kind}; ids must be integers, text or binary. Cast it in the program that writes the file"
    )


def as_ids(column: pa.ChunkedArray, where: str) -> pl.Series:
    """Return ids as Int64 (Int128 where larger ones need it), String or Binary.

    Raises DataError, which begins with `where`, for a type that ids cannot have, and for floats that are no integers or
    too large to be exact ones.
    """
    if id_kind(column.type) is None:
        raise _no_ids(where, column.type)
    while types.is_dictionary(column.type) or isinstance(column.type, pa.BaseExtensionType):
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        else:
            chunks = [chunk.storage for chunk in column.chunks]
            column = pa.chunked_array(chunks, column.type.storage_type)
    kind = id_kind(column.type)
    if kind == "text":
        return as_series(column.cast(pa.large_string()))
    if kind == "binary":
        return as_series(column.cast(pa.large_binary()))
    if types.is_decimal(column.type):  # polars knows those of 128 bits alone
        try:
            column = column.cast(pa.decimal128(38, 0))
        except pa.ArrowException as error:
            raise DataError(f"{where}: an id is too long for 38 digits ({error}). Write the ids as text") from None
    series = as_series(column)
    if kind == "nothing":
        return series
    if types.is_floating(column.type):
        return _of_floats(series, where)
    if series.dtype.is_decimal() or series.dtype == pl.UInt64:
        wide = series.cast(pl.Int128)
        fits = not len(wide) or wide.is_between(-(2**63), 2**63 - 1).all()
        return wide.cast(pl.Int64) if fits else wide
    return series.cast(pl.Int64)


def _of_floats(series: pl.Series, where: str) -> pl.Series:
    """Return integers that a program has written as floats, NaN for a missing one."""
    series = series.cast(pl.Float64).fill_nan(None)
    wrong = series.filter((series.abs() > _LARGEST_EXACT) | (series != series.round()))
    if len(wrong):
        raise DataError(
            f"{where}: {counted(len(wrong), 'id')} ({listing(wrong.head(4), 3)}) cannot be read: ids that are stored "
            "as floats must be whole numbers up to 2^53. Cast the column where the file is written "
            "(pandas: astype('Int64'))"
        )
    return series.cast(pl.Int64)


def as_stored(series: pl.Series, table: Table, column: str) -> pa.Array:
    """Return ids in the type of their column in the file, without dictionary encoding.

    Where the files differ or have no ids, the type is one that holds all ids.
    """
    kinds = {part.schema.field(column).type for part in table.parts}
    kind = kinds.pop()
    while types.is_dictionary(kind):
        kind = kind.value_type
    if kinds or types.is_null(kind):
        return narrowed(series).to_arrow()
    if not (types.is_integer(kind) or id_kind(kind) in {"text", "binary"}):
        return narrowed(series).to_arrow()  # floats that stand for integers, and decimals
    if types.is_integer(kind):
        series = series.cast(pl.UInt64() if types.is_unsigned_integer(kind) else pl.Int64())
    known = series if len(series) else pl.Series(dtype=pl.Null())  # no ids have any type
    array = known.to_arrow().cast(storage_type(kind))
    return pa.ExtensionArray.from_storage(kind, array) if isinstance(kind, pa.BaseExtensionType) else array


def plain(value: object) -> object:
    """Return an id as text and JSON have it: binary ones in hex."""
    return value.hex() if isinstance(value, bytes) else value


def narrowed(series: pl.Series) -> pl.Series:
    """Return ids with 128-bit integers, which Arrow does not have, in the narrowest type that holds them."""
    if series.dtype != pl.Int128():
        return series
    for dtype in (pl.Int64(), pl.UInt64()):
        if series.cast(dtype, strict=False).null_count() == series.null_count():
            return series.cast(dtype)
    return series.cast(pl.Decimal(38, 0))


def hashes(ids: pl.Series) -> NDArray[np.uint64]:
    """Return a hash of each id: the same for equal ids of any width, and on every run of one polars version."""
    if ids.dtype.is_integer():
        ids = ids.to_frame("id").select(pl.col("id").cast(pl.Int64, wrap_numerical=True)).to_series()
    return ids.hash().to_numpy()


def same_type(*series: pl.Series) -> list[pl.Series]:
    """Return the ids in one type: the widest integer among them; an all-null series takes the type of the others."""
    types_ = {s.dtype for s in series} - {pl.Null()}
    if not types_:
        return [s.cast(pl.Int64) for s in series]
    dtype = pl.Int128() if pl.Int128() in types_ else next(iter(types_))
    return [s.cast(dtype) for s in series]


def places_among(ids: pl.Series, ordered: pl.Series) -> NDArray[np.int64]:
    """Return the place of each id in a series in order, by bisection; -1 where it is not there, and for null."""
    ids, ordered = same_type(ids, ordered)
    if not len(ordered):
        return np.full(len(ids), -1, np.int64)
    places = np.minimum(ordered.search_sorted(ids).to_numpy(), len(ordered) - 1).astype(np.int64)
    met = (ids == ordered.gather(places)).fill_null(value=False)
    return np.where(met.to_numpy(), places, -1)


def rows_together(frames: Sequence[pl.DataFrame], *columns: str) -> pl.DataFrame:
    """Return the rows of frames, with the ids of some columns in one type."""
    ids = {name: same_type(*(frame[name] for frame in frames)) for name in columns}
    typed = (frame.with_columns(ids[name][at].alias(name) for name in columns) for at, frame in enumerate(frames))
    return pl.concat(typed)


def shown(value: object) -> str:
    """Return an id as messages write it: text in quotes, bytes as hex digits."""
    return value.hex() if isinstance(value, bytes) else repr(value)


def examples(ids: pl.Series) -> str:
    """Return a few different ids as messages write them."""
    return listing(map(shown, ids.drop_nulls().head(_FIRST_IDS).unique(maintain_order=True)), _EXAMPLES) or "none"


def as_series(column: pa.ChunkedArray) -> pl.Series:
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series
