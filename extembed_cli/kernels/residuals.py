"""Means of earlier values, for residuals: what an event says beyond what was to be expected at its moment.

Values at one moment do not see each other. Each sum is over one segment in order of time and value, so no later value
and no other segment changes its bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.kernels.decay import BLOCK, decayed_totals
from extembed_cli.kernels.segments import offsets, ragged, run_starts

DAY_US = 86_400_000_000  # of a window


class Sums(NamedTuple):
    """Decayed sums and weights, relative to the time of each value: (n) each."""

    sum: Doubles
    weight: Doubles

    def at(self, places: Ints | int, left: Doubles | float = 1.0) -> Sums:
        """Return the sums at some places, of whose weights a share is left."""
        return Sums(self.sum[places] * left, self.weight[places] * left)


def sums_before(indptr: Ints, times: Ints, values: Doubles, half_life_us: int | None) -> tuple[Sums, Sums]:
    """Return the decayed sum and weight of the earlier values of each value's segment, and those up to each value:

        sum[i] = Σ_{j: t_j < t_i} w y_j, weight[i] = Σ_{j: t_j < t_i} w, w = 2^(-(t_i - t_j) / half_life)

    Segment s has the values [indptr[s], indptr[s + 1]), ordered by time, then value. Without a half-life w = 1.
    """
    upto, clock = _totals(indptr, times, values, half_life_us)
    if not len(times):
        return upto, upto
    owners = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    first = run_starts(owners, times)
    previous = np.repeat(first, np.diff(np.append(first, len(times)))) - 1  # the last earlier value
    known = previous >= indptr[owners]
    previous = np.where(known, previous, 0)
    return upto.at(previous, np.where(known, np.exp2(clock[previous] - clock), 0)), upto


def _totals(indptr: Ints, times: Ints, values: Doubles, half_life_us: int | None) -> tuple[Sums, Doubles]:
    """Return the decayed sums and weights up to each value, and times in half-lives since its segment's first."""
    filled = np.flatnonzero(np.diff(indptr))
    lengths, begin = np.diff(indptr)[filled], indptr[filled]
    clock = np.zeros(len(times))
    if half_life_us is not None:
        clock = (times - np.repeat(times[begin], lengths)) / half_life_us
    if not len(times):
        return Sums(values, clock), clock
    blocks = -(-lengths // BLOCK)
    at = ragged(BLOCK * offsets(blocks)[:-1], lengths)
    padded_clock = np.repeat(clock[begin + lengths - 1], BLOCK * blocks)
    padded_clock[at] = clock

    def summed(numbers: Doubles) -> Doubles:
        padded = np.zeros(len(padded_clock))
        padded[at] = numbers
        totals = decayed_totals(padded.reshape(-1, BLOCK), padded_clock.reshape(-1, BLOCK), blocks)
        return totals.reshape(-1)[at]

    places = np.arange(1.0, len(times) + 1) - np.repeat(begin, lengths)
    return Sums(summed(values), places if half_life_us is None else summed(np.ones(len(values)))), clock


class EarlierMean:
    """The decayed mean of all earlier values, for windows of whole days since the first event, in order of time.

    Sums are of a day's values, then of days, so that the bits do not depend on how the days are cut into windows.
    """

    def __init__(self, half_life_us: int | None, origin: int) -> None:
        self.half_life_us, self.origin = half_life_us, origin
        self.sum, self.weight, self.time = 0.0, 0.0, 0

    def of(self, times: Ints, values: Doubles) -> Doubles:
        """Return the mean of what is earlier than each value of a window, ordered by time and value; NaN for none."""
        first = run_starts((times - self.origin) // DAY_US)
        indptr = np.append(first, len(times))
        before, upto = sums_before(indptr, times, values, self.half_life_us)
        for begin, end in zip(first.tolist(), indptr[1:].tolist(), strict=True):
            left = self._left(times[begin:end])
            before.sum[begin:end] += self.sum * left
            before.weight[begin:end] += self.weight * left
            self.sum = self.sum * float(left[-1]) + float(upto.sum[end - 1])
            self.weight = self.weight * float(left[-1]) + float(upto.weight[end - 1])
            self.time = int(times[end - 1])
        return shrunken_means(before.sum, before.weight, 0.0, 0.0)

    def _left(self, times: Ints) -> Doubles:
        """Return the share of a weight that is left at some times."""
        if self.half_life_us is None:
            return np.ones(len(times))
        return np.exp2((self.time - times) / self.half_life_us)


def shrunken_means(sums: Doubles, weights: Doubles, prior: Doubles | float, prior_events: float) -> Doubles:
    """Return (sum + k prior) / (weight + k) with k prior events; NaN where there is nothing to divide by."""
    total = weights + prior_events
    means: Doubles = np.where(total > 0, sums + prior_events * prior, np.nan) / np.where(total > 0, total, 1)
    return means
