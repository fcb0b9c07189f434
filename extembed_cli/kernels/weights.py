"""Decay weights of the visible events of each view: V of them in a tile, one for each as-of time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


# With whole weights (`fixed_point`) of at least this many bits a percentile is decided as with float64 ones.
_LEAST_BITS = 34


class RelativeWeights(NamedTuple):
    """Weights of visible events, relative to a moment: only their ratios matter.

    w[b, v, h] = factor[b, v, h]  where visible
    """

    factor: Doubles
    """(B, V, H), or (B, 1, H) where one serves all views; in [0, 1]; arbitrary where not visible"""
    reference: Doubles
    """(B, V): us from the origin of the times; an event of that time has its own weight, undecayed"""
    scale: Doubles | None
    """(B, V): what the weights were divided by; None = 1"""


def relative_weights(
    times: Doubles,
    newest: Doubles,
    visible: Bools,
    half_life_us: int | None,
    weights: Doubles | None = None,
    latest: Doubles | None = None,
) -> RelativeWeights:
    """Weights relative to the newest event that counts, so that they cannot underflow to 0/0.

        w[b, v, h] = weight[b, h] 2^((time[b, h] - reference[b, v]) / half_life) / scale[b, v]   where visible, else 0

    times    (B, H)    us from any origin of the tile's (differences are exact in float64 for 285 years), ascending
    newest   (B, V)    us from the same origin: time of the newest event that counts, the reference
    visible  (B, V, H) the events that count
    weights  (B, H)    positive, or None = 1; the scale is then the power of two above the largest weighted event, so
                       that any range of weights fits float32
    latest   (B)       us from the same origin: a moment that no view is later than. Where the newest events of all
                       views are so near to it that their weights can be relative to one moment, they are: 2^x is then
                       taken H times instead of V x H times. That moment is whole half-lives from the first event, so
                       that weights that are powers of two stay so. No event after an as-of time decides it.
    returns  float64, because events of one session differ by 1e-7 in weight, and that decides a percentile.
    """
    if half_life_us is None:
        out, reference = np.ones((len(times), 1, times.shape[1])), newest
    elif latest is None or weights is not None or newest.shape[1] == 1:
        out, reference = _decay(times, newest, half_life_us), newest
    else:
        farthest = half_life_us * (whole_bits(times.shape[1]) - _LEAST_BITS)
        one = times[:, :1] + np.ceil((latest[:, None] - times[:, :1]) / half_life_us) * half_life_us
        short = (one - np.where(visible.any(axis=-1), newest, one)).max(axis=1) <= farthest
        out, reference = _decay(times, one, half_life_us), np.where(short[:, None], one, newest)
        if not short.all():
            out = np.repeat(out, newest.shape[1], axis=1)
            out[~short] = _decay(times[~short], newest[~short], half_life_us)
    if weights is None:
        return RelativeWeights(out, reference, None)
    out = out * visible
    out *= weights[:, None, :]
    _, exponent = np.frexp(out.max(axis=-1))
    return RelativeWeights(np.ldexp(out, -exponent[:, :, None], out=out), reference, np.ldexp(1.0, exponent))


def _decay(times: Doubles, reference: Doubles, half_life_us: int) -> Doubles:
    """2^((time - reference) / half_life), at most 1: later events do not count, and 0 x inf would be NaN."""
    out = np.subtract(times[:, None, :], reference[:, :, None])
    np.minimum(out, 0, out=out)
    out /= half_life_us
    return np.exp2(out, out=out)


def whole_bits(length: int) -> int:
    """Bits of the whole weights of a tile of so many events: their sum fits an int64. The same up to 8,191 events."""
    return 62 - max(13, length.bit_length())


def fixed_point(factor: Doubles) -> Ints:
    """Relative weights as whole numbers, so large that the sum of all events of a tile still fits an int64.

    (B, V, H) in [0, 1] -> (B, V, H). A unit is 2^-49 of the newest event, with a million events 2^-42.
    """
    whole = np.ldexp(factor, whole_bits(factor.shape[-1]))
    return np.rint(whole, out=whole).astype(np.int64)


def sum_of_range(whole: Ints, start: Ints, end: Ints) -> Ints:
    """Exact sums of the weights that each view sees.

        sum[b, v] = sum_{start[b, v] <= h < end[b, v]} whole[b, v, h]

    whole (B, V or 1, H); start, end (B, V) -> (B, V)
    """
    sums = np.zeros((*whole.shape[:-1], whole.shape[-1] + 1), np.int64)
    np.cumsum(whole, axis=-1, out=sums[..., 1:])
    row = np.arange(0, sums.size, sums.shape[-1]).reshape(whole.shape[:2])
    flat = sums.reshape(-1)
    total: Ints = flat[row + end] - flat[row + start]
    return total


def decayed_count(total: Doubles, relative: RelativeWeights, as_of: Doubles, half_life_us: int | None) -> Doubles:
    """Absolute sum of weights.

        sum_h weight[h] 2^-((as_of - time[h]) / half_life)

    total (B, V) sums of relative weights, as_of (B, V) us from the origin of the times -> (B, V) float64.
    """
    out = total.copy() if relative.scale is None else total * relative.scale
    if half_life_us is not None:
        undecayed = np.minimum((relative.reference - as_of) / half_life_us, 62)  # above only where nothing is visible
        out *= np.exp2(undecayed)
    return out
