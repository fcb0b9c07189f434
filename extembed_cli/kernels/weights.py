"""Decay weights of the visible events of each candidate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.sums import weight_sum

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


def relative_weights(
    times: Doubles, newest: Doubles, visible: Bools, half_life_us: int | None, weights: Doubles | None = None
) -> tuple[Doubles, Doubles | None]:
    """Weights relative to the newest event that counts: only ratios matter, and they cannot underflow to 0/0.

        w[b, c, h] = weight[b, h] 2^((time[b, h] - newest[b, c]) / half_life) / scale[b, c]   where visible, else 0

    times    (B, H)    us from any origin of the tile's (differences are exact in float64 for 285 years)
    newest   (B, C)    us from the same origin: time of the newest event that counts
    visible  (B, C, H) the events that count
    weights  (B, H)    positive, or None = 1
    returns  w (B, C, H) float64, and scale (B, C): the power of two above the largest weighted event, so that any
             range of weights fits float32; None = 1. Float64, because events of one session differ by 1e-7 in
             weight, and that decides a percentile.
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


def decayed_count(
    weights: Doubles, scale: Doubles | None, newest: Doubles, as_of: Doubles, half_life_us: int | None
) -> Doubles:
    """Absolute sum of weights, from relative ones and their scale (`relative_weights`).

        sum_h weight[h] 2^-((as_of - time[h]) / half_life)

    weights (B, C, H); newest, as_of (B, C) us from one origin -> (B, C) float64; 0 where nothing is visible.
    Summed in float64: a count of a hundred would show the order of a float32 sum in its fifth decimal.
    """
    total: Doubles = weight_sum(weights)
    if scale is not None:
        total *= scale
    if half_life_us is not None:
        total *= np.exp2(np.minimum(newest - as_of, 0) / half_life_us)  # > 0 only where nothing is visible
    return total
