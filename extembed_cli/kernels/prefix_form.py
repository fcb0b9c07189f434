"""The dual form of systems on many prefixes of one history, which share a Cholesky factor (see `ridge`).

A Newton step with curvatures W adds r - W½ x to the unknowns, where (I + W½ K W½) x = W½ K r is solved by conjugate
gradients. The curvatures of a logistic loss are at most R² = C / 4, and mostly not much less. For W = R² one factor T
serves all prefixes (`prefixes`), and for W = D R² D it gives a preconditioner:

    I + R K R = (Tᵀ T)^-1,    I + D R K R D ≈ D (Tᵀ T)^-1 D

Where D is small, the left side is nearly the identity; so D is at least the value that makes the diagonals equal.
If all confidences of a later prefix have decayed by one factor, the factor T of an earlier prefix still serves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from extembed_cli.arrays import Bools, Doubles, Ints
from extembed_cli.kernels.prefixes import BLOCK, inverse_factor, kernel_blocks, times_factor, times_transposed
from extembed_cli.kernels.ridge import DualForm

_RELATIVE = 1e-3  # part of a residual that may be left to Newton's next step
_STEPS = 50  # after these, a system is solved on its own


@dataclass(frozen=True)
class PrefixForm:
    """Systems on prefixes of B histories of up to H events, A prefixes each: those chosen of all B * A."""

    rows: Doubles
    """(B, H, d)"""
    kernels: list[Doubles]
    """K in blocks of rows, each with the events up to it"""
    factor: Doubles
    """T (B, H, H)"""
    root: Doubles
    """R (B, H, 1)"""
    least: Doubles
    """Smallest D (B, H, 1)"""
    inside: Bools
    """(B, H, A) whether a prefix has an event"""
    chosen: Ints

    @classmethod
    def of(cls, rows: Doubles, confidences: Doubles, ends: Ints) -> PrefixForm:
        """Return all systems.

        rows (B, H, d), H a multiple of BLOCK; confidences (B, H) at most; ends (B, A) of the prefixes.
        """
        kernels = kernel_blocks(rows, rows.transpose(0, 2, 1))
        root = np.sqrt(confidences) / 2
        inside = np.arange(rows.shape[1])[:, None] < ends[:, None, :]
        least = 1 / np.sqrt(1 + root**2 * np.vecdot(rows, rows))
        factor = inverse_factor(kernels, root)
        return cls(rows, kernels, factor, root[..., None], least[..., None], inside, np.arange(ends.size))

    @property
    def size(self) -> int:
        return int(self.rows.shape[1])

    def correction(self, weights: Doubles, unknowns: Doubles, g: Doubles) -> Doubles:
        w, r = np.sqrt(self._unfold(weights)), self._unfold(g - unknowns)
        image = self._times_kernel(r)
        aim = _RELATIVE**2 * _dots(r, image)
        ratio = np.divide(w, self.root, out=np.zeros_like(w), where=self.root > 0)
        inverse = 1 / np.maximum(ratio, self.least)
        rest, x, p = w * image, np.zeros_like(r), np.zeros_like(r)
        before, zero, stretch = np.ones_like(aim), np.zeros_like(aim), np.ones_like(aim)
        active = _dots(rest, rest) > 0
        for _ in range(_STEPS):
            if not active.any():
                break
            z = inverse * times_transposed(self.factor, times_factor(self.factor, inverse * rest, self.inside))
            product = _dots(rest, z)
            p = z + np.divide(product, before, out=zero.copy(), where=active) * p
            before = product
            change = p + w * self._times_kernel(w * p)
            curvature, square = _dots(p, change), _dots(p, p)
            length = np.divide(product, curvature, out=zero.copy(), where=active)
            x += length * p
            rest -= length * change
            # The gradient is then Zᵀ W½ rest, whose square is at most about `stretch` times that of the rest.
            stretch = np.maximum(stretch, np.divide(curvature, square, out=zero.copy(), where=active))
            active &= stretch * _dots(rest, rest) > aim
        if not np.isfinite(rest).all():
            raise np.linalg.LinAlgError
        step = r - w * x
        correction = self._fold(step)
        unsolved = np.flatnonzero(active.ravel()[self.chosen])
        for system, b, h in zip(unsolved, *self._history_and_length(unsolved), strict=True):
            at = np.s_[system : system + 1, :h]
            correction[at] = DualForm.of(self.rows[b, None, :h]).correction(weights[at], unknowns[at], g[at])
        return correction

    def fitted(self, unknowns: Doubles) -> Doubles:
        return self._fold(self._times_kernel(self._unfold(unknowns)))

    def vectors(self, unknowns: Doubles) -> Doubles:
        vectors = self._unfold(unknowns).transpose(0, 2, 1) @ self.rows
        return vectors.reshape(-1, self.rows.shape[2])[self.chosen]

    def penalty(self, unknowns: Doubles, fitted: Doubles) -> Doubles:
        products: Doubles = np.einsum("bi,bi->b", unknowns, fitted)
        return products

    def squared_norm(self, unknowns: Doubles, g: Doubles) -> Doubles:
        rest = self._unfold(unknowns - g)
        square: Doubles = _dots(rest, self._times_kernel(rest))
        return np.maximum(square.ravel()[self.chosen], 0)

    def variances(self, weights: Doubles, candidates: list[Doubles]) -> list[Doubles]:
        variances = []
        for b, h, w, x in zip(*self._history_and_length(np.arange(len(weights))), weights, candidates, strict=True):
            variances += DualForm.of(self.rows[b, None, :h]).variances(w[None, :h], [x])
        return variances

    def take(self, chosen: NDArray[np.intp]) -> PrefixForm:
        return replace(self, chosen=self.chosen[chosen])

    def _history_and_length(self, systems: NDArray[np.intp]) -> tuple[list[int], list[int]]:
        """Return the history of each of some systems, and its number of events."""
        chosen = self.chosen[systems]
        return (chosen // self.inside.shape[2]).tolist(), self.inside.sum(axis=1).ravel()[chosen].tolist()

    def _unfold(self, values: Doubles) -> Doubles:
        """Return values (chosen, H) as (B, H, A), 0 if not chosen: products keep their shapes, and so their bits."""
        B, H, A = self.inside.shape
        out = np.zeros((B * A, H))
        out[self.chosen] = values
        return np.where(self.inside, out.reshape(B, A, H).transpose(0, 2, 1), 0)

    def _fold(self, values: Doubles) -> Doubles:
        """Return values (B, H, A) as (chosen, H)."""
        folded: Doubles = values.transpose(0, 2, 1).reshape(-1, self.size)[self.chosen]
        return folded

    def _times_kernel(self, values: Doubles) -> Doubles:
        """K times values (B, H, A) that are 0 outside of a prefix. Blocks are added in order: later ones add zeros."""
        out = np.zeros_like(values)
        for index, kernel in enumerate(self.kernels):
            low = index * BLOCK
            at, upto = slice(low, low + BLOCK), slice(0, low + BLOCK)
            out[:, at] += kernel @ values[:, upto]
            out[:, :low] += kernel[:, :, :low].transpose(0, 2, 1) @ values[:, at]
        return np.where(self.inside, out, 0)


def _dots(a: Doubles, b: Doubles) -> Doubles:
    """(B, H, A), (B, H, A) -> (B, 1, A)."""
    products: Doubles = np.einsum("bha,bha->ba", a, b)[:, None]
    return products
