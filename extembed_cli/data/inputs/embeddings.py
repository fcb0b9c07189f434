"""Embedding tables, read in one streaming pass into a float32 matrix of unit vectors; every vector is checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import types

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Values
from extembed_cli.data.columns.ids import as_ids, same_type, shown
from extembed_cli.data.columns.times import check_time_type, times_us
from extembed_cli.data.columns.vector_columns import VectorColumns, require_vectors
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.frozen import read_mean
from extembed_cli.data.inputs.unit_vectors import mean_of_vectors, normalize_vectors, usable_rows
from extembed_cli.data.shards.mapped_arrays import zeros
from extembed_cli.data.shards.matrices import TableVectors, places_of
from extembed_cli.errors import DataError, Problems, listing
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import TableSpec, TimeColumn
from extembed_cli.system.threads import Mapping, prefetched

_ID_ROWS = 2**18  # ids read at a time
_AN_ID = {"item": "an item id", "user": "a user id"}


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
    fix = "; if it has another name, set {0}.columns.{1} in the spec (--set {0}.columns.{1}=NAME)"
    role, key = _role_and_key(table)
    columns, problems = VectorColumns.of(spec, name, table), Problems()
    with problems.collect():
        table.require({spec.id_column(name): fix.format(key, role)})
    with problems.collect():
        require_vectors(columns, fix.format(key, "embedding"))
    problems.raise_any()
    time = spec.time_column(name)
    if time is not None:
        table.require({time.name: fix.format(key, "time")})
        with problems.collect():
            check_time_type(table, time)
    lengths: dict[int, str] = {}
    for part in table.parts:
        with problems.collect():
            length = columns.check(part)
            if length is not None:
                lengths.setdefault(length, part.name)
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
        return _load_moments(table, column, time)
    parts = [
        as_ids(data.column(0), f"{part.name}: column `{column}`")
        for part in table.parts
        for data in part.tables([column], _ID_ROWS)
    ]
    ids = pl.concat(same_type(*parts)) if parts else pl.Series(dtype=pl.Int64)
    kept = ids.is_not_null()
    repeated = (ids.is_duplicated() & kept).sum()
    if repeated:
        if spec.table(name).duplicates == "error":
            role, key = _role_and_key(table)
            counts = ids.filter(ids.is_duplicated() & kept).value_counts(sort=True).head(5)
            examples = listing(f"{shown(item)} {count} times" for item, count in counts.iter_rows())
            raise DataError(
                f"{table.label} ({table.parts[0].name}): {repeated:,} of {len(ids):,} rows share {_AN_ID[role]} "
                f'({column} {examples}). Make them unique, or set duplicates = "last" under [{key}]'
            )
        kept = kept & ids.is_last_distinct()
    report = {
        "rows": len(ids),
        "null_ids": ids.null_count(),
        "replaced_duplicates": int(len(ids) - ids.null_count() - kept.sum()),
    }
    return TableIds(ids, kept.to_numpy(), {k: v for k, v in report.items() if v or k == "rows"})


def _load_moments(table: Table, column: str, time: TimeColumn) -> TableIds:
    """Read ids and times of a table whose vectors change."""
    parts, times = [], []
    for part in table.parts:
        for data in part.tables([column, time.name], _ID_ROWS):
            parts.append(as_ids(data.column(column), f"{part.name}: column `{column}`"))
            times.append(times_us(data.column(time.name), time, f"{part.name}: column `{time.name}`"))
    ids = pl.concat(same_type(*parts)) if parts else pl.Series(dtype=pl.Int64)
    moments = pl.concat(times) if times else pl.Series(dtype=pl.Int64)
    kept = ids.is_not_null() & moments.is_not_null()
    rows = pl.DataFrame({"id": ids, "time": moments}).filter(kept)
    tied = rows.filter(rows.is_duplicated())
    if len(tied):
        role, _ = _role_and_key(table)
        examples = listing(shown(each) for each in tied["id"].unique(maintain_order=True).head(5))
        raise DataError(
            f"{table.label} ({table.parts[0].name}): {len(tied):,} rows share {_AN_ID[role]} and a time "
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
    places, slot_of_row, times = slots_of(table_ids, vocabulary)

    columns = VectorColumns.of(spec, name, table)
    raw, has_vector, bad = _fill(columns, slot_of_row, table_ids, len(places), options, kinds[0][1])
    matrices = [raw]
    for _, at in kinds[1:]:
        matrices.append(zeros(raw.shape, np.float32, at))
        matrices[-1][...] = raw
    frozen = None
    if isinstance(options.center, str):
        frozen = read_mean(options.center, raw.shape[1], f"{table.label} center")
    results = []
    for (center, _), matrix in zip(kinds, matrices, strict=True):
        mean = None
        if center:
            mean = mean_of_vectors(matrix, has_vector, mapped) if frozen is None else frozen
        norms, vanished = normalize_vectors(matrix, has_vector, mean, mapped)
        if len(vanished) and options.bad_vectors == "error":
            raise bad_vectors(table, len(vanished), places[vanished[:5]], VANISHED)
        report = dict(table_ids.report, dim=raw.shape[1])
        if bad or len(vanished):
            report["bad_vectors"] = bad + len(vanished)
        results.append(TableVectors(places, matrix, norms, report, times, duration_us(spec.lag)))
    return results


def slots_of(table_ids: TableIds, vocabulary: pl.Series | None) -> tuple[pl.Series, Ints, Ints | None]:
    """Return the id of each slot, the slot of each row of the table (-1 = none), and the time of each slot."""
    ids, kept = table_ids.ids, table_ids.kept
    if table_ids.times is None:
        places = ids.filter(pl.Series(kept))
        if vocabulary is not None:
            items, places = same_type(vocabulary, places)
            places = places.filter(places.is_in(items.implode()))
        places = places.sort()
        return places, np.where(kept, places_of(ids, places, -1), -1), None
    rows = pl.DataFrame({"id": ids, "time": table_ids.times}).with_row_index("row").filter(pl.Series(kept))
    if vocabulary is not None:
        items, places = same_type(vocabulary, rows["id"])
        rows = rows.filter(places.is_in(items.implode()))
    rows = rows.sort("id", "time")
    slot_of_row = np.full(len(ids), -1, np.int64)
    slot_of_row[rows["row"].to_numpy()] = np.arange(len(rows))
    return rows["id"], slot_of_row, rows["time"].to_numpy()


def _fill(
    columns: VectorColumns,
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
    table = columns.table
    for rows, vectors, usable in vectors_of(columns):
        if raw is None:
            raw = zeros((places + 1, vectors.shape[1]), np.float32, at)
        bad += rows[~usable & table_ids.kept[rows]].tolist()
        slots = slot_of_row[rows]
        wanted = (slots >= 0) & usable
        chosen = vectors if wanted.all() else vectors[wanted]
        slots = slots[wanted]
        raw[slots], has_vector[slots] = chosen, True
    if raw is None:
        raise no_vectors(columns)
    if bad and options.bad_vectors == "error":
        raise bad_vectors(table, len(bad), table_ids.ids[bad[:5]], NOT_USABLE)
    return raw, has_vector, len(bad)


NOT_USABLE = "zero or not finite"
VANISHED = "equal to the mean, so zero once centred"


def vectors_of(
    columns: VectorColumns, first_row: int = 0, dim: int | None = None
) -> Iterator[tuple[Ints, Values, Bools]]:
    """Yield the vectors of a table that are not null: their rows (n), the vectors (n, d), and which are usable (n).

    first_row  the row of the first vector, where the table is a piece of another
    dim        the length that all have to have; None = that of the first
    """
    row = first_row
    with prefetched(columns.batches(row=first_row)) as batches:
        for path, batch in batches:
            vectors, present = _dense(batch, f"{path}: {columns.shown}", row, dim)
            if len(vectors):
                dim = vectors.shape[1]
                yield row + np.flatnonzero(present), vectors, usable_rows(vectors)
            row += len(batch)


def no_vectors(columns: VectorColumns) -> DataError:
    """Return the error that a table has no vector at all."""
    table = columns.table
    return DataError(f"{table.label} ({table.parts[0].name}): there is no vector in {columns.shown}")


def mean_of_table(spec: Spec, name: str, table: Table, mapped: Mapping = map) -> tuple[Doubles, int]:
    """Return the mean (d) of the usable raw vectors of a table, and their number."""
    ids = load_ids(spec, name, table)
    places, slots, _ = slots_of(ids, None)
    columns = VectorColumns.of(spec, name, table)
    raw, has_vector, _ = _fill(columns, slots, ids, len(places), spec.table(name), None)
    return mean_of_vectors(raw, has_vector, mapped), int(np.count_nonzero(has_vector))


def bad_vectors(table: Table, count: int, examples: pl.Series, problem: str) -> DataError:
    role, key = _role_and_key(table)
    return DataError(
        f"{table.label} ({table.parts[0].name}): {count:,} of {table.rows:,} vectors are {problem} "
        f'({role}_id {listing(map(shown, examples), 4)}). Set bad_vectors = "missing" under [{key}] '
        f"to treat those {role}s as having no vector"
    )


def _dense(column: pa.Array, where: str, row: int, dim: int | None) -> tuple[Values, Bools]:
    """Return the vectors that are not null (n, d), and which rows of the batch have them."""
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
