"""The order of many rows by owner and time, and of names by the numbers in them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints, Values


def by_owner_and_time(owners: Values, times: Ints) -> tuple[Ints, Ints]:
    """Return the order of rows by owner and time (one sort of 64-bit keys), and the places of tied rows in it.

    A key that cannot hold both drops the last bits of the time; then more rows tie.
    """
    if not len(times):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    since = (times - times.min()).view(np.uint64)
    bits = int(since.max()).bit_length()
    dropped = max(0, bits + int(owners.max()).bit_length() - 64)
    keys = (owners.astype(np.uint64) << np.uint64(bits - dropped)) | (since >> np.uint64(dropped))
    order = pl.Series(keys).arg_sort().to_numpy().astype(np.int64)
    in_order = keys[order]
    same = in_order[1:] == in_order[:-1]
    return order, np.flatnonzero(np.append(same, False) | np.append(False, same))


def by_owner_time_and_value(owners: Values, times: Ints, values: Doubles) -> Ints:
    """Return the order of rows by owner, time and value."""
    order, ties = by_owner_and_time(owners, times)
    tied = order[ties]
    order[ties] = tied[np.lexsort((values[tied], times[tied], owners[tied]))]
    return order


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Return names in order, `d2` before `d10`.

    >>> in_natural_order(["d10", "d9", "d010x", "d"])
    ['d', 'd9', 'd10', 'd010x']
    """
    return sorted(names, key=_natural)


def _natural(name: str) -> list[str | tuple[int, str]]:
    """Return a key in which digits, which are at every second place, are compared as numbers of any length."""
    parts = enumerate(re.split(r"([0-9]+)", name))
    return [(len(number := part.lstrip("0")), number) if place % 2 else part for place, part in parts]
