"""Embedding tables, read in one streaming pass into a float32 matrix of unit vectors; every vector is checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Nums, Values
from extembed_cli.data.ids import as_ids, same_type
from extembed_cli.data.mapped_arrays import ArrayFolder, is_mapped, zeros
from extembed_cli.data.parquet import Table
from extembed_cli.data.times import check_time_type, times_us
from extembed_cli.errors import DataError, Problems, listing
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.model import Spec, TableSpec
from extembed_cli.system.threads import Mapping, prefetched

_BATCH_BYTES = 2**22  # bytes of vectors read at a time
_ID_ROWS = 2**18  # ids read at a time
ROWS = 2048  # rows of a matrix processed at a time: a fixed number
_SUM_ROWS = 4096  # rows summed at a time for the mean: a fixed size, so that the mean's bits are fixed
# A centred vector shorter than this share of the mean's norm is rounding error and has no direction.
_ZERO_CENTRED = 1e-6
BYTES_PER_MOMENT = 60  # of a vector that counts from a time on: its id, time, key and norm
_AN_ID = {"item": "an item id", "user": "a user id"}


class Moments(NamedTuple):
    """The vectors of partners at moments: each from its time on, until the partner's next one."""

    times: Ints
    """(t) the different times, ascending"""
    keys: Ints
    """(n) partner and place of the time, as one number, ascending"""
    slots: Nums
    """(n) the row of the vector"""
    lag_us: int

    @classmethod
    def of(cls, partners: Ints, times: Ints, slots: Nums, lag_us: int) -> Moments:
        """Return the moments of rows in any order; a row of partner -1 is left out."""
        different, place = np.unique(times, return_inverse=True)
        keys = partners * (len(different) + 1) + place
        order = np.argsort(keys)[np.count_nonzero(partners < 0) :]
        return cls(different, keys[order], slots[order], lag_us)

    def at(self, partners: Values, times: Ints, missing: int) -> Nums:
        """Return the row of each partner's newest vector strictly before a time, `missing` where there is none."""
        if not len(self.keys):
            return np.full(len(partners), missing, np.int32)
        span = len(self.times) + 1
        earlier = np.searchsorted(self.times, times - self.lag_us, "left")
        place = np.searchsorted(self.keys, partners.astype(np.int64) * span + earlier, "left") - 1
        known = (place >= 0) & (self.keys[place] // span == partners)
        return np.where(known, self.slots[place], np.int32(missing))


@dataclass(frozen=True)
class EmbeddingMatrix:
    """Unit vectors of the items or users of one table."""

    vectors: Floats
    """(n + 1, d): rows of norm 1; the last row is zero and stands for every item without a vector."""
    norms: Doubles
    """(n + 1): the norm by which each vector was divided; 0 = no vector."""
    slots: Nums
    """(items + 1): row of `vectors` by item num; the last entry is that of a null item (num -1)."""
    report: dict[str, Any]
    """Counts of the table's rows, used and left out."""
    moments: Moments | None = None
    """None = the vectors are the same at all times"""

    def slots_of(self, partners: Values, times: Ints) -> Nums:
        """Return the row of `vectors` of each partner as of a time: (n) each."""
        if self.moments is None:
            return self.slots[partners]
        return self.moments.at(partners, times, self.missing)

    @property
    def missing(self) -> int:
        """The slot of items without a vector."""
        return len(self.vectors) - 1

    @property
    def with_vector(self) -> Bools:
        """(items + 1) Whether each item has a vector; False for a null item, the last entry."""
        flags: Bools = self.slots != self.missing
        return flags

    @property
    def blocks(self) -> Iterator[slice]:
        """Slices of a fixed number of rows, so that the bits of sums over them do not depend on the workers."""
        return (slice(low, min(low + ROWS, len(self.vectors))) for low in range(0, len(self.vectors), ROWS))

    def exact(self, at: slice, *, normalized: bool, bias: bool) -> Doubles:
        """Return some rows in float64, with their original norms unless `normalized`; `bias` appends a constant 1.

        The row of a missing vector is all 0, its constant too.
        """
        vectors = self.vectors[at].astype(np.float64)
        norms = self.norms[at]
        if not normalized:
            vectors *= norms[:, None]
        return np.column_stack([vectors, norms > 0]) if bias else vectors

    def save(self, arrays: ArrayFolder, name: str) -> dict[str, Any]:
        """Write the matrix to mapped files; return what `open` needs."""
        parts = {"vectors": self.vectors, "norms": self.norms, "slots": self.slots}
        kept: dict[str, Any] = {part: arrays.put(f"{name}.{part}", values) for part, values in parts.items()}
        if self.moments is not None:
            moments = {part: getattr(self.moments, part) for part in ("times", "keys", "slots")}
            kept["moments"] = {part: arrays.put(f"{name}.moments.{part}", each) for part, each in moments.items()}
            kept["moments"]["lag_us"] = self.moments.lag_us
        return {"report": self.report, **kept}

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any]) -> EmbeddingMatrix:
        """Return the matrix that `save` wrote."""
        parts = {part: arrays.get(about[part]) for part in ("vectors", "norms", "slots")}
        moments = None
        if "moments" in about:
            of_moments = {part: arrays.get(about["moments"][part]) for part in ("times", "keys", "slots")}
            moments = Moments(**of_moments, lag_us=about["moments"]["lag_us"])
        return cls(**parts, report=about["report"], moments=moments)

    def of_used_items(self, at: Path | None = None) -> EmbeddingMatrix:
        """Return the matrix without the vectors of unused items; in a mapped file if its path is given."""
        if self.moments is not None:  # of the vocabulary alone
            return self
        used = np.append(np.unique(self.slots[self.slots != self.missing]), self.missing)
        if len(used) == len(self.vectors):
            return self
        slots = np.searchsorted(used, self.slots).astype(np.int32)
        vectors = zeros((len(used), self.vectors.shape[1]), np.float32, at)
        for low in range(0, len(used), _SUM_ROWS):
            rows = slice(low, low + _SUM_ROWS)
            vectors[rows] = self.vectors[used[rows]]
        return replace(self, vectors=vectors, norms=self.norms[used], slots=slots)


