"""Means of what the events say, over the events that each row sees: weighted, or over the most similar ones.

A row is a candidate that sees at least one event. Arrays (n) are over the events of all rows, one row after another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Values
from extembed_cli.kernels.segments import offsets, rectangle
from extembed_cli.kernels.statistics import Ranked


class LogMean(NamedTuple):
    """A mean with weights given by their logarithms."""

    mean: Doubles
    """(R) Σ w y / Σ w; NaN where no event counts"""
    log_total: Doubles
    """(R) log2 Σ w; −inf where no event counts"""


def log_weighted_mean(logs: Values, values: Values, counts: Ints) -> LogMean:
    """Return the weighted mean of the values of each row, for weights 2^logs that no float could hold:

        mean = Σ 2^(log - highest) y / Σ 2^(log - highest), highest = the largest log of the row

    logs (n), −inf for an event that does not count; values (n) float64, finite; counts (R), at least 1. A sum is over
    one row's numbers, in an order that their count alone decides, that of the values in float64.
    """
    first = offsets(counts)[:-1]
    highest = np.maximum.reduceat(logs, first)
    counted = highest > -np.inf
    highest = np.where(counted, highest, 0)
    weights = logs - np.repeat(highest, counts)
    np.exp2(weights, out=weights)
    total = np.add.reduceat(weights, first).astype(np.float64)
    weighted = np.add.reduceat(weights * values, first)
    total[~counted] = np.nan
    return LogMean(weighted / total, np.where(counted, highest + np.log2(np.where(counted, total, 1)), -np.inf))


class Top(NamedTuple):
    """Positions of the most similar events of each row: (R, K) keys of a ranking, most similar first."""

    positions: Ints
    real: Bools
    """(R, K) whether the row has that many"""

    def mean(self, values: Values) -> Doubles:
        """(R, K) values -> (R) their means; NaN where there is none."""
        counts = np.count_nonzero(self.real, axis=1)
        sums = np.add.reduce(np.where(self.real, values, 0), axis=1, dtype=np.float64)
        means: Doubles = np.where(counts > 0, sums, np.nan) / np.maximum(counts, 1)
        return means


def top(ranked: Ranked, number: int, counts_at: Bools | None = None) -> Top:
    """Return the events of each row with the largest cosines, of equal ones the newest first.

    counts_at  by position: whether an event counts; None = all do
    """
    start, counts = ranked.start, ranked.counts
    number = min(number, int(counts.max(initial=1)))
    if counts_at is None:
        places, real = rectangle(-(start + counts), -start, number)
        return Top(-places - 1, real)
    before = np.concatenate([[0], np.cumsum(counts_at)])
    known = np.flatnonzero(counts_at)
    low, high = before[start], before[start + counts]
    places, real = rectangle(-high, -low, number)
    return Top(known.take(-places - 1, mode="clip") if len(known) else np.zeros_like(places), real)


def relative_logs(logs: Doubles, counted: Bools, counts: Ints) -> tuple[Floats, Doubles]:
    """Return the logs relative to the largest of each row, −inf where an event does not count, and (R) the largest.

    Only differences to the heaviest event matter, and float32 holds these well.
    """
    logs = np.where(counted, logs, -np.inf)
    highest = np.maximum.reduceat(logs, offsets(counts)[:-1])
    base = np.where(highest > -np.inf, highest, 0)
    logs -= np.repeat(base, counts)
    return logs.astype(np.float32), base
