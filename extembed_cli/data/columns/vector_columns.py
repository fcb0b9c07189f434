"""The vectors of a table, however they are stored: as lists, wide columns, Spark's vectors, text or bytes.

Every form becomes a column of lists, null where a row has no vector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import types

from extembed_cli.arrays import Ints, Values
from extembed_cli.data.columns.ids import storage_type
from extembed_cli.data.columns.ordering import in_natural_order
from extembed_cli.data.files.parquet import Part, Table
from extembed_cli.errors import DataError, did_you_mean
from extembed_cli.spec.model import Spec

_BATCH_BYTES = 2**22  # bytes of vectors read at a time
_FIRST_ROWS = 256  # vectors read at a time, until one is not null
_MOST = 2**31  # numbers of a batch
_KINDS = (
    "vectors must be lists (fixed-size or not) of float16, float32, float64 or int8, text such as [0.1, 0.2], Spark's "
    'VectorUDT, bytes (`bytes_of`), or columns of numbers (`columns.embedding = "d*"`)'
)
AsLists = Callable[[pa.RecordBatch, str, int], pa.Array]
"""Returns the columns of a batch as lists; for errors the text says where they are, and the number is the first row"""
_PLAIN = r"^\s*\[[-+.0-9eE,\s]*\]\s*$"
"""A list of numbers, without NaN and infinity, which JSON lacks"""


class VectorColumns(NamedTuple):
    """Where the vectors of a table are: one column, or one for each dimension."""

    table: Table
    names: tuple[str, ...]
    bytes_of: str | None
    """The type of the numbers in a column of bytes"""

    @classmethod
    def of(cls, spec: Spec, name: str, table: Table) -> VectorColumns:
        """Return the column that the spec names, or all that match its pattern, in natural order."""
        column, bytes_of = spec.vector_column(name), spec.table(name).bytes_of
        if column in table.names or "*" not in column:
            return cls(table, (column,), bytes_of)
        time = spec.time_column(name)
        others = {spec.id_column(name), *([] if time is None else [time.name])}
        matching = [each for each in table.names if each not in others and fnmatchcase(each, column)]
        return cls(table, tuple(in_natural_order(matching)), bytes_of)

    @property
    def shown(self) -> str:
        """The columns as messages name them."""
        first, last = self.names[0], self.names[-1]
        return f"column `{first}`" if first == last else f"columns `{first}` to `{last}`"

    def check(self, part: Part) -> int | None:
        """Raise if a file cannot have vectors there; return their length if the types have it."""
        if len(self.names) > 1:
            for name in self.names:
                kind = part.schema.field(name).type
                if not (types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)):
                    raise DataError(f"{part.name}: column `{name}` is {kind}; a dimension of vectors must be a number")
            return len(self.names)
        self._as_lists(part)
        kind = storage_type(part.schema.field(self.names[0]).type)
        return int(kind.list_size) if types.is_fixed_size_list(kind) else None

    def batches(self, rows: int | None = None, row: int = 0) -> Iterator[tuple[str, pa.Array]]:
        """Yield the vectors of all files as lists, so many rows at a time, or as many as fit into a few megabytes.

        `row` is the number of the first row, where the files are a piece of a table.
        """
        for part in self.table.parts:
            as_lists, length = self._as_lists(part), self.check(part)
            size = rows or max(1, _BATCH_BYTES // max(1, 4 * (length or 1024)))
            for batch in part.batches(self.names, size):
                yield part.name, as_lists(batch, f"{part.name}: {self.shown}", row)
                row += len(batch)

    @property
    def dim(self) -> int:
        """The length of the first vector; 0 if there is none."""
        for _, vectors in self.batches(_FIRST_ROWS):
            if vectors.null_count < len(vectors):
                first = int(np.argmax(vectors.is_valid())) if vectors.null_count else 0
                return len(vectors.slice(first, 1).flatten())
        return 0

    def _as_lists(self, part: Part) -> AsLists:
        """Return how the columns of a file become lists; raise if they cannot."""
        if len(self.names) > 1:
            return _of_dimensions
        declared = part.schema.field(self.names[0]).type
        kind = storage_type(declared)
        if _is_list(kind) and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
            return lambda batch, where, first_row: _stored(batch.column(0))
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            return _of_text
        if types.is_struct(kind) and {f.name for f in kind} == {"type", "size", "indices", "values"}:
            return _of_spark
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            if self.bytes_of is None:
                raise DataError(
                    f'{part.name}: {self.shown} is {declared}; say what its bytes are, such as bytes_of = "float32"'
                )
            return partial(_of_bytes, dtype=np.dtype(self.bytes_of))
        if types.is_integer(kind) or types.is_floating(kind):
            hint = '. Is each dimension a column of its own? Name them all, such as columns.embedding = "d*"'
            raise DataError(f"{part.name}: {self.shown} is {declared}; {_KINDS}{hint}")
        raise DataError(f"{part.name}: {self.shown} is {declared}; {_KINDS}")


def require_vectors(columns: VectorColumns, fix: str) -> None:
    """Raise if files lack the columns; `fix` is the hint on how to name them."""
    if columns.names:
        columns.table.require(dict.fromkeys(columns.names, fix))
        return
    numbered = [name for name in columns.table.names if re.search(r"\d$", name)]
    raise DataError(f"{columns.table.label}: no column matches the pattern{did_you_mean('', numbered)}{fix}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _stored(column: pa.Array) -> pa.Array:
    """Return a column without extension types and dictionaries."""
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.dictionary_decode() if types.is_dictionary(column.type) else column


def _lists(values: Values, lengths: Ints, present: Values) -> pa.Array:
    """Return numbers as lists of some lengths, null where no vector is present."""
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(values))
    return pa.LargeListArray.from_buffers(
        lists.type, len(lists), [pa.array(present).buffers()[1], lists.buffers()[1]], children=[lists.values]
    )


def _of_dimensions(batch: pa.RecordBatch, where: str, first_row: int) -> pa.Array:
    """Return columns of numbers as lists; a row of nulls has no vector, one null is no number."""
    rows = np.column_stack([column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in batch.columns])
    present = np.column_stack([np.asarray(column.is_valid()) for column in batch.columns])
    return _lists(rows.ravel(), np.full(len(rows), rows.shape[1]), present.max(axis=1))


def _of_text(batch: pa.RecordBatch, where: str, first_row: int) -> pa.Array:
    """Return vectors that are written as JSON, such as `[0.1, 0.2]`, with NaN and Infinity as Python does."""
    text = pl.from_arrow(_stored(batch.column(0)).cast(pa.large_string()))
    assert isinstance(text, pl.Series)
    with suppress(pl.exceptions.PolarsError):
        if text.str.contains(_PLAIN).all():
            return text.str.json_decode(pl.List(pl.Float64)).to_arrow(compat_level=pl.CompatLevel.oldest())
    lists = []
    for place, each in enumerate(text, first_row):  # slower
        try:
            lists.append(None if each is None else _numbers_of(each))
        except (ValueError, RecursionError):
            raise DataError(
                f"{where}: row {place:,} of the table is no list of numbers, such as [0.1, 0.2] ({each[:60]!r})"
            ) from None
    return pa.array(lists, pa.large_list(pa.float64()))


def _numbers_of(text: str) -> list[float | None]:
    """Return the numbers of a list in JSON; raise ValueError if it is something else."""
    numbers = json.loads(text, parse_int=float)  # of any length
    if not isinstance(numbers, list) or not all(each is None or type(each) is float for each in numbers):
        raise ValueError
    return numbers


def _of_spark(batch: pa.RecordBatch, where: str, first_row: int) -> pa.Array:
    """Return vectors of Spark's `VectorUDT`: type 1 is dense, type 0 has a size and the indices of its values."""
    column = _stored(batch.column(0))
    present = np.asarray(column.is_valid())
    dense, sizes = (np.asarray(column.field(n).fill_null(0)) for n in ("type", "size"))
    values, indices = (column.field(name) for name in ("values", "indices"))
    stored = np.asarray(values.value_lengths().fill_null(0))
    lengths = np.where(present, np.where(dense == 1, stored, sizes), 0)
    if (lengths < 0).any() or lengths.sum() > _MOST:
        raise DataError(f"{where}: a sparse vector has an impossible size ({lengths.max():,})")
    out, begin = np.zeros(int(lengths.sum())), np.append(0, np.cumsum(lengths))[:-1]
    flat = np.asarray(values.flatten(), np.float64)
    row = np.repeat(np.arange(len(column)), stored)
    first = np.append(0, np.cumsum(stored))[:-1]
    within = np.arange(len(flat)) - first[row]
    sparse = (dense != 1)[row]
    places = np.asarray(indices.flatten()) if sparse.any() else np.zeros(0, np.int64)
    if len(places) != sparse.sum() or (places < 0).any() or (places >= lengths[row[sparse]]).any():
        raise DataError(f"{where}: a sparse vector has indices that do not fit its size")
    within[sparse] = places
    out[begin[row] + within] = flat
    return _lists(out, lengths, present)


def _of_bytes(batch: pa.RecordBatch, where: str, first_row: int, dtype: np.dtype[np.generic]) -> pa.Array:
    """Return vectors whose numbers are stored as bytes, little-endian."""
    column = _stored(batch.column(0))
    stored = column.to_pylist()
    lengths = np.array([0 if each is None else len(each) for each in stored])
    odd = np.flatnonzero(lengths % dtype.itemsize)
    if len(odd):
        raise DataError(f"{where}: {lengths[odd[0]]} bytes are no whole number of {dtype.name}s. Is bytes_of right?")
    numbers = np.frombuffer(b"".join(each for each in stored if each is not None), dtype.newbyteorder("<"))
    kind = np.float64 if dtype.itemsize > 4 else np.float32
    return _lists(numbers.astype(kind), lengths // dtype.itemsize, np.asarray(column.is_valid()))
