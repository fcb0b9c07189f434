"""The Gramian of a table in fixed blocks of rows, and its eigenvectors as coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles


class Eigen(NamedTuple):
    """G = Q Λ Qᵀ."""

    values: Doubles
    """Λ (d), none below 0"""
    vectors: Doubles
    """Q (d, d), one eigenvector per column"""


def gramian_of_block(vectors: Doubles) -> Doubles:
    """Return the sum Σ v vᵀ over the rows of a block: (n, d) -> (d, d)."""
    total: Doubles = vectors.T @ vectors
    return total


def eigen(gramian: Doubles) -> Eigen:
    """Return the eigenvalues and eigenvectors of a Gramian; values that rounding made negative are 0."""
    values, vectors = np.linalg.eigh(gramian)
    return Eigen(np.maximum(values, 0), vectors)
