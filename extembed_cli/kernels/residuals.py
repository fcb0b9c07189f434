"""Means of earlier values, for residuals: what an event says beyond what was to be expected at its moment.

Values at one moment do not see each other. Each sum is over one segment in order of time and value, so no later value
and no other segment changes its bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Ints
from extembed_cli.kernels.decay import BLOCK, decayed_totals
from extembed_cli.kernels.segments import offsets, ragged, run_starts

DAY_US = 86_400_000_000  # of a window


class Earlier(NamedTuple):
    """The earlier values of each value: (n) each."""

    mean: Doubles
    """Their decayed mean; NaN where there is none. It has no scale, so that no age makes it vanish"""
    weight: Doubles
    """Σ w, decayed to the value's own time"""


class Sums(NamedTuple):
    """Decayed sums and weights of values, relative to the time of the last: (n) each."""

    sum: Doubles
    weight: Doubles


def earlier_means(indptr: Ints, times: Ints, values: Doubles, half_life_us: int | None) -> Earlier:
    """Return the decayed mean and weight of the earlier values of each value's segment:

        mean[i] = Σ_{j: t_j < t_i} w y_j / Σ w, weight[i] = Σ_{j: t_j < t_i} w, w = 2^(-(t_i - t_j) / half_life)

    Segment s has the values [indptr[s], indptr[s + 1]), ordered by time, then value. Without a half-life w = 1.
    """
    upto, clock = _totals(indptr, times, values, half_life_us)
    previous, known = _previous(indptr, times)
    if not len(times):
        return Earlier(values, values)
    mean = np.where(known, upto.sum[previous], np.nan) / upto.weight[previous]
    return Earlier(mean, np.where(known, upto.weight[previous] * np.exp2(clock[previous] - clock), 0))


def _previous(indptr: Ints, times: Ints) -> tuple[Ints, Bools]:
    """Return the last earlier value in each value's segment, any where there is none, and whether there is one."""
    owners = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    first = run_starts(owners, times)
    previous = np.repeat(first, np.diff(np.append(first, len(times)))) - 1
    known: Bools = previous >= indptr[owners]
    return np.where(known, previous, 0), known


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
    padded_times = None
    if half_life_us is not None:
        last = np.repeat(clock[begin + lengths - 1], BLOCK * blocks)
        last[at] = clock
        padded_times = last.reshape(-1, BLOCK)

    def summed(numbers: Doubles) -> Doubles:
        padded = np.zeros(BLOCK * int(blocks.sum()))
        padded[at] = numbers
        return decayed_totals(padded.reshape(-1, BLOCK), padded_times, blocks).reshape(-1)[at]

    places = np.arange(1.0, len(times) + 1) - np.repeat(begin, lengths)
    return Sums(summed(values), places if half_life_us is None else summed(np.ones(len(values)))), clock


class Day(NamedTuple):
    """What the values of one day add to a decayed mean."""

    sum: float
    """Decayed to the day's last value, like the weight"""
    weight: float
    time: int
    """Of the last value (us)"""


class EarlierMean:
    """The decayed mean of all earlier values, for windows of whole days since the first event, in order of time.

    Sums are of a day's values, then of days, so that the bits do not depend on how the days are cut into windows.
    """

    def __init__(self, half_life_us: int | None, origin: int) -> None:
        self.half_life_us, self.origin = half_life_us, origin
        self.sum, self.weight, self.time = 0.0, 0.0, origin

    def of(self, times: Ints, values: Doubles) -> Doubles:
        """Return the mean of what is earlier than each value of a window, ordered by time and value; NaN for none.

        A mean is relative to the last earlier value, whose own weight is 1, so that no age makes it vanish.
        """
        first = run_starts((times - self.origin) // DAY_US)
        indptr = np.append(first, len(times))
        upto, _ = _totals(indptr, times, values, self.half_life_us)
        previous, known = _previous(indptr, times)
        means = np.full(len(times), np.nan)
        for begin, end in zip(first.tolist(), indptr[1:].tolist(), strict=True):
            day = slice(begin, end)
            left = self._left(times[day])
            sums, weights = upto.sum[day] + self.sum * left, upto.weight[day] + self.weight * left
            before, seen = previous[day] - begin, known[day]
            means[day] = np.where(seen, sums[before * seen] / weights[before * seen], self._mean)
            self.add(_day(upto, times, end - 1))
        return means

    def days(self, times: Ints, values: Doubles) -> list[Day]:
        """Return what each day of a window adds, in order, whatever came before."""
        first = run_starts((times - self.origin) // DAY_US)
        indptr = np.append(first, len(times))
        upto, _ = _totals(indptr, times, values, self.half_life_us)
        return [_day(upto, times, end - 1) for end in indptr[1:].tolist()]

    def add(self, day: Day) -> None:
        """Move on past a day."""
        left = float(self._left(np.array([day.time]))[0])
        self.sum, self.weight = day.sum + self.sum * left, day.weight + self.weight * left
        self.time = day.time

    @property
    def _mean(self) -> float:
        return self.sum / self.weight if self.weight > 0 else np.nan

    def _left(self, times: Ints) -> Doubles:
        """Return the share of a weight that is left at some times."""
        if self.half_life_us is None:
            return np.ones(len(times))
        return np.exp2((self.time - times) / self.half_life_us)


def _day(upto: Sums, times: Ints, last: int) -> Day:
    return Day(float(upto.sum[last]), float(upto.weight[last]), int(times[last]))


def shrunken_means(earlier: Earlier, prior: Doubles | float, prior_events: float) -> Doubles:
    """Return (weight mean + k prior) / (weight + k) with k prior events; NaN where there is nothing to divide by."""
    if prior_events == 0:
        return earlier.mean
    mean = np.where(np.isnan(earlier.mean), 0, earlier.mean)
    means: Doubles = (earlier.weight * mean + prior_events * prior) / (earlier.weight + prior_events)
    return means
