"""Cosines of candidates with the events of their histories, as products of a few fixed shapes.

The last bits of a product depend on its shape. Events are therefore multiplied in blocks of a fixed number, so that the
shape depends on the candidates alone, and not on events that are not visible yet.
"""

from __future__ import annotations

import numpy as np

from extembed_cli.arrays import Doubles, Floats

_DIMS = 128  # dimensions of one product: one long float32 sum would round more


def block_cosines(candidates: Floats, events: Floats, out: Floats) -> None:
    """Write the cosines of every candidate of a piece with every event of it to `out`.

        out[k, c, n, e] = candidates[k, c] . events[k, n, e]

    candidates (k, C, d) and events (k, n, K, d) with rows of norm 1 or 0 -> out (k, C, n, K) float32, off by at most
    4e-7. The products are of shape (C, 128) x (128, K), whatever k and n.
    """
    products = out.transpose(0, 2, 1, 3)
    left, right = candidates[:, None], events.transpose(0, 1, 3, 2)
    np.matmul(left[..., :_DIMS], right[..., :_DIMS, :], out=products)
    for low in range(_DIMS, candidates.shape[-1], _DIMS):
        dims = slice(low, low + _DIMS)
        products += np.matmul(left[..., dims], right[..., dims, :])


def exact_cosines(left: Floats, right: Floats) -> Doubles:
    """Return the cosines of pairs of vectors in float64, divided by their norms again: (n, d), (n, d) -> (n).

    The bits of a pair do not depend on the others, as those of `einsum` do above 8,192 dimensions.
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    squares = np.vecdot(a, a) * np.vecdot(b, b)
    cosines: Doubles = np.vecdot(a, b) / np.sqrt(np.where(squares > 0, squares, 1))
    return cosines


def clipped(cosines: Doubles | Floats) -> Floats:
    """Return the cosines as float32, clipped to [-1, 1]."""
    out: Floats = cosines.astype(np.float32)
    return np.minimum(np.maximum(out, -1, out=out), 1, out=out)
