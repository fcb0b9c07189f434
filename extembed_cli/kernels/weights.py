"""Decay weights of the visible events of each view: V of them in a tile, one for each as-of time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.sums import weight_sum

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def relative_weights(
    times: Doubles, newest: Doubles, visible: Bools, half_life_us: int | None, weights: Doubles | None = None
) -> tuple[Doubles, Doubles | None]:
    """Weights relative to the newest event that counts: only ratios matter, and they cannot underflow to 0/0.

        w[b, v, h] = weight[b, h] 2^((time[b, h] - newest[b, v]) / half_life) / scale[b, v]   where visible, else 0

    times    (B, H)    us from any origin of the tile's (differences are exact in float64 for 285 years)
    newest   (B, V)    us from the same origin: time of the newest event that counts
    visible  (B, V, H) the events that count
    weights  (B, H)    positive, or None = 1
    returns  w (B, V, H) float64 in [0, 1], and scale (B, V): the power of two above the largest weighted event, so
             that any range of weights fits float32; None = 1. Float64, because events of one session differ by 1e-7
             in weight, and that decides a percentile.
    """
    if half_life_us is None:
        out = visible.astype(np.float64)
    else:
        out = np.subtract(times[:, None, :], newest[:, :, None])
        np.minimum(out, 0, out=out)  # events that do not count may be newer: keep 0 * weight finite
        out /= half_life_us
        np.exp2(out, out=out)
        out *= visible
    if weights is None:
        return out, None
    out *= weights[:, None, :]
    _, exponent = np.frexp(out.max(axis=-1))
    return np.ldexp(out, -exponent[:, :, None], out=out), np.ldexp(1.0, exponent)


def fixed_point(weights: Doubles) -> Ints:
    """Relative weights as whole numbers, so large that the sum of all events of a tile still fits an int64.

    (B, V, H) in [0, 1] -> (B, V, H). With 64 events a unit is 2^-56 of the newest event, below what float64 resolves;
    with a million it is 2^-42.
    """
    bits = 62 - int(weights.shape[-1]).bit_length()
    whole = np.ldexp(weights, bits)
    return np.rint(whole, out=whole).astype(np.int64)


def decayed_count(
    weights: Doubles, scale: Doubles | None, newest: Doubles, as_of: Doubles, half_life_us: int | None
) -> Doubles:
    """Absolute sum of weights, from relative ones and their scale (`relative_weights`).

        sum_h weight[h] 2^-((as_of - time[h]) / half_life)

    weights (B, V, H); newest, as_of (B, V) us from one origin -> (B, V) float64; 0 where nothing is visible.
    Summed in float64: a count of a hundred would show the order of a float32 sum in its fifth decimal.
    """
    total: Doubles = weight_sum(weights)
    if scale is not None:
        total *= scale
    if half_life_us is not None:
        total *= np.exp2(np.minimum(newest - as_of, 0) / half_life_us)  # > 0 only where nothing is visible
    return total
