"""Weighted ridge and logistic regressions, many at a time, each solved exactly in the smaller of its two forms.

In coordinates where the prior is the identity (rows z = P^-1/2 x, vector u = P^1/2 times the user's vector), minimise

    loss(u) + 1/2 |u|^2,    f = Z u,    loss = 1/2 Σ c (y - f)^2    or    Σ c log(1 + exp(-s f))

A Newton step with curvatures W and g = -loss'(f) adds to u (squared loss: one step from u = 0 with W = c and g = c y):

    primal   (I + Zᵀ W Z)^-1 (Zᵀ g - u)                                        d x d, for more events than dimensions
    dual     u = Zᵀ a,  r - W½ (I + W½ K W½)^-1 W½ K r,  r = g - a,  K = Z Zᵀ  n x n, for fewer

Neither matrix has an eigenvalue below 1, whatever the weights: an event so old that it weighs 0 does no harm. The dual
form is algorithm 3.1 of Rasmussen and Williams, Gaussian Processes for Machine Learning (2006). Shapes: B systems of H
events and d dimensions, C candidates; everything is float64, and no system's bits depend on the others.
In the primal form the decayed sums of one user are a recursion (`RunningSums`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extembed_cli.arrays import Doubles

GRADIENT = 1e-6  # the largest gradient of a converged logistic fit
_AIM = 1e-8  # the gradient to aim at; Newton's last step gets there from GRADIENT at no cost
_STEPS = 100
_EVENTS = 4096  # events of a long history processed at once


def longest_dual(dim: int) -> int:
    """Return the most events of a system in the dual form: more than d, because systems share a kernel matrix."""
    return max(dim, min(2 * dim, 1024))


class Form(Protocol):
    """B systems in one of the two forms, with unknowns (B, d or H)."""

    @property
    def size(self) -> int:
        """Number of unknowns of a system."""

    def correction(self, weights: Doubles, unknowns: Doubles, g: Doubles) -> Doubles:
        """Return the Newton step of the unknowns, with curvatures W and g = -loss'(f), each (B, H)."""

    def fitted(self, unknowns: Doubles) -> Doubles:
        """Return f = Z u at the events: (B, H)."""

    def vectors(self, unknowns: Doubles) -> Doubles:
        """Return u: (B, d)."""

    def squared_norm(self, unknowns: Doubles, g: Doubles) -> Doubles:
        """Return |u - Zᵀ g|^2: (B); with g = -loss'(f) the squared norm of the gradient."""

    def penalty(self, unknowns: Doubles, fitted: Doubles) -> Doubles:
        """Return |u|^2: (B)."""

    def variances(self, weights: Doubles, candidates: list[Doubles]) -> list[Doubles]:
        """Return xᵀ (I + Zᵀ W Z)^-1 x of the candidates (c, d) of each system: (c) each."""

    def take(self, chosen: NDArray[np.intp]) -> Form:
        """Return the chosen systems."""


@dataclass(frozen=True)
class DualForm:
    """Systems with one unknown per event. Padding has rows of 0 in the kernel, and its unknowns stay 0."""

    kernel: Doubles
    """K (B, H, H)"""
    rows: list[Doubles]
    """Z (h, d) of each system, without padding"""

    @classmethod
    def of(cls, rows: Doubles) -> DualForm:
        """Return systems of one length: rows (B, H, d)."""
        return cls(kernels(rows, rows.shape[1]), list(rows))

    @property
    def size(self) -> int:
        return int(self.kernel.shape[-1])

    def correction(self, weights: Doubles, unknowns: Doubles, g: Doubles) -> Doubles:
        root = np.sqrt(weights)
        rest = g - unknowns
        return rest - root * _solve(self._matrix(root), root * _times(self.kernel, rest))

    def fitted(self, unknowns: Doubles) -> Doubles:
        return _times(self.kernel, unknowns)

    def vectors(self, unknowns: Doubles) -> Doubles:
        return np.stack([a[: len(rows)] @ rows for a, rows in zip(unknowns, self.rows, strict=True)])

    def squared_norm(self, unknowns: Doubles, g: Doubles) -> Doubles:
        rest = unknowns - g
        return np.maximum(_dot(rest, _times(self.kernel, rest)), 0)

    def penalty(self, unknowns: Doubles, fitted: Doubles) -> Doubles:
        return self.squared_norm(unknowns, np.zeros_like(unknowns))

    def variances(self, weights: Doubles, candidates: list[Doubles]) -> list[Doubles]:
        root = np.sqrt(weights)
        matrices, variances = self._matrix(root), []
        for x, rows, matrix, r in zip(candidates, self.rows, matrices, root, strict=True):
            h = len(rows)
            cross = r[:h, None] * (rows @ x.T)
            explained = np.einsum("hc,hc->c", cross, np.linalg.solve(matrix[:h, :h], cross))
            variances.append(np.maximum(np.einsum("cd,cd->c", x, x) - explained, 0))
        return variances

    def take(self, chosen: NDArray[np.intp]) -> DualForm:
        return DualForm(self.kernel[chosen], [self.rows[i] for i in chosen])

    def _matrix(self, root: Doubles) -> Doubles:
        matrix = self.kernel * root[:, None, :]
        matrix *= root[:, :, None]
        return _plus_identity(matrix)


