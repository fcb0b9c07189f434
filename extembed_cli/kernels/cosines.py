"""Cosines between candidates and history items, and with the decayed mean of the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.sums import blocked, product, sum_of_squares, weight_sum

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_DIMS = 64  # dimensions summed in one product
_EVENTS = 8192  # of a history gathered at a time, a whole number of blocks
_NEAR = np.float32(2e-6)  # a cosine closer to a threshold than this is not decided in float32
_TIE = 1.5e-7  # how far the cosine of two stored vectors may be from that of the vectors they stand for
_PAIRS = 2**20  # vector elements computed again in float64 at a time
# Below this norm, relative to the weight summed, the direction of a mean is the rounding of the stored vectors.
ZERO_MEAN = 1e-6
# A mean much shorter than its events are, in quadrature or in sum, is what is left of a cancellation.
_CANCELLED_QUADRATURE, _CANCELLED_SUM = 0.1, 0.01


class EventVectors:
    """The vectors of the events of a batch: gathered once, or, where a history is long, so many events at a time.

    table (n, d), rows of norm 1 or 0; slots (B, H) rows of it; k the events of a block (`sums`), a divisor of H.
    """

    def __init__(self, table: Floats, slots: NDArray[np.integer[Any]], k: int) -> None:
        self.table = table
        self.slots = slots
        self.k = k
        self._all = self._gather(slice(None)) if slots.shape[1] <= _EVENTS else None

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Slices of the events and their vectors (B, n, k, d)."""
        H = self.slots.shape[1]
        for low in range(0, H, _EVENTS):
            at = slice(low, min(low + _EVENTS, H))
            yield at, self._gather(at) if self._all is None else self._all

    def of(self, b: Ints, h: Ints) -> Floats:
        """The vectors of single events: (n, d)."""
        return self.table.take(self.slots[b, h], axis=0)

    def _gather(self, at: slice) -> Floats:
        slots = self.slots[:, at]
        return self.table.take(slots.reshape(len(slots), -1, self.k), axis=0)


def cosines(candidates: Floats, events: EventVectors) -> Floats:
    """Cosine of every candidate with every event of its tile.

        c[b, c, h] = q[b, c] . v[b, h]

    candidates (B, C, d), rows of norm 1 or 0 -> (B, C, H) float32, off by at most 4e-7.
    Stacked products: the bits of a block depend on its own (C, k, d), not on other blocks or batch mates. They run over
    a few dimensions at a time: one long float32 sum would be off by 1e-6.
    """
    out = np.empty((*candidates.shape[:2], events.slots.shape[1]), np.float32)
    for at, vectors in events.blocks():
        part = blocked(out[..., at], events.k)
        for low in range(0, candidates.shape[-1], _DIMS):
            dims = slice(low, low + _DIMS)
            some, others = candidates[:, None, :, dims], vectors[..., dims].transpose(0, 1, 3, 2)
            if low:
                part += np.matmul(some, others)
            else:
                np.matmul(some, others, out=part)
    return out


def decide(cosines: Floats, threshold: float, candidates: Floats, events: EventVectors) -> None:
    """Put the cosines nearest to a threshold on the side of it where float64 has them, in place.

        c[b, c, h] >= threshold  as float32 numbers,  if and only if  q[b, c] . v[b, h] >= threshold

    cosines (B, C, H), candidates (B, C, d). The few cosines too close to the threshold for float32 are computed again
    in float64 from renormalised vectors, so that exact ties count (two of four shared tags are a cosine of 0.5, an item
    with itself is 1).
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
        q, v = _unit(candidates[at[0], at[1]]), _unit(events.of(at[0], at[2]))
        exact = np.einsum("nd,nd->n", q, v)
        near = exact.astype(np.float32)
        cosines[at] = np.where(exact >= threshold - _TIE, np.maximum(near, limit), np.minimum(near, under))


def cosine_to_mean(
    factor: Doubles, visible: Bools, weighted: Floats, candidates: Floats, events: EventVectors
) -> Floats:
    """Cosine of the candidate with the weighted mean of its visible event vectors.

        cos(q, sum_h w_h v_h) = sum_h w_h (q . v_h) / |sum_h w_h v_h|

    weights factor (B, 1 or V, H) where visible (B, V, H); weighted (B, C) the numerator; candidates (B, C, d) -> (B, C)
    float32 in [-1, 1], NaN where the mean is zero or nothing is visible. The mean is not divided by the sum of weights:
    the cosine does not change. Means that nearly cancel are computed again in float64.
    """
    single = factor.astype(np.float32) * visible
    parts = [product(single[..., at], vectors) for at, vectors in events.blocks()]
    mean = parts[0] if len(parts) == 1 else np.sum(parts, axis=0, dtype=np.float64)
    norm = np.sqrt(np.einsum("bvd,bvd->bv", mean, mean))
    total, quadrature = weight_sum(single, events.k), np.sqrt(sum_of_squares(single, events.k))
    out = np.where(total > 0, weighted / norm, np.nan)
    cancelled = (norm < _CANCELLED_QUADRATURE * quadrature) | (norm < _CANCELLED_SUM * total)
    if cancelled.any():
        tiles = np.flatnonzero(cancelled.any(axis=1))
        exact = np.zeros((len(tiles), *mean.shape[1:]))
        for at, vectors in events.blocks():
            for index, tile in enumerate(tiles):
                rows = _unit(vectors[tile].reshape(-1, vectors.shape[-1]))
                exact[index] += (factor[tile][:, at] * visible[tile][:, at]) @ rows
        for direction, tile in zip(exact, tiles, strict=True):
            length = np.sqrt(np.einsum("vd,vd->v", direction, direction))
            along = np.einsum("cd,cd->c", np.broadcast_to(direction, candidates[tile].shape), _unit(candidates[tile]))
            zero = length <= ZERO_MEAN * total[tile]
            again = np.where(zero, np.nan, along / np.where(zero, 1, length))
            out[tile] = np.where(cancelled[tile], again, out[tile])
    return clipped(out)


def clipped(cosines: Doubles | Floats) -> Floats:
    """Cosines as float32 in [-1, 1]."""
    out: Floats = cosines.astype(np.float32)
    return np.minimum(np.maximum(out, -1, out=out), 1, out=out)


def _unit(vectors: Floats) -> Doubles:
    """Vectors (n, d) in float64, divided by their norm again; zero stays zero."""
    exact = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    norms[norms == 0] = 1
    exact /= norms[:, None]
    return exact
