"""Cosines between candidates and history items, and with the decayed mean of the history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

# Unit vectors in float32 are off by 6e-8 each: below this norm, relative to the weight summed, the direction
# of a mean is rounding only.
ZERO_MEAN = 1e-6
_DIMS = 64  # dimensions summed in one product
_NEAR = np.float32(2e-6)  # a cosine closer to a threshold than this is not decided in float32
_TIE = 1e-9


def cosines(candidates: Floats, events: Floats) -> Floats:
    """Cosine of every candidate with every event of its tile.

        c[b, c, h] = q[b, c] . v[b, h]

    candidates (B, C, d), events (B, H, d), rows of norm 1 or 0 -> (B, C, H) float32, off by at most 4e-7.
    Stacked products: the bits of a tile depend on its own (C, H, d), not on its batch mates. They run over a few
    dimensions at a time: one long float32 sum would be off by 1e-6, and differ by as much between padded shapes.
    """
    out: Floats = np.matmul(candidates[..., :_DIMS], events[..., :_DIMS].transpose(0, 2, 1))
    for k in range(_DIMS, candidates.shape[-1], _DIMS):
        out += np.matmul(candidates[..., k : k + _DIMS], events[..., k : k + _DIMS].transpose(0, 2, 1))
    return out


def at_or_above(cosines: Floats, threshold: float, candidates: Floats, events: Floats) -> Bools:
    """Which cosines reach a threshold, as float64 would tell.

        c[b, c, h] >= threshold

    cosines (B, C, H), candidates (B, C, d), events (B, H, d) -> (B, C, H). The few cosines too close to the threshold
    for float32 are computed again in float64 from renormalised vectors, so that exact ties count (two of four shared
    tags are a cosine of 0.5, an item with itself is 1).
    """
    above = cosines >= np.float32(threshold) - _NEAR
    unsure = above & (cosines < np.float32(threshold) + _NEAR)
    unsure &= cosines != 0  # missing vectors and padding; a true 0 is at a threshold of 0 already
    if unsure.any():
        b, c, h = np.nonzero(unsure)
        q, v = candidates[b, c].astype(np.float64), events[b, h].astype(np.float64)
        norms = np.sqrt(np.einsum("nd,nd->n", q, q) * np.einsum("nd,nd->n", v, v))
        above[b, c, h] = np.einsum("nd,nd->n", q, v) >= (threshold - _TIE) * norms
    return above


def cosine_to_mean(weights: Floats, weighted_cosines: Floats, total: Floats, events: Floats) -> Floats:
    """Cosine of the candidate with the weighted mean of its visible event vectors.

        cos(q, sum_h w_h v_h) = sum_h w_h (q . v_h) / |sum_h w_h v_h|

    weights (B, C, H), weighted_cosines (B, C) = sum_h w_h c_h, total (B, C) = sum_h w_h, events (B, H, d)
    -> (B, C) float32, NaN where the mean is zero or nothing is visible. The mean is not divided by `total`:
    the cosine does not change.
    """
    mean = np.matmul(weights, events)
    norm = np.sqrt(np.einsum("bcd,bcd->bc", mean, mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norm > ZERO_MEAN * total, weighted_cosines / norm, np.float32(np.nan))