def kernels(rows: Doubles, block: int) -> Doubles:
    """Return the kernel K = Z Zᵀ of rows (B, H, d), H a multiple of the block: (B, H, H).

    It is computed in blocks of rows, each with the rows up to it, so that no later event changes a bit of the kernel of
    earlier ones.
    """
    B, H, _ = rows.shape
    out = np.empty((B, H, H))
    for low in range(0, H, block):
        at, upto = slice(low, low + block), slice(0, low + block)
        out[:, at, upto] = rows[:, at] @ rows[:, upto].transpose(0, 2, 1)
        out[:, :low, at] = out[:, at, :low].transpose(0, 2, 1)
    return out


@dataclass(frozen=True)
class PrimalForm:
    """Systems with one unknown per dimension. Events are gathered in blocks, more than once for a long history."""

    gather: Callable[[slice], Doubles]
    """Rows Z (B, h, d) of a slice of the events."""
    events: int
    size: int

    @classmethod
    def of(cls, gather: Callable[[slice], Doubles], events: int, dim: int) -> PrimalForm:
        if events <= _EVENTS:
            rows = gather(slice(0, events))
            return cls(lambda at: rows[:, at], events, dim)
        return cls(gather, events, dim)

    def correction(self, weights: Doubles, unknowns: Doubles, g: Doubles) -> Doubles:
        return _solve(self._matrix(weights), self._gathered(g) - unknowns)

    def fitted(self, unknowns: Doubles) -> Doubles:
        return np.concatenate([_times(rows, unknowns) for _, rows in self._blocks()], axis=1)

    def vectors(self, unknowns: Doubles) -> Doubles:
        return unknowns

    def squared_norm(self, unknowns: Doubles, g: Doubles) -> Doubles:
        rest = unknowns - self._gathered(g)
        return _dot(rest, rest)

    def penalty(self, unknowns: Doubles, fitted: Doubles) -> Doubles:
        return _dot(unknowns, unknowns)

    def variances(self, weights: Doubles, candidates: list[Doubles]) -> list[Doubles]:
        pairs = zip(candidates, self._matrix(weights), strict=True)
        return [np.einsum("cd,dc->c", x, np.linalg.solve(matrix, x.T)) for x, matrix in pairs]

    def take(self, chosen: NDArray[np.intp]) -> PrimalForm:
        return PrimalForm(lambda at: self.gather(at)[chosen], self.events, self.size)

    def _matrix(self, weights: Doubles) -> Doubles:
        total: Doubles | float = 0.0
        for at, rows in self._blocks():
            weighted = np.sqrt(weights[:, at, None]) * rows
            total = total + weighted.transpose(0, 2, 1) @ weighted
        assert isinstance(total, np.ndarray)
        return _plus_identity(total)

    def _gathered(self, g: Doubles) -> Doubles:
        """Zᵀ g: (B, d)."""
        total: Doubles | float = 0.0
        for at, rows in self._blocks():
            total = total + _times(rows.transpose(0, 2, 1), g[:, at])
        assert isinstance(total, np.ndarray)
        return total

    def _blocks(self) -> Iterator[tuple[slice, Doubles]]:
        for low in range(0, self.events, _EVENTS):
            at = slice(low, min(low + _EVENTS, self.events))
            yield at, self.gather(at)


class RunningSums:
    """The primal form of a long history at one moment after another: sums of decayed events, as a recursion.

        A(t2) = 2^(-(t2 - t1) / half_life) A(t1) + the events in between,    M = I + A

    Times are in half-lives. Events are added in blocks of a fixed number: no later event changes a bit of a sum.
    """

    def __init__(self, dim: int) -> None:
        self.matrix: Doubles = np.zeros((dim, dim))
        self.right: Doubles = np.zeros(dim)
        self.time = 0.0

    def at(
        self, time: float, rows: Doubles, weights: Doubles, targets: Doubles, times: Doubles
    ) -> tuple[Doubles, Doubles]:
        """Return Zᵀ C Z (d, d) and Zᵀ C y (d) at a time, with more events (h, d) that are not later."""
        left = 2.0 ** (self.time - time)
        c = weights * np.exp2(times - time)
        weighted = np.sqrt(c)[:, None] * rows
        return left * self.matrix + weighted.T @ weighted, left * self.right + (c * targets) @ rows

    def add(self, rows: Doubles, weights: Doubles, targets: Doubles, times: Doubles) -> None:
        """Add events to the sums."""
        self.matrix, self.right = self.at(times[-1], rows, weights, targets, times)
        self.time = float(times[-1])


