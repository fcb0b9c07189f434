"""Rows of a feature file as arrays: features, labels, times, users, requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from extembed_cli.arrays import Bools, Doubles, Floats, Ints
from extembed_cli.data.labels import codes, numbers, read_codes, read_labels, read_times
from extembed_cli.errors import Problems, ResourceError
from extembed_cli.evaluate.columns import FeatureFile
from extembed_cli.evaluate.kinds import fits_float32, is_text

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
    values: Floats
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

    def column(self, name: str) -> Floats:
        """(n) the values of one column."""
        values: Floats = self.values[:, self.names.index(name)]
        return values


def read_roles(file: FeatureFile) -> Roled:
    """Labels, times, users and requests of all rows; labels are checked."""
    roles, table = file.roles, file.table
    assert roles.time is not None
    assert roles.user is not None
    labels = times = users = groups = None
    problems = Problems()
    with problems.collect():
        labels = read_labels(table, roles.label, graded=roles.group is not None)
    with problems.collect():
        times = read_times(table, roles.time, roles.time_unit)
    with problems.collect():
        users = read_codes(table, "user", roles.user)
    with problems.collect():
        groups = None if roles.group is None else read_codes(table, "group", roles.group)
    problems.raise_any()
    assert labels is not None
    assert times is not None
    assert users is not None
    return Roled(labels, times, users, groups)


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
                    exact[name].append(numbers(table[name], name)[mine])
                else:
                    values[done : done + count, place] = numbers(table[name], name)[mine]
            row += len(table)
            done += count
            progress(len(table))
    for name, place in texts.items():
        coded_values = codes([pa.chunked_array(coded[name], pa.large_string())])
        values[:, place] = np.where(coded_values == 0, np.nan, coded_values)
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


def _in_order(values: Doubles) -> Floats:
    """As float32 where that keeps values apart, else by their ranks: for trees, AUC and drift only the order counts."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    distinct, rank = np.unique(values, return_inverse=True)  # NaN is one value, the last
    if len(np.unique(narrow)) == len(distinct):
        return narrow
    return np.where(np.isnan(values), np.float32(np.nan), rank.astype(np.float32))
