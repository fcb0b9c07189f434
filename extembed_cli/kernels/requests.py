"""Values relative to those of the other rows of a request."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles, Floats, Ints
from extembed_cli.kernels.segments import run_starts
from extembed_cli.kernels.statistics import ordered_bits


class Within(NamedTuple):
    """A column relative to its requests: (n) each; NaN where the value or the request is null."""

    rank: Doubles
    """1 = the highest value of the request; equal values have the mean of their ranks"""
    difference: Doubles
    """value − median of the request"""
    ratio: Doubles
    """difference / standard deviation of the request; NaN too where all values are equal"""


def within_requests(values: Floats, requests: Ints) -> Within:
    """Return values (n), NaN for null, relative to those of the same request: (n) numbers from 1, 0 for null.

    Null values count for no other row. Sums are over one request's values in ascending order, so that no other request
    and no order of rows changes a bit.
    """
    out = Within(*(np.full(len(values), np.nan) for _ in Within._fields))
    rows = np.flatnonzero(~np.isnan(values) & (requests > 0))
    if not len(rows):
        return out
    keys = ordered_bits(values[rows] + np.float32(0)).astype(np.uint64)  # −0 is 0
    keys |= requests[rows].astype(np.uint64) << np.uint64(32)
    order = np.argsort(keys, kind="stable")
    rows, keys = rows[order], keys[order]
    request, value = requests[rows], values[rows].astype(np.float64)
    first = run_starts(request)
    counts = np.diff(np.append(first, len(rows)))
    begin, count = np.repeat(first, counts), np.repeat(counts, counts)
    tie = run_starts(keys)
    ties = np.diff(np.append(tie, len(rows)))
    out.rank[rows] = begin + count - (np.repeat(tie, ties) + (np.repeat(ties, ties) - 1) / 2)
    median = (value[first + (counts - 1) // 2] + value[first + counts // 2]) / 2
    away = value - np.repeat(median, counts)
    out.difference[rows] = away
    mean = np.add.reduceat(away, first) / counts
    spread = np.sqrt(np.add.reduceat((away - np.repeat(mean, counts)) ** 2, first) / counts)
    spread[value[first] == value[first + counts - 1]] = np.nan
    out.ratio[rows] = away / np.repeat(spread, counts)
    return out
