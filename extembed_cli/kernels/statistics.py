"""Decay-weighted statistics of the cosines of each candidate, all from one sort of them.

Shapes: B tiles of C candidates and H events; what a candidate sees of them is one of V views, V being 1 (all candidates
of a tile have one as-of time) or C (each has its own). Where nothing is visible a statistic is undefined: its value
here is arbitrary, and callers make it null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.cosines import clipped

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A float64 holds a float32 and has 29 bits to spare. With the position of the event in 28 of them, one plain sort gives
# the order and the values at once, and rounding to float32 gives back the cosine to the bit.
_POSITION = np.int64(2**28 - 1)
_HIDDEN = 4.0  # the cosine of what is not visible, so that it comes last


class Ranked(NamedTuple):
    """The visible cosines of each candidate in ascending order; those that it does not see come after them."""

    keys: Doubles
    """(B, C, H): a cosine, with the position of its event in the last bits"""
    seen_at: Ints
    """(B, C, H): where the event stands in (B, 1, H) arrays, flat"""
    first: Ints
    """(B, C): where a candidate's first cosine stands in (B, C, H) arrays, flat"""

    def values(self, ranks: Ints) -> Floats:
        """The cosines of some ranks: (B, C) -> (B, C), in [-1, 1]."""
        return clipped(self.keys.reshape(-1).take(self.first + ranks))

    def at_or_above(self, threshold: float) -> Ints:
        """The rank of the first cosine that reaches a threshold, as float32 numbers compare: (B, C); H if none does.

        Those that are not visible are above every threshold.
        """
        lowest = np.array(np.float32(threshold), np.float64)
        if threshold <= 0:  # there a position in the last bits makes a cosine smaller
            lowest = (-np.abs(lowest)).view(np.int64).__or__(_POSITION).view(np.float64)
        reaching = self.keys >= lowest
        first: Ints = np.where(reaching[..., -1], reaching.argmax(axis=-1), self.keys.shape[-1])
        return first


def rank(cosines: Floats, hidden: Bools) -> Ranked:
    """Sort the visible cosines of each candidate; equal ones in order of their events.

    cosines (B, C, H), hidden (B, V, H) where a view does not see the event. One sort serves every half-life.
    """
    B, C, H = cosines.shape
    keys = cosines.astype(np.float64)
    np.copyto(keys, _HIDDEN, where=hidden)
    bits = keys.view(np.int64)
    bits |= np.arange(H)
    keys.sort(axis=-1)
    seen_at = bits & _POSITION
    seen_at += np.arange(0, B * H, H)[:, None, None]
    return Ranked(keys, seen_at, np.arange(0, B * C * H, H).reshape(B, C))


def cumulative_weights(ranked: Ranked, weights: Ints) -> Ints:
    """Cumulative weights in order of the cosines: (B, V or 1, H) fixed-point weights -> (B, C, H).

    Whole numbers: their sums depend on no order, and where sums tie in exact arithmetic they tie here. Beyond the
    visible cosines they are arbitrary.
    """
    B, V, H = weights.shape
    at = ranked.seen_at
    if V > 1:
        at = at + np.arange(V)[:, None] * H + np.arange(0, B * (V - 1) * H, (V - 1) * H)[:, None, None]
    ordered = weights.reshape(-1).take(at, mode="clip")
    return np.cumsum(ordered, axis=-1, out=ordered)


def weighted_percentiles(ranked: Ranked, cumulative: Ints, total: Ints, percentiles: Sequence[int]) -> list[Floats]:
    """Weighted percentiles by the inverted CDF, each one exactly the value of an event.

        p_q = the smallest x whose cumulative weight >= q sum_h w

    as numpy's `quantile(x, q, weights=w, method="inverted_cdf")`. cumulative (B, C, H) from `cumulative_weights`, total
    (B, V) of the visible weights; percentiles in 1..99 -> one (B, C) float32 each.
    """
    hundreds, rest = np.divmod(total, 100)
    found = []
    for q in percentiles:
        least = hundreds * q + (rest * q + 99) // 100  # the product of the whole might not fit
        found.append(ranked.values((cumulative >= least[..., None]).argmax(axis=-1)))
    return found


def share_from(ranked: Ranked, cumulative: Ints, total: Ints, ranks: Ints) -> Floats:
    """Weighted share of the visible cosines from given ranks on.

        share[b, c] = sum_{h: rank of c[b, c, h] >= ranks[b, c]} w[b, c, h] / sum_h w[b, c, h]

    cumulative (B, C, H), total (B, V), ranks (B, C) -> (B, C) float32
    """
    under = np.where(ranks > 0, cumulative.reshape(-1).take(ranked.first + np.maximum(ranks - 1, 0)), 0)
    share: Floats = (1 - under / total).astype(np.float32)
    return share
