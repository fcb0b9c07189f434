"""Ridge regressions on every prefix of a history from one Cholesky factor.

With confidences that do not change with the as-of time, the matrix of the first n events is the leading block of the
matrix of all events, M = I + C½ K C½. The same holds for its Cholesky factor L and T = L^-1:

    score(x; n) = Σ_{i<n} w_i v_i,    var(x; n) = k(x, x) - Σ_{i<n} w_i²,    w = T C½ k(H, x),    v = T C½ y

If all confidences have decayed by one factor 1 / (1 + g) since M was computed, the matrix is (M + g I) / (1 + g), and

    score(x; n) = k½ (M + g I)^-1 r = k½ M^-1 r - g k½ M^-2 r + g² k½ M^-3 r - ...,    k½ = C½ k(H, x),  r = C½ y

No eigenvalue of M is below 1: the terms after the third are less than g³ of the natural size of each factor.

T is computed in blocks of rows, each from the events up to it alone and in a shape of its own, so that later events
change no bit of earlier results. Beyond `segment_length` events, the past is kept in the primal form (`Past`), and the
events of each segment are taken relative to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Ints
from extembed_cli.kernels.ridge import longest_dual

BLOCK = 32
MOST_DECAY = 1e-3  # the largest g


def segment_length(dim: int) -> int:
    """Return the number of events of one factor: beyond it the primal form is cheaper, but at least 256."""
    return max(256, -(-longest_dual(dim) // BLOCK) * BLOCK)


class Prefixes(NamedTuple):
    """Results for B histories with C candidates each."""

    score: Doubles
    """(B, C)"""
    explained: Doubles
    """(B, C) the part of the variance k(x, x) that the events explain"""
    residual: Doubles
    """(B) relative residual of the system of all events"""


def solve_prefixes(
    rows: Doubles,
    images: Doubles,
    cross: Doubles,
    confidences: Doubles,
    targets: Doubles,
    ends: Ints,
    growth: Doubles | None = None,
) -> Prefixes:
    """Return the scores of candidates by fits on the first `ends` events of their histories.

    rows (B, H, d) whitened event vectors, H a multiple of BLOCK; images (B, d, H) such that K = rows @ images; cross
    (B, d, C) such that k(H, x) = rows @ cross; confidences, targets (B, H), 0 in the padding; ends (B, C); growth g of
    the candidates (B, C), None = 0.
    """
    B, H, _ = rows.shape
    root = np.sqrt(confidences)
    right = root * targets
    blocks = kernel_blocks(rows, images)
    T, v = inverse_factor(blocks, root), np.zeros((B, H))
    score, explained = np.zeros(ends.shape), np.zeros(ends.shape)
    inside = np.arange(H)[:, None] < ends[:, None, :]
    crossed, seen = np.empty((B, H, ends.shape[1])), np.empty((B, H, ends.shape[1]))
    for low in range(0, H, BLOCK):
        at, upto = slice(low, low + BLOCK), slice(0, low + BLOCK)
        v[:, at] = (T[:, at, upto] @ right[:, upto, None])[..., 0]
        crossed[:, at] = root[:, at, None] * (rows[:, at] @ cross)
        seen[:, at] = w = np.where(inside[:, at], T[:, at, upto] @ crossed[:, upto], 0)
        score += np.einsum("bhc,bh->bc", w, v[:, at])
        explained += np.einsum("bhc,bhc->bc", w, w)
    if growth is not None:
        w, r = seen, np.where(inside, v[:, :, None], 0)
        for power, step in (
            (-growth, times_transposed),
            (growth**2, lambda T, values: times_factor(T, values, inside)),
        ):
            w, r = step(T, w), step(T, r)
            score += power * np.einsum("bhc,bhc->bc", w, r)
            explained += power * np.einsum("bhc,bhc->bc", w, w)
    solution = (v[:, None, :] @ T)[:, 0]
    return Prefixes(score, explained, _residual(blocks, root, solution, right))


def kernel_blocks(rows: Doubles, images: Doubles) -> list[Doubles]:
    """K = rows @ images in blocks of rows, each with the events up to it: (B, BLOCK, BLOCK), (B, BLOCK, 2 BLOCK)..."""
    ends = range(BLOCK, rows.shape[1] + 1, BLOCK)
    return [rows[:, end - BLOCK : end] @ images[:, :, :end] for end in ends]


def inverse_factor(blocks: list[Doubles], root: Doubles) -> Doubles:
    """T = L^-1 of L Lᵀ = I + R K R, from the blocks of K and R (B, H): (B, H, H)."""
    B, H = root.shape
    T = np.zeros((B, H, H))
    diagonal = np.arange(BLOCK)
    for index, kernel in enumerate(blocks):
        low = index * BLOCK
        at, upto = slice(low, low + BLOCK), slice(0, low + BLOCK)
        weighted = root[:, at, None] * kernel * root[:, None, upto]
        past = weighted[:, :, :low] @ T[:, :low, :low].transpose(0, 2, 1)
        block = weighted[:, :, low:] - past @ past.transpose(0, 2, 1)
        block[:, diagonal, diagonal] += 1
        # The inverse of an upper triangle needs no pivoting: no row depends on a later one.
        inverse = np.linalg.inv(np.linalg.cholesky(block).transpose(0, 2, 1)).transpose(0, 2, 1)
        T[:, at, :low] = -inverse @ (past @ T[:, :low, :low])
        T[:, at, at] = inverse
    return T


def times_transposed(T: Doubles, values: Doubles) -> Doubles:
    """Tᵀ times values (B, H, C) that are 0 outside of each prefix. Blocks are added in order: later ones add zeros."""
    out = np.zeros_like(values)
    for low in range(0, values.shape[1], BLOCK):
        at, upto = slice(low, low + BLOCK), slice(0, low + BLOCK)
        out[:, upto] += T[:, at, upto].transpose(0, 2, 1) @ values[:, at]
    return out


def times_factor(T: Doubles, values: Doubles, inside: Bools) -> Doubles:
    """T times values (B, H, C), with 0 outside of each prefix."""
    out = np.empty_like(values)
    for low in range(0, values.shape[1], BLOCK):
        at, upto = slice(low, low + BLOCK), slice(0, low + BLOCK)
        out[:, at] = np.where(inside[:, at], T[:, at, upto] @ values[:, upto], 0)
    return out


def _residual(blocks: list[Doubles], root: Doubles, solution: Doubles, right: Doubles) -> Doubles:
    """|(I + R K R) a - right| / |right| from the blocks of K."""
    values, image = root * solution, np.zeros_like(right)
    for index, kernel in enumerate(blocks):
        low, high = index * BLOCK, (index + 1) * BLOCK
        image[:, low:high] += (kernel @ values[:, :high, None])[..., 0]
        image[:, :low] += (values[:, None, low:high] @ kernel[:, :, :low])[:, 0]
    size: Doubles = np.linalg.norm(right, axis=1).astype(np.float64)
    norm: Doubles = np.linalg.norm(solution + root * image - right, axis=1) / np.where(size > 0, size, 1)
    return norm


class Past:
    """The primal form of one history's events so far: A = I + Zᵀ C Z and Zᵀ C y."""

    def __init__(self, dim: int) -> None:
        self.matrix = np.eye(dim)
        self.right = np.zeros(dim)

    def inverse(self) -> Doubles:
        """Return A^-1 (d, d); no eigenvalue of A is below 1."""
        return np.linalg.inv(self.matrix)

    def add(self, rows: Doubles, confidences: Doubles, targets: Doubles) -> None:
        """Add events: rows (h, d), confidences and targets (h)."""
        weighted = np.sqrt(confidences)[:, None] * rows
        self.matrix += weighted.T @ weighted
        self.right += (confidences * targets) @ rows

    def vector(self, inverse: Doubles) -> tuple[Doubles, float]:
        """Return the fit on the past (d), and its relative residual."""
        u: Doubles = inverse @ self.right
        size = float(np.linalg.norm(self.right))
        return u, float(np.linalg.norm(self.matrix @ u - self.right)) / (size or 1.0)
