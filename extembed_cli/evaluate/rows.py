"""The rows of a feature file as arrays: features, labels, times, users, requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Values
from extembed_cli.data.columns.labels import codes, numbers, read_codes, read_labels, read_times
from extembed_cli.errors import Problems, ResourceError, counted
from extembed_cli.evaluate.column_types import fits_float32, is_text
from extembed_cli.evaluate.columns import FeatureFile
from extembed_cli.kernels.segments import run_starts
from extembed_cli.spec.tables import TimeColumn

# Measured: bytes of this process, of a value, and of a value in each ranker (its copy, LightGBM's copy, its bins).
_BYTES_FOR_LIBRARIES = 320 * 2**20
_VALUE_BYTES, _RANKER_BYTES = 4, 18


@dataclass(frozen=True)
class RoleValues:
    """The values of the role columns (label, time, user, group) for all n rows of the file, in its order."""

    labels: Doubles
    """(n) NaN = null"""
    times: Ints
    """(n) µs UTC; NO_TIME = null"""
    users: Ints
    """(n) a number for each user"""
    groups: Ints | None
    """(n) a number for each request; 0 = null"""
    item_counts: Ints | None
    """(n) how often the item was in earlier rows; None = the file has no column of items"""


@dataclass(frozen=True)
class Rows:
    """n rows of a feature file with F features, in the order of the file."""

    names: list[str]
    values: Floats
    """(n, F) NaN = null; text columns hold codes"""
    categories: frozenset[str]
    """Names of the text columns."""
    labels: Doubles
    users: Ints
    groups: Ints | None
    item_counts: Values | None
    """(n) events of the item before each row; None = not known"""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def listwise(self) -> bool:
        """Whether rows are ranked inside requests, not predicted one by one."""
        return self.groups is not None

    @property
    def relevant(self) -> Bools:
        """(n) rows with a label above 0"""
        return self.labels > 0

    def take(self, rows: Ints | Bools) -> Rows:
        """Return the chosen rows."""
        groups = None if self.groups is None else self.groups[rows]
        counts = None if self.item_counts is None else self.item_counts[rows]
        values = np.asfortranarray(self.values[rows])
        return Rows(self.names, values, self.categories, self.labels[rows], self.users[rows], groups, counts)

    def indices(self, names: Sequence[str]) -> list[int]:
        """Return the positions of columns in `values`."""
        index_of = {name: index for index, name in enumerate(self.names)}
        return [index_of[name] for name in names]

    def column(self, name: str) -> Floats:
        """Return the values of one column: (n)."""
        values: Floats = self.values[:, self.names.index(name)]
        return values


def read_roles(file: FeatureFile) -> RoleValues:
    """Return labels, times, users and requests of all rows; raise problems with them together."""
    roles, table = file.roles, file.table
    assert roles.time is not None
    assert roles.user is not None
    labels = times = users = groups = counts = None
    problems = Problems()
    with problems.collect():
        labels = read_labels(table, roles.label, graded=roles.group is not None)
    with problems.collect():
        times = read_times(table, TimeColumn(roles.time, roles.time_unit, roles.time_format))
    with problems.collect():
        users = read_codes(table, "user", roles.user)
    with problems.collect():
        groups = None if roles.group is None else read_codes(table, "group", roles.group)
    if file.item is not None and times is not None:
        with problems.collect():
            counts = _counted_before(read_codes(table, "item", file.item), times)
    problems.raise_any()
    assert labels is not None
    assert times is not None
    assert users is not None
    return RoleValues(labels, times, users, groups, counts)


def read_rows(
    file: FeatureFile, role_values: RoleValues, kept: Bools, memory: int | None, progress: Callable[[int], None]
) -> Rows:
    """Return the kept rows with all columns of the ladder."""
    names, n = file.columns, int(np.count_nonzero(kept))
    _check_memory(n, len(names), memory)
    types = [file.table.schema.field(name).type for name in names]
    texts = {name: index for index, name in enumerate(names) if is_text(types[index])}
    wide = {name: index for index, name in enumerate(names) if name not in texts and not fits_float32(types[index])}
    values = np.empty((n, len(names)), np.float32, order="F")
    text_values: dict[str, list[pa.Array]] = {name: [] for name in texts}
    wide_values: dict[str, list[Doubles]] = {name: [] for name in wide}
    row = done = 0
    for part in file.table.parts:
        for table in part.tables(names, 131_072):
            kept_here = kept[row : row + len(table)]
            count = int(np.count_nonzero(kept_here))
            for index, name in enumerate(names):
                if name in texts:
                    text_values[name] += table[name].cast(pa.large_string()).filter(pa.array(kept_here)).chunks
                elif name in wide:
                    wide_values[name].append(numbers(table[name], name)[kept_here])
                else:
                    values[done : done + count, index] = numbers(table[name], name)[kept_here]
            row += len(table)
            done += count
            progress(len(table))
    for name, index in texts.items():
        text_codes = codes([pa.chunked_array(text_values[name], pa.large_string())], name)
        values[:, index] = np.where(text_codes == 0, np.nan, text_codes)
    for name, index in wide.items():
        values[:, index] = _as_float32(np.concatenate(wide_values.pop(name)))
    groups = None if role_values.groups is None else role_values.groups[kept]
    counts: Values | None = None if role_values.item_counts is None else role_values.item_counts[kept]
    if file.seen_column is not None:
        counts = np.nan_to_num(values[:, names.index(file.seen_column)])
    return Rows(names, values, frozenset(texts), role_values.labels[kept], role_values.users[kept], groups, counts)


def _counted_before(items: Ints, times: Ints) -> Ints:
    """Return how many rows of the same item have an earlier time: (n), 0 for a null item."""
    order = np.lexsort((times, items))
    first = run_starts(items[order])
    of_item = np.repeat(first, np.diff(np.append(first, len(order))))
    moment = run_starts(items[order], times[order])
    earlier = np.repeat(moment, np.diff(np.append(moment, len(order)))) - of_item
    counts = np.empty(len(order), np.int64)
    counts[order] = earlier
    return np.where(items > 0, counts, 0)


def _check_memory(rows: int, columns: int, memory: int | None) -> None:
    row = columns * (_VALUE_BYTES + _RANKER_BYTES)
    needed = _BYTES_FOR_LIBRARIES + rows * row
    if memory is not None and needed > memory:
        max_rows = (memory - _BYTES_FOR_LIBRARIES) // row
        fewer = f", or evaluate a sample of the users with --max-rows {max_rows}" if max_rows > 0 else ""
        raise ResourceError(
            f"{counted(rows, 'row')} of {counted(columns, 'column')} need about {needed / 2**20:,.0f} MiB "
            f"({_BYTES_FOR_LIBRARIES / 2**20:.0f} of them for libraries), but only {memory / 2**20:,.0f} MiB may be "
            f"used. Raise --memory{fewer}"
        )


def rankers_at_once(values: int, memory: int | None) -> int:
    """Return how many rankers can be trained at the same time on this many values; at least one."""
    if memory is None:
        return sys.maxsize
    return max(1, (memory - _BYTES_FOR_LIBRARIES - _VALUE_BYTES * values) // (_RANKER_BYTES * values))


def _as_float32(values: Doubles) -> Floats:
    """Return values as float32, or their ranks where float32 would make distinct values equal.

    Trees, AUC and drift depend on the order of values alone.
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    distinct, rank = np.unique(values, return_inverse=True)  # NaN is one value, the last
    if len(np.unique(narrow)) == len(distinct):
        return narrow
    return np.where(np.isnan(values), np.float32(np.nan), rank.astype(np.float32))
