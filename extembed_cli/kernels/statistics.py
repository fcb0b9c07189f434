"""Decay-weighted statistics of the cosines of each candidate, all from one sort of them.

Shapes: B tiles of C candidates and H events; what a candidate sees of them is one of V views, V being 1 (all candidates
of a tile have one as-of time) or C (each has its own). Weights are 0 where a view does not see an event. Where nothing
is visible a statistic is undefined: its value here is arbitrary, and callers make it null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.sums import sum_of_products, weight_sum

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A float64 holds a float32 and has 29 bits to spare. With the position of the event in 28 of them, one plain sort gives
# the order and the values at once, and rounding to float32 gives back the cosine to the bit.
_POSITION = np.int64(2**28 - 1)


class Ranked(NamedTuple):
    """The cosines of each candidate in ascending order."""

    keys: Doubles
    """(B, C, H): a cosine, with the position of its event in the last bits"""
    seen_at: Ints
    """(B, C, H): where the event stands in (B, V, H) arrays, flat"""

    first: Ints
    """(B, C): where a candidate's first cosine stands, flat"""

    def values(self, ranks: Ints) -> Floats:
        """The cosines of some ranks: (B, C) -> (B, C), in [-1, 1]."""
        found = self.keys.reshape(-1).take(self.first + ranks).astype(np.float32)
        return np.minimum(np.maximum(found, -1, out=found), 1, out=found)


def rank(cosines: Floats, views: int) -> Ranked:
    """Sort the cosines (B, C, H) of each candidate, for arrays of V views; equal ones in order of their events.

    One sort serves every history, half-life and statistic of a table: what is not visible weighs 0.
    """
    B, C, H = cosines.shape
    keys = cosines.astype(np.float64)
    bits = keys.view(np.int64)
    bits |= np.arange(H)
    keys.sort(axis=-1)
    seen_at = bits & _POSITION
    view = np.arange(B * views).reshape(B, views)
    seen_at += (view * H)[:, :, None]
    return Ranked(keys, seen_at, np.arange(0, B * C * H, H).reshape(B, C))


def cumulative_weights(ranked: Ranked, weights: Ints) -> Ints:
    """Cumulative weights in order of the cosines: (B, V, H) fixed-point weights -> (B, C, H).

    Whole numbers: their sums depend on no order, and where sums tie in exact arithmetic they tie here.
    """
    ordered = weights.reshape(-1).take(ranked.seen_at, mode="clip")
    return np.cumsum(ordered, axis=-1, out=ordered)


def weighted_percentiles(ranked: Ranked, cumulative: Ints, percentiles: Sequence[int]) -> list[Floats]:
    """Weighted percentiles by the inverted CDF, each one exactly the value of an event.

        p_q = the smallest x whose cumulative weight >= q sum_h w

    as numpy's `quantile(x, q, weights=w, method="inverted_cdf")`. cumulative (B, C, H) from `cumulative_weights`;
    percentiles in 1..99 -> one (B, C) float32 each.
    """
    hundreds, rest = np.divmod(cumulative[..., -1:], 100)
    found = []
    for q in percentiles:
        least = hundreds * q + (rest * q + 99) // 100  # the product of the whole might not fit
        found.append(ranked.values((cumulative >= least).argmax(axis=-1)))
    return found


def share_at_or_above(ranked: Ranked, cumulative: Ints, threshold: float) -> Floats:
    """Weighted share of the cosines that reach a threshold, as float32 numbers compare.

        share[b, c] = sum_h w[b, c, h] [c[b, c, h] >= t] / sum_h w[b, c, h]

    cumulative (B, C, H) -> (B, C) float32
    """
    lowest = np.array(np.float32(threshold), np.float64)
    if threshold <= 0:  # there a position in the last bits makes a cosine smaller
        lowest = (-np.abs(lowest)).view(np.int64).__or__(_POSITION).view(np.float64)
    reaching = ranked.keys >= lowest
    total, first = cumulative[..., -1], reaching.argmax(axis=-1)
    under = cumulative.reshape(-1).take(ranked.first + np.maximum(first - 1, 0))
    under = np.where(reaching[..., -1], np.where(first > 0, under, 0), total)
    share: Floats = (1 - under / total).astype(np.float32)
    return share


def minimum_and_maximum(ranked: Ranked, visible: Bools) -> tuple[Floats, Floats]:
    """Smallest and largest visible cosine: visible (B, V, H) -> (B, C), (B, C)."""
    seen = visible.reshape(-1).take(ranked.seen_at, mode="clip")
    low = seen.argmax(axis=-1)
    high = seen.shape[-1] - 1 - seen[..., ::-1].argmax(axis=-1)
    return ranked.values(low), ranked.values(high)


def weighted_mean(weights: Floats, values: Floats) -> Floats:
    """Weighted mean over events.

        mean[b, c] = sum_h w[b, c, h] x[b, c, h] / sum_h w[b, c, h]

    weights (B, V, H), values (B, C, H) in [-1, 1] -> (B, C) float32, in [-1, 1] too
    """
    mean: Floats = (sum_of_products(weights, values) / weight_sum(weights)).astype(np.float32)
    return np.minimum(np.maximum(mean, -1, out=mean), 1, out=mean)
