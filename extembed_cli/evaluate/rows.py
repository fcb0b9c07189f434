"""Rows of a feature file as arrays: features, labels, times, users, requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from extembed_cli.data import keys
from extembed_cli.errors import DataError, Problems, ResourceError, listing
from extembed_cli.evaluate.feature_file import FeatureFile
from extembed_cli.evaluate.kinds import fits_float32, is_number, is_text

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

NO_TIME = np.iinfo(np.int64).min
_MOST_GRADES = 30  # the gains that LightGBM knows: 2^grade - 1
# What was measured: of this process, of a value, and of a value in each ranker (its copy, LightGBM's, its bins).
_BYTES_FOR_LIBRARIES = 320 * 2**20
_VALUE_BYTES, _RANKER_BYTES = 4, 18


@dataclass(frozen=True)
class Roled:
    """What the rows are, but for the features: all rows of the file, in its order."""

    labels: Doubles
    """(n) NaN = null"""
    times: Ints
    """(n) µs UTC; NO_TIME = null"""
    users: Ints
    """(n) a number for each user"""
    groups: Ints | None
    """(n) a number for each request; 0 = null"""


@dataclass(frozen=True)
class Rows:
    """Some rows of a feature file, in its order."""

    names: list[str]
    values: NDArray[np.float32]
    """(n, F); NaN = null. Text columns are codes."""
    categories: frozenset[str]
    """Names of the columns that are codes."""
    labels: Doubles
    users: Ints
    groups: Ints | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def listwise(self) -> bool:
        """Whether requests are ranked, rather than rows judged one by one."""
        return self.groups is not None

    @property
    def relevant(self) -> Bools:
        """Rows with a label above 0."""
        return self.labels > 0

    def take(self, rows: Ints | Bools) -> Rows:
        """Some of the rows."""
        groups = None if self.groups is None else self.groups[rows]
        values = np.asfortranarray(self.values[rows])
        return Rows(self.names, values, self.categories, self.labels[rows], self.users[rows], groups)

    def places(self, names: Sequence[str]) -> list[int]:
        """Where columns stand in `values`."""
        known = {name: place for place, name in enumerate(self.names)}
        return [known[name] for name in names]

    def column(self, name: str) -> NDArray[np.float32]:
        """(n) the values of one column."""
        values: NDArray[np.float32] = self.values[:, self.names.index(name)]
        return values


def read_roles(file: FeatureFile) -> Roled:
    """Labels, times, users and requests of all rows; labels are checked."""
    roles = file.roles
    assert roles.time is not None and roles.user is not None
    where = str(file.table.parts[0].path)
    read = list(dict.fromkeys(roles.columns().values()))
    parts = [pa.concat_tables(part.tables(read, 131_072)) for part in file.table.parts if part.rows]
    problems = Problems()
    with problems.collect():
        labels = np.concatenate([_numbers(part[roles.label], f"{where}: label `{roles.label}`") for part in parts])
        _check_labels(labels, roles.label, graded=roles.group is not None)
    with problems.collect():
        keys.check_time_type(file.table, roles.time, roles.time_unit)
        times = [keys.times_us(part[roles.time], roles.time_unit, f"{where}: `{roles.time}`") for part in parts]
    for what, name in {"user": roles.user, "group": roles.group}.items():
        with problems.collect():
            if name is not None:
                keys.check_id_kinds(what, [(file.table, name)])
    problems.raise_any()
    return Roled(
        labels,
        np.concatenate([each.fill_null(NO_TIME).to_numpy() for each in times]),
        _codes(part[roles.user] for part in parts),
        None if roles.group is None else _codes(part[roles.group] for part in parts),
    )


def _check_labels(labels: Doubles, name: str, graded: bool) -> None:
    values = np.unique(labels[~np.isnan(labels)])
    if graded:
        if ((values < 0) | (values != np.floor(values)) | (values > _MOST_GRADES)).any():
            raise DataError(
                f"--label {name}: has the values {_shown(values)}; requests are ranked by grades, whole numbers from 0 "
                f"to {_MOST_GRADES}"
            )
    elif not np.isin(values, [0, 1]).all():
        raise DataError(
            f"--label {name}: has the values {_shown(values)}; it has to be 0 or 1. Make such a column before the run "
            "(rating >= 4, say), or rank requests by a graded label with --group"
        )


def _shown(values: Doubles) -> str:
    return listing(f"{value:g}" for value in values)


def read_rows(
    file: FeatureFile, roled: Roled, kept: Bools, memory: int | None, progress: Callable[[int], None]
) -> Rows:
    """The columns of the ladder, of the rows that are kept."""
    names, n = file.columns, int(np.count_nonzero(kept))
    _check_memory(n, len(names), memory)
    kinds = {name: file.table.schema.field(name).type for name in names}
    texts = {name: place for place, name in enumerate(names) if is_text(kinds[name])}
    wide = {name: place for place, name in enumerate(names) if not (is_text(kinds[name]) or fits_float32(kinds[name]))}
    values = np.empty((n, len(names)), np.float32, order="F")
    coded: dict[str, list[pa.Array]] = {name: [] for name in texts}
    exact: dict[str, list[Doubles]] = {name: [] for name in wide}
    row = done = 0
    for part in file.table.parts:
        for table in part.tables(names, 131_072):
            mine = kept[row : row + len(table)]
            count = int(np.count_nonzero(mine))
            for place, name in enumerate(names):
                if name in texts:
                    coded[name] += table[name].cast(pa.large_string()).filter(pa.array(mine)).chunks
                elif name in wide:
                    exact[name].append(_numbers(table[name], name)[mine])
                else:
                    values[done : done + count, place] = _numbers(table[name], name)[mine]
            row += len(table)
            done += count
            progress(len(table))
    for name, place in texts.items():
        codes = _codes([pa.chunked_array(coded[name], pa.large_string())])
        values[:, place] = np.where(codes == 0, np.nan, codes)
    for name, place in wide.items():
        values[:, place] = _in_order(np.concatenate(exact.pop(name)))
    groups = None if roled.groups is None else roled.groups[kept]
    return Rows(names, values, frozenset(texts), roled.labels[kept], roled.users[kept], groups)


def _check_memory(rows: int, columns: int, memory: int | None) -> None:
    row = columns * (_VALUE_BYTES + _RANKER_BYTES)
    needed = _BYTES_FOR_LIBRARIES + rows * row
    if memory is not None and needed > memory:
        fit = (memory - _BYTES_FOR_LIBRARIES) // row
        fewer = f", or take part of the users with --max-rows {fit}" if fit > 0 else ""
        raise ResourceError(
            f"{rows:,} rows of {columns} columns need about {needed / 2**20:,.0f} MiB (libraries "
            f"{_BYTES_FOR_LIBRARIES / 2**20:.0f}) and {memory / 2**20:,.0f} MiB may be used. Raise --memory{fewer}"
        )


def rankers_at_once(values: int, memory: int | None) -> int:
    """How many rankers may be trained side by side on so many values, one at least."""
    if memory is None:
        return sys.maxsize
    return max(1, (memory - _BYTES_FOR_LIBRARIES - _VALUE_BYTES * values) // (_RANKER_BYTES * values))


def _in_order(values: Doubles) -> NDArray[np.float32]:
    """As float32 where that keeps values apart, else by their ranks: for trees, AUC and drift only the order counts."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    distinct, rank = np.unique(values, return_inverse=True)  # NaN is one value, the last
    if len(np.unique(narrow)) == len(distinct):
        return narrow
    return np.where(np.isnan(values), np.float32(np.nan), rank.astype(np.float32))


def _numbers(column: pa.ChunkedArray, where: str) -> Doubles:
    """Numbers as float64, null as NaN."""
    if not is_number(column.type):
        raise DataError(f"{where}: is {column.type}; a number or a boolean is needed")
    series = pl.from_arrow(column)
    assert isinstance(series, pl.Series)
    return series.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _codes(columns: Iterable[pa.ChunkedArray]) -> Ints:
    """A number for each distinct value of all columns from 1, in order of values; 0 = null."""
    values = pl.concat(keys.same_type(*map(keys.ids, columns)))
    return values.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()
