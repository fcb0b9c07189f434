"""Cosines between candidates and history items, and with the decayed mean of the history."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.sums import product, sum_of_products, weight_sum

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_DIMS = 64  # dimensions summed in one product
_NEAR = np.float32(2e-6)  # a cosine closer to a threshold than this is not decided in float32
_TIE = 1.5e-7  # how far the cosine of two stored vectors may be from that of the vectors they stand for
_PAIRS = 2**20  # vector elements computed again in float64 at a time
# Below this norm, relative to the weight summed, the direction of a mean is the rounding of the stored vectors.
ZERO_MEAN = 1e-6
# A mean much shorter than its events are, in quadrature or in sum, is what is left of a cancellation.
_CANCELLED_QUADRATURE, _CANCELLED_SUM = 0.1, 0.01


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


def decide(cosines: Floats, threshold: float, candidates: Floats, events: Floats) -> None:
    """Put the cosines nearest to a threshold on the side of it where float64 has them, in place.

        c[b, c, h] >= threshold  as float32 numbers,  if and only if  q[b, c] . v[b, h] >= threshold

    cosines (B, C, H), candidates (B, C, d), events (B, H, d). The few cosines too close to the threshold for float32
    are computed again in float64 from renormalised vectors, so that exact ties count (two of four shared tags are a
    cosine of 0.5, an item with itself is 1).
    """
    limit = np.float32(threshold)
    unsure = np.abs(cosines - limit) < _NEAR
    if not unsure.any():
        return
    unsure &= cosines != 0  # missing vectors and padding; a true 0 is at a threshold of 0 already
    b, c, h = np.unravel_index(np.flatnonzero(unsure), unsure.shape)
    under = np.nextafter(limit, np.float32(-2))
    step = max(1, _PAIRS // candidates.shape[-1])
    for low in range(0, len(b), step):
        at = b[low : low + step], c[low : low + step], h[low : low + step]
        q, v = _unit(candidates[at[0], at[1]]), _unit(events[at[0], at[2]])
        exact = np.einsum("nd,nd->n", q, v)
        near = exact.astype(np.float32)
        cosines[at] = np.where(exact >= threshold - _TIE, np.maximum(near, limit), np.minimum(near, under))


def cosine_to_mean(weights: Doubles, single: Floats, cosines: Floats, candidates: Floats, events: Floats) -> Floats:
    """Cosine of the candidate with the weighted mean of its visible event vectors.

        cos(q, sum_h w_h v_h) = sum_h w_h (q . v_h) / |sum_h w_h v_h|

    weights (B, V, H) in both precisions, cosines (B, C, H), candidates (B, C, d), events (B, H, d) -> (B, C) float32,
    NaN where the mean is zero or nothing is visible. The mean is not divided by the sum of weights: the cosine does not
    change. Means that nearly cancel are computed again in float64.
    """
    weighted, mean = sum_of_products(single, cosines), product(single, events)
    norm = np.sqrt(np.einsum("bvd,bvd->bv", mean, mean))
    total, quadrature = weight_sum(single), np.sqrt(np.einsum("bvh,bvh->bv", single, single))
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(total > 0, weighted / norm, np.nan)
    cancelled = (norm < _CANCELLED_QUADRATURE * quadrature) | (norm < _CANCELLED_SUM * total)
    for tile in np.flatnonzero(cancelled.any(axis=1)):
        views = np.flatnonzero(cancelled[tile])
        which = slice(None) if weights.shape[1] == 1 else views  # of the candidates
        exact = weights[tile, views] @ _unit(events[tile])
        length = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        along = np.einsum(
            "nd,nd->n", np.broadcast_to(exact, candidates[tile, which].shape), _unit(candidates[tile, which])
        )
        zero = length <= ZERO_MEAN * total[tile, views]
        out[tile, which] = np.where(zero, np.nan, along / np.where(zero, 1, length))
    return out.astype(np.float32)


def _unit(vectors: Floats) -> Doubles:
    """Vectors (n, d) in float64, divided by their norm again; zero stays zero."""
    exact = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    norms[norms == 0] = 1
    exact /= norms[:, None]
    return exact
