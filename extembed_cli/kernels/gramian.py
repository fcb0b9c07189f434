"""The Gramian of a table in fixed blocks of rows, and its eigenvectors as coordinates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.floating[Any]]  # float64

ROWS = 2048  # of a table summed at a time: fixed, so that the bits of the sum are, whoever adds up which block


class Eigen(NamedTuple):
    """G = Q Λ Qᵀ."""

    values: Doubles
    """Λ (d), none below 0"""
    vectors: Doubles
    """Q (d, d), a column each"""


def gramian_of_block(vectors: Doubles) -> Doubles:
    """Σ v vᵀ over the rows of a block: (n, d) -> (d, d)."""
    total: Doubles = vectors.T @ vectors
    return total


def eigen(gramian: Doubles) -> Eigen:
    """Eigenvalues and eigenvectors of a Gramian; rounding below zero is cut off."""
    values, vectors = np.linalg.eigh(gramian)
    return Eigen(np.maximum(values, 0), vectors)
