"""One ridge regression on the events of everybody, fitted anew at every step of time.

    u = M⁻¹ b,    M = A + w0 G + λ I,    A = Σ c x xᵀ,    b = Σ c y x

over all events before a step, with the confidences c = weight · 2^(−age / half_life) as of the step. The events of one
step are summed on their own, and added to what came before, which has decayed:

    A(t + 1) = 2^(−step / half_life) A(t) + new

so no sum of a step depends on later events. The posterior variance of a score is xᵀ M⁻¹ x.
Shapes: n items, d dimensions; everything is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles


class StepSums(NamedTuple):
    """Sums over events at one step."""

    matrix: Doubles
    """A (d, d)"""
    right: Doubles
    """b (d)"""
    events: int

    @classmethod
    def of(cls, rows: Doubles, weights: Doubles, targets: Doubles, events: int) -> StepSums:
        """Return the sums of so many events with n items: rows x (n, d), Σ c (n) and Σ c y (n) of each."""
        weighted = np.sqrt(weights)[:, None] * rows
        return cls(weighted.T @ weighted, targets @ rows, events)

    def decayed(self, factor: float) -> StepSums:
        """Return the sums at a later step, when each weight is multiplied by a factor."""
        return StepSums(factor * self.matrix, factor * self.right, self.events)

    def plus(self, other: StepSums) -> StepSums:
        """Return the sums with more events of the same step."""
        return StepSums(self.matrix + other.matrix, self.right + other.right, self.events + other.events)


class StepFit(NamedTuple):
    """The solution at a step."""

    vector: Doubles
    """u (d)"""
    residual: float
    """|M u − b| relative to |b|"""


def solve_step(sums: StepSums, prior: Doubles) -> StepFit:
    """Solve one step with the matrix P = w0 G + λ I (d, d). Raises LinAlgError where M has no inverse."""
    matrix = sums.matrix + prior
    vector = np.linalg.solve(matrix, sums.right)
    size = float(np.linalg.norm(sums.right))
    return StepFit(vector, float(np.linalg.norm(matrix @ vector - sums.right)) / (size or 1.0))


def variances_of_step(sums: StepSums, prior: Doubles, rows: Doubles) -> Doubles:
    """Return xᵀ M⁻¹ x of some rows x (n, d): (n). Raises LinAlgError where M has no inverse."""
    images = np.linalg.solve(sums.matrix + prior, rows.T)
    variances: Doubles = np.maximum(np.einsum("nd,dn->n", rows, images), 0)
    return variances
