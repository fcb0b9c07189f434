"""Weighted statistics of the cosines that each row sees: from one sort of them, or in the order of their events.

A row is a candidate that sees at least one event. Its cosines are a segment of flat arrays over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extembed_cli.arrays import Doubles, Floats, Ints
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.segments import LADDER, first_reaching, offsets, ragged, run_starts, spread

Keys = NDArray[np.uint64]

_PLACE, _VALUE = np.uint64(2**32 - 1), np.uint64(32)  # a key: a cosine's bits above the place of its event
_LAST = np.uint64(2**64 - 2**32)  # above the key of every cosine
_SIGN = np.int32(-(2**31))

# A float32 cosine closer to a threshold than this is computed again in float64.
_NEAR = np.float32(2e-6)
# The largest error of a cosine from the rounding of the two stored vectors.
TIE = 1.5e-7


class Ranked(NamedTuple):
    """The cosines of each row in ascending order, equal ones in the order of their events."""

    keys: Keys
    start: Ints
    """(R) the position of each row's first key"""
    counts: Ints
    """(R) the number of each row's keys; padding follows up to the next row"""

    def values(self, at: Ints) -> Floats:
        """Return the cosines, in [-1, 1], of the keys at some positions."""
        return clipped(_cosines((self.keys[at] >> _VALUE).astype(np.uint32)))

    def places(self, at: Ints | slice = slice(None)) -> Ints:
        """Return the places of the events of the keys at some positions."""
        return (self.keys[at] & _PLACE).astype(np.int64)

    @property
    def smallest(self) -> Floats:
        """(R)"""
        return self.values(self.start)

    @property
    def largest(self) -> Floats:
        """(R)"""
        return self.values(self.start + self.counts - 1)

    def first_at_least(self, cosines: Floats) -> Ints:
        """(m, R) The position of each row's first cosine at or above each of m; the row's end if there is none."""
        least = ordered_bits(cosines)[:, None].astype(np.uint64) << _VALUE
        return first_reaching(lambda at: self.keys.take(at) >= least, self.start, self.counts, len(cosines))


def rank(cosines: Floats, first: Ints, places: Ints, counts: Ints) -> Ranked:
    """Sort the cosines of each row.

    cosines (n) of any layout; row r has the counts[r] cosines from first[r] on, of the events from places[r] on. One
    sort serves all statistics and half-lives. Rows of similar length are sorted together.
    """
    level = np.searchsorted(LADDER, counts).astype(np.uint16)
    order = np.argsort(level, kind="stable")
    widths = LADDER[level]
    width = widths[order]
    bounds = offsets(width)
    start = np.empty_like(bounds[:-1])
    start[order] = bounds[:-1]
    keys = ordered_bits(cosines.take(ragged(first[order], width), mode="clip")).astype(np.uint64)
    keys <<= _VALUE
    keys |= ragged(places[order], width).view(np.uint64)
    keys[ragged(start + counts, widths - counts)] = _LAST
    cuts = np.append(run_starts(width), len(width)).tolist()
    for low, high in pairwise(cuts):
        keys[bounds[low] : bounds[high]].reshape(high - low, -1).sort(axis=1)
    return Ranked(keys, start, counts)


def ordered_bits(cosines: Floats) -> NDArray[np.uint32]:
    """Return the bits of float32 numbers, changed so that they compare as the numbers do."""
    bits = cosines.view(np.int32)
    flips = bits >> 31
    flips |= _SIGN
    flips ^= bits
    return flips.view(np.uint32)


def _cosines(ordered: NDArray[np.uint32]) -> Floats:
    """Return the numbers whose bits `ordered_bits` returned."""
    bits = ordered.view(np.int32)
    return np.where(bits < 0, bits ^ _SIGN, ~bits).view(np.float32)


class Cumulative(NamedTuple):
    """Cumulative weights of each row in the order of its cosines."""

    sums: Ints
    """By key, wrapping around beyond 64 bits: only differences within a row count, and those are below 2^62."""
    before: Ints
    """(R) the sum before each row's first key"""
    total: Ints
    """(R) the total weight of each row"""

    def up_to(self, at: Ints) -> Ints:
        """Return the sum of the weights of all keys before some positions."""
        return np.where(at > 0, self.sums[at - 1], 0)

    def below(self, at: Ints) -> Ints:
        """(R) The weight of each row's events before one of its keys."""
        return self.up_to(at) - self.before


def cumulate(ranked: Ranked, weights: Ints, shift: Ints) -> Cumulative:
    """Return cumulative weights in the order of the cosines: exact whole numbers, so that no other row matters.

    weights are by place + shift, with shift (R) of each row.
    """
    at = ranked.places()
    if shift.any():
        order = np.argsort(ranked.start)
        at += spread(shift[order], np.diff(np.append(ranked.start[order], len(at))))
    sums = weights.take(at, mode="clip")
    np.cumsum(sums, out=sums)
    before = np.where(ranked.start > 0, sums[ranked.start - 1], 0)
    return Cumulative(sums, before, sums[ranked.start + ranked.counts - 1] - before)