@dataclass(frozen=True)
class Solved:
    """Solutions of B systems."""

    unknowns: Doubles
    weights: Doubles
    """Curvatures (B, H) at the solution."""
    error: Doubles
    """(B): squared loss: |gradient| relative to |Zᵀ C y|; logistic: |gradient|, in the coordinates of the scale."""


def solve_squared(form: Form, confidences: Doubles, targets: Doubles) -> Solved:
    """Solve weighted ridge regressions, in one step. confidences, targets (B, H)."""
    b = confidences * targets
    zero = np.zeros((len(confidences), form.size))
    unknowns = form.correction(confidences, zero, b)
    gradient = form.squared_norm(unknowns, b - confidences * form.fitted(unknowns))
    size = form.squared_norm(zero, b)
    return Solved(unknowns, confidences, np.sqrt(gradient / np.where(size > 0, size, 1)))


def solve_logistic(form: Form, confidences: Doubles, positive: Doubles, scale: Doubles) -> Solved:
    """Solve weighted logistic regressions by damped Newton steps.

    confidences (B, H); positive (B, H): 1 for positive events, else 0; scale (B): |gradient| in the user vector's own
    coordinates is at most this times that in these. A system that has converged does not change any more, so that its
    bits do not depend on how long the others take.
    """
    unknowns = np.zeros((len(confidences), form.size))
    f = np.zeros_like(confidences)
    error = np.full(len(f), np.inf)
    active = np.arange(len(f))
    part, c, y = form, confidences, positive
    for _ in range(_STEPS):
        share = _sigmoid(f[active])
        g = c * (y - share)
        error[active] = scale[active] * np.sqrt(part.squared_norm(unknowns[active], g))
        rest = error[active] > _AIM
        if not rest.any():
            break
        if not rest.all():
            active = active[rest]
            part, c, y, share, g = part.take(np.flatnonzero(rest)), c[rest], y[rest], share[rest], g[rest]
        curvature = c * share * (1 - share)
        before, at = unknowns[active], f[active]
        aim = before + part.correction(curvature, before, g)
        aim_at = part.fitted(aim)
        unknowns[active], f[active] = _damped(part, c, y, before, at, aim, aim_at)
    share = _sigmoid(f)
    return Solved(unknowns, confidences * share * (1 - share), error)


def _damped(
    form: Form, c: Doubles, y: Doubles, before: Doubles, at: Doubles, aim: Doubles, aim_at: Doubles
) -> tuple[Doubles, Doubles]:
    """Return the first of the full step, half of it, ... that does not increase the objective."""
    start = _objective(form, c, y, before, at)
    length = np.ones(len(c))
    for _ in range(_STEPS):
        unknowns = before + length[:, None] * (aim - before)
        f = at + length[:, None] * (aim_at - at)
        # Near the minimum both objectives differ by rounding alone: there a full step is right.
        worse = _objective(form, c, y, unknowns, f) > start + 1e-12 * np.abs(start)
        if not worse.any():
            break
        length[worse] /= 2
    return unknowns, f


def _objective(form: Form, c: Doubles, y: Doubles, unknowns: Doubles, f: Doubles) -> Doubles:
    margin = np.where(y > 0, f, -f)
    loss: Doubles = (c * np.logaddexp(0, -margin)).sum(axis=1)
    return loss + form.penalty(unknowns, f) / 2


def _sigmoid(f: Doubles) -> Doubles:
    share: Doubles = np.exp(-np.logaddexp(0, -f))
    return share


def _plus_identity(matrices: Doubles) -> Doubles:
    """Add I to the matrices in place; return them."""
    diagonal = np.arange(matrices.shape[-1])
    matrices[:, diagonal, diagonal] += 1
    return matrices


def _times(matrices: Doubles, vectors: Doubles) -> Doubles:
    """Return the products of matrices and vectors: (B, m, n), (B, n) -> (B, m)."""
    product: Doubles = (matrices @ vectors[..., None])[..., 0]
    return product


def _solve(matrices: Doubles, vectors: Doubles) -> Doubles:
    """Return the solutions: (B, n, n), (B, n) -> (B, n). Numpy would take vectors (B, n) for one matrix where B = n."""
    solution: Doubles = np.linalg.solve(matrices, vectors[..., None])[..., 0]
    return solution


def _dot(a: Doubles, b: Doubles) -> Doubles:
    products: Doubles = np.einsum("bi,bi->b", a, b)
    return products