@dataclass(frozen=True)
class TableVectors:
    """Unit vectors of the items of one table, in order of their ids."""

    ids: pl.Series
    """(n)"""
    vectors: Floats
    """(n + 1, d): rows of norm 1; zero where there is no usable vector, and in the last row."""
    norms: Doubles
    """(n + 1): the norm by which each vector was divided; 0 = no vector."""
    report: dict[str, Any]
    times: Ints | None = None
    """(n) from when on each counts (us); then an id may have several"""
    lag_us: int = 0

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of what is not in a mapped file."""
        vectors = 0 if is_mapped(self.vectors) else self.vectors.nbytes
        return vectors + len(self.ids) * BYTES_PER_MOMENT

    def of(self, vocabulary: pl.Series) -> EmbeddingMatrix:
        """Return the matrix of these vectors by the nums of a vocabulary."""
        if self.times is not None:
            return self._at_moments(vocabulary, self.times)
        items, ids = same_type(vocabulary, self.ids)
        missing = len(ids)
        rows = _places_of(items, ids, missing)
        slots = np.full(len(items) + 1, missing, np.int32)
        slots[:-1] = np.where(self.norms[rows] > 0, rows, missing)
        items_with_vector = int(np.count_nonzero(slots[:-1] != missing))
        return EmbeddingMatrix(self.vectors, self.norms, slots, {**self.report, "items_with_vector": items_with_vector})

    def _at_moments(self, vocabulary: pl.Series, times: Ints) -> EmbeddingMatrix:
        missing = len(self.ids)
        rows = np.where(self.norms[:-1] > 0, np.arange(missing), missing).astype(np.int32)
        partners = _places_of(self.ids, vocabulary, -1)
        slots = np.full(len(vocabulary) + 1, missing, np.int32)
        known = np.flatnonzero((rows != missing) & (partners >= 0))
        slots[partners[known]] = rows[known]
        report = {**self.report, "items_with_vector": int(np.count_nonzero(slots != missing))}
        moments = Moments.of(partners, times, rows, self.lag_us)
        return EmbeddingMatrix(self.vectors, self.norms, slots, report, moments)


@dataclass(frozen=True)
class TableIds:
    """The ids of a table, and which of its rows are kept."""

    ids: pl.Series
    kept: Bools
    """(rows): False for null ids and for all but the last row of a repeated id."""
    report: dict[str, Any]
    times: Ints | None = None
    """(rows) from when on each counts (us); None = always. Then False also for null times"""


def _role_and_key(table: Table) -> tuple[str, str]:
    """Return whose vectors a table has, and its key in a spec."""
    kind, name = table.label.split()
    return "user" if kind == "user_embeddings" else "item", f"{kind}.{name}"


def check_embedding(spec: Spec, name: str, table: Table) -> None:
    """Check the columns, their types, and the vector length if the type has it, from the footers alone."""
    ids, embedding = spec.id_column(name), spec.vector_column(name)
    fix = "; if it has another name, set {0}.columns.{1} in the spec (--set {0}.columns.{1}=NAME)"
    role, key = _role_and_key(table)
    table.require({ids: fix.format(key, role), embedding: fix.format(key, "embedding")})
    problems = Problems()
    time = spec.time_column(name)
    if time is not None:
        table.require({time: fix.format(key, "time")})
        with problems.collect():
            check_time_type(table, time, spec.time_unit)
    lengths: dict[int, Path] = {}
    for part in table.parts:
        kind = _vectors_type(part.schema.field(embedding).type)
        with problems.collect():
            if kind is None:
                raise DataError(
                    f"{part.path}: column `{embedding}` is {part.schema.field(embedding).type}; vectors must be lists "
                    "(fixed-size or not) of float16, float32, float64 or int8"
                )
        if kind is not None and types.is_fixed_size_list(kind):
            lengths.setdefault(kind.list_size, part.path)
    if len(lengths) > 1:
        examples = " and ".join(f"{length} in {path}" for length, path in lengths.items())
        problems.errors.append(
            DataError(f"{table.label}: vectors of different lengths: {examples}. A table needs vectors of one length")
        )
    problems.raise_any()


def load_ids(spec: Spec, name: str, table: Table) -> TableIds:
    """Read the ids alone, so that duplicates are reported and all places are known before any vector is read."""
    column, time = spec.id_column(name), spec.time_column(name)
    if time is not None:
        return _load_moments(spec, table, column, time)
    parts = [as_ids(data.column(0)) for part in table.parts for data in part.tables([column], _ID_ROWS)]
    ids = pl.concat(same_type(*parts)) if parts else pl.Series(dtype=pl.Int64)
    kept = ids.is_not_null()
    repeated = (ids.is_duplicated() & kept).sum()
    if repeated:
        if spec.table(name).duplicates == "error":
            role, key = _role_and_key(table)
            counts = ids.filter(ids.is_duplicated() & kept).value_counts(sort=True).head(5)
            examples = listing(f"{_shown(item)} {count} times" for item, count in counts.iter_rows())
            raise DataError(
                f"{table.label} ({table.parts[0].path}): {repeated:,} of {len(ids):,} rows share {_AN_ID[role]} "
                f'({column} {examples}). Make them unique, or set duplicates = "last" under [{key}]'
            )
        kept = kept & ids.is_last_distinct()
    report = {
        "rows": len(ids),
        "null_ids": ids.null_count(),
        "replaced_duplicates": int(len(ids) - ids.null_count() - kept.sum()),
    }
    return TableIds(ids, kept.to_numpy(), {k: v for k, v in report.items() if v or k == "rows"})


def _load_moments(spec: Spec, table: Table, column: str, time: str) -> TableIds:
    """Read ids and times of a table whose vectors change."""
    parts, times = [], []
    for part in table.parts:
        for data in part.tables([column, time], _ID_ROWS):
            parts.append(as_ids(data.column(column)))
            times.append(times_us(data.column(time), spec.time_unit, f"{part.path}: column `{time}`"))
    ids = pl.concat(same_type(*parts)) if parts else pl.Series(dtype=pl.Int64)
    moments = pl.concat(times) if times else pl.Series(dtype=pl.Int64)
    kept = ids.is_not_null() & moments.is_not_null()
    rows = pl.DataFrame({"id": ids, "time": moments}).filter(kept)
    tied = rows.filter(rows.is_duplicated())
    if len(tied):
        role, _ = _role_and_key(table)
        examples = listing(_shown(each) for each in tied["id"].unique(maintain_order=True).head(5))
        raise DataError(
            f"{table.label} ({table.parts[0].path}): {len(tied):,} rows share {_AN_ID[role]} and a time "
            f"({column} {examples}). A vector counts from its time on, so only one may have it"
        )
    report = {"rows": len(ids), "null_ids": int(len(ids) - kept.sum())}
    report = {key: count for key, count in report.items() if count or key == "rows"}
    return TableIds(ids, kept.to_numpy(), report, moments.fill_null(0).to_numpy())


def load_vectors(
    spec: Spec,
    name: str,
    table: Table,
    table_ids: TableIds,
    vocabulary: pl.Series | None,
    kinds: Sequence[tuple[bool, Path | None]],
    mapped: Mapping = map,
) -> list[TableVectors]:
    """Return the table's unit vectors of the items in the vocabulary (None = of all its items), from one read.

    kinds  for each result whether the vectors are centred, and the path of a mapped file for them, or a folder for an
           unnamed one; None = in memory
    """
    options = spec.table(name)
    places, slot_of_row, times = _slots(table_ids, vocabulary)

    raw, has_vector, bad = _fill(
        table, spec.vector_column(name), slot_of_row, table_ids, len(places), options, kinds[0][1]
    )
    matrices = [raw]
    for _, at in kinds[1:]:
        matrices.append(zeros(raw.shape, np.float32, at))
        matrices[-1][...] = raw
    results = []
    for (center, _), matrix in zip(kinds, matrices, strict=True):
        norms, vanished = _normalize(matrix, has_vector, center, mapped)
        if len(vanished) and options.bad_vectors == "error":
            problem = "equal to the table's mean, so zero once centred"
            raise _bad_vectors(table, len(vanished), places[vanished[:5]], problem)
        report = dict(table_ids.report, dim=raw.shape[1])
        if bad or len(vanished):
            report["bad_vectors"] = bad + len(vanished)
        results.append(TableVectors(places, matrix, norms, report, times, duration_us(spec.lag)))
    return results


def _slots(table_ids: TableIds, vocabulary: pl.Series | None) -> tuple[pl.Series, Ints, Ints | None]:
    """Return the id of each slot, the slot of each row of the table (-1 = none), and the time of each slot."""
    ids, kept = table_ids.ids, table_ids.kept
    if table_ids.times is None:
        places = ids.filter(pl.Series(kept))
        if vocabulary is not None:
            items, places = same_type(vocabulary, places)
            places = places.filter(places.is_in(items.implode()))
        places = places.sort()
        return places, np.where(kept, _places_of(ids, places, -1), -1), None
    rows = pl.DataFrame({"id": ids, "time": table_ids.times}).with_row_index("row").filter(pl.Series(kept))
    if vocabulary is not None:
        items, places = same_type(vocabulary, rows["id"])
        rows = rows.filter(places.is_in(items.implode()))
    rows = rows.sort("id", "time")
    slot_of_row = np.full(len(ids), -1, np.int64)
    slot_of_row[rows["row"].to_numpy()] = np.arange(len(rows))
    return rows["id"], slot_of_row, rows["time"].to_numpy()


def _places_of(ids: pl.Series, places: pl.Series, missing: int) -> Ints:
    """Return the position of each id in `places`; `missing` where it is not there."""
    ids, places = same_type(ids, places)
    table = pl.DataFrame({"id": places}).with_row_index("place")
    joined = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")
    return joined["place"].cast(pl.Int64).fill_null(missing).to_numpy()


def _fill(
    table: Table,
    column: str,
    slot_of_row: Ints,
    table_ids: TableIds,
    places: int,
    options: TableSpec,
    at: Path | None,
) -> tuple[Floats, Bools, int]:
    """Stream vectors into their slots.

    Return these (places + 1, d), which of them have a usable vector, and the number of bad vectors.
    """
    raw: Floats | None = None
    has_vector = np.zeros(places, np.bool_)
    bad: list[int] = []
    row = 0
    with prefetched(_vector_batches(table, column)) as batches:
        for path, batch in batches:
            vectors, present = _dense(batch, f"{path}: column `{column}`", row, None if raw is None else raw.shape[1])
            if vectors.shape[0]:
                if raw is None:
                    raw = zeros((places + 1, vectors.shape[1]), np.float32, at)
                usable = _usable(vectors)
                rows = row + np.flatnonzero(present)
                bad += rows[~usable & table_ids.kept[rows]].tolist()
                slots = slot_of_row[rows]
                wanted = (slots >= 0) & usable
                if not wanted.all():
                    slots, vectors = slots[wanted], vectors[wanted]
                raw[slots], has_vector[slots] = vectors, True
            row += len(batch)
    if raw is None:
        raise DataError(f"{table.label} ({table.parts[0].path}): there is no vector in column `{column}`")
    if bad and options.bad_vectors == "error":
        raise _bad_vectors(table, len(bad), table_ids.ids[bad[:5]], "zero or not finite")
    return raw, has_vector, len(bad)


def _normalize(raw: Floats, has_vector: Bools, center: bool, mapped: Mapping) -> tuple[Doubles, NDArray[np.intp]]:
    """Centre (if set) and divide by the norm, in place, in float64.

    Return the norms, 0 = no vector, and the slots of vectors that are zero once centred.
    """
    norms = np.zeros(len(raw))
    blocks = [slice(low, min(low + _SUM_ROWS, len(has_vector))) for low in range(0, len(has_vector), _SUM_ROWS)]
    mean = np.zeros(raw.shape[1])
    if center and has_vector.any():
        for total in mapped(lambda at: raw[at].sum(axis=0, dtype=np.float64), blocks):
            mean += total  # slots without a vector hold zeros
        mean /= np.count_nonzero(has_vector)
    shortest = _ZERO_CENTRED * np.linalg.norm(mean)

    def divide(at: slice) -> None:
        vectors = raw[at].astype(np.float64)
        if center:
            vectors -= mean
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        norms[at] = np.where(has_vector[at] & (lengths > shortest), lengths, 0)
        vectors /= np.where(norms[at] > 0, norms[at], np.inf)[:, None]
        raw[at] = vectors

    for _ in mapped(divide, blocks):
        pass
    return norms, np.flatnonzero(has_vector & (norms[:-1] == 0))


def _bad_vectors(table: Table, count: int, examples: pl.Series, problem: str) -> DataError:
    role, key = _role_and_key(table)
    return DataError(
        f"{table.label} ({table.parts[0].path}): {count:,} of {table.rows:,} vectors are {problem} "
        f'({role}_id {listing(map(_shown, examples), 4)}). Set bad_vectors = "missing" under [{key}] '
        f"to treat those {role}s as having no vector"
    )


def _vector_batches(table: Table, column: str) -> Iterator[tuple[Path, pa.Array]]:
    for part in table.parts:
        kind = _vectors_type(part.schema.field(column).type)
        width = kind.list_size if kind is not None and types.is_fixed_size_list(kind) else 1024
        rows = max(1, _BATCH_BYTES // max(1, 4 * width))
        for batch in part.batches([column], rows):
            yield part.path, batch.column(0)


def _vectors_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the list type that holds the vectors, or None for a type that cannot hold them."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not (types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)):
        return None
    return kind if types.is_floating(kind.value_type) or types.is_integer(kind.value_type) else None


def _dense(column: pa.Array, where: str, row: int, dim: int | None) -> tuple[Values, Bools]:
    """Return the vectors that are not null (n, d), and which rows of the batch have them."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    present = np.ones(len(column), np.bool_)
    if column.null_count:  # otherwise skip importing pyarrow.compute, which is slow
        present, column = np.asarray(column.is_valid()), column.drop_null()
    if not len(column):
        return np.empty((0, dim or 0), np.float32), present
    fixed = types.is_fixed_size_list(column.type)
    lengths = np.full(len(column), column.type.list_size) if fixed else np.diff(column.offsets.to_numpy())
    length = int(lengths[0]) if dim is None else dim
    odd = np.flatnonzero(lengths != length)
    if len(odd):
        raise DataError(
            f"{where}: vectors of different lengths: {length} before, {lengths[odd[0]]} in row "
            f"{row + int(np.flatnonzero(present)[odd[0]]):,} of the table. A table needs vectors of one length"
        )
    if length == 0:
        raise DataError(f"{where}: the vectors have no elements")
    values = column.flatten()
    if values.null_count:
        values = values.cast(pa.float64())
    return values.to_numpy(zero_copy_only=False).reshape(-1, length), present


def _usable(vectors: Values) -> Bools:
    """Whether each row is finite in float32 and not zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = vectors.astype(np.float32, copy=False)
        magnitude = np.maximum(single.max(axis=1), -single.min(axis=1))  # NaN and infinity survive a maximum
    usable: Bools = np.isfinite(magnitude) & (magnitude > 0)
    return usable


def first_dim(table: Table, column: str) -> int:
    """Return the length of a table's first vector; 1 if there is none."""
    first = next(table.parts[0].batches([column], 1), None)
    return _dense(first.column(0), "", 0, None)[0].shape[1] if first is not None and len(first) else 1


def _shown(item: object) -> str:
    return item.hex() if isinstance(item, bytes) else str(item)