def weighted_percentiles(ranked: Ranked, cumulative: Cumulative, percentiles: Sequence[float]) -> list[Floats]:
    """Return the weighted percentiles by the inverted CDF, each exactly the cosine of one event.

        p_q = the smallest c whose cumulative weight >= q Σ w

    as numpy's `quantile(c, q, weights=w, method="inverted_cdf")`. percentiles in 1..99 -> (R) each.
    """
    return [ranked.values(at) for at in percentile_keys(ranked, cumulative, percentiles)]


def percentile_keys(ranked: Ranked, cumulative: Cumulative, percentiles: Sequence[float]) -> Ints:
    """Return the positions of the keys of the weighted percentiles: (m, R)."""
    q = np.array(percentiles, np.int64)[:, None]
    hundreds, rest = np.divmod(cumulative.total, 100)
    least = hundreds * q + (rest * q + 99) // 100  # the product of the whole might not fit
    least += cumulative.before  # both sides may wrap around, and differ by less than 2^62
    return first_reaching(
        lambda at: cumulative.sums.take(at) - least >= 0, ranked.start, ranked.counts, len(percentiles)
    )


class Reaching(NamedTuple):
    """The cosines that reach a threshold."""

    first: Ints
    """(R) the position from which each row's cosines reach it beyond doubt"""
    near: Ints
    """(m) the positions of earlier cosines that reach it in float64"""
    rows: Ints
    """(m) their rows"""

    def of(self, ranked: Ranked) -> tuple[Ints, Ints]:
        """Return the rows and the positions of all that reach it: (n) each, in order of rows."""
        counts = ranked.start + ranked.counts - self.first
        rows, keys = np.repeat(np.arange(len(counts)), counts), ragged(self.first, counts)
        if not len(self.near):
            return rows, keys
        rows, keys = np.append(rows, self.rows), np.append(keys, self.near)
        order = np.argsort(rows, kind="stable")
        return rows[order], keys[order]


def reaching(ranked: Ranked, thresholds: Sequence[float], exact: Callable[[Ints, Ints], Doubles]) -> list[Reaching]:
    """Return the cosines that are at least each threshold, in float64.

    Cosines too close to it for float32 are computed by `exact`, by rows and places of events, so that exact ties count
    (two of four shared tags are a cosine of 0.5, an item with itself is 1). A cosine of exactly 0 is such a tie.
    """
    results = []
    limits = np.array(thresholds, np.float32)
    for threshold, limit, first in zip(thresholds, limits, ranked.first_at_least(limits + _NEAR), strict=True):
        unsure_rows = np.flatnonzero((first > ranked.start) & (ranked.values(first - 1) >= limit - _NEAR))
        unsure = Ranked(ranked.keys, ranked.start[unsure_rows], first[unsure_rows] - ranked.start[unsure_rows])
        low = unsure.first_at_least(np.array([limit - _NEAR]))[0]
        near, rows = ragged(low, first[unsure_rows] - low), np.repeat(unsure_rows, first[unsure_rows] - low)
        reached = ranked.values(near) == 0  # no threshold but 0 is closer than _NEAR to 0
        doubtful = np.flatnonzero(~reached)
        reached[doubtful] = exact(rows[doubtful], ranked.places(near[doubtful])) >= threshold - TIE
        results.append(Reaching(first, near[reached], rows[reached]))
    return results


def share(cumulative: Cumulative, reaching: Reaching) -> Floats:
    """Return the weighted share of the cosines that reach a threshold.

    share = Σ w [c >= t] / Σ w, (R) float32.
    """
    above = cumulative.total - cumulative.below(reaching.first)
    weights = cumulative.up_to(reaching.near + 1) - cumulative.up_to(reaching.near)
    np.add.at(above, reaching.rows, weights)
    shares: Floats = (above / cumulative.total).astype(np.float32)
    return shares


def deviations(cosines: Floats, weights: Doubles, counts: Ints) -> Floats:
    """Return the weighted standard deviation of the cosines of each row.

        sd = sqrt(Σ w (c - m)² / Σ w), m = Σ w c / Σ w

    cosines and weights (n) of all rows, one row after another without padding; counts (R), at least 1 -> (R) float32.
    The weights of a row are finite, and the largest is about 1, so that neither Σ w nor w (c - m)² under- or overflows.

    m is summed up as a difference from the row's first cosine, and the squares are of differences from m. So nothing
    cancels: the error is that of the cosines, and equal ones, or a single one, give exactly 0. A sum is over one row's
    numbers, in an order that their count alone decides.
    """
    first, row = offsets(counts)[:-1], spread(np.arange(len(counts)), counts)
    total = np.add.reduceat(weights, first)
    away = cosines.astype(np.float64)
    away -= away.take(first).take(row)
    mean = np.add.reduceat(weights * away, first) / total
    away -= mean.take(row)
    away *= away
    away *= weights
    deviations: Floats = np.sqrt(np.add.reduceat(away, first) / total).astype(np.float32)
    return deviations
