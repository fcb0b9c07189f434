"""Item vectors in the coordinates of the Gramian's eigenvectors: what all dual fits on a table share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.data.scratch import zeros
from extembed_cli.kernels.gramian import ROWS, eigen, gramian_of_block
from extembed_cli.system.threads import Mapping

Floats = NDArray[np.float32]
Doubles = NDArray[np.floating[Any]]  # float64


@dataclass(frozen=True)
class Basis:
    """Item vectors x, with a constant 1 for a bias, rotated: z = Qᵀ x with G = Σ x xᵀ = Q Λ Qᵀ."""

    vectors: Floats
    """(n + 1, D): z by slot; the last row is zero and stands for every item without a vector."""
    eigenvalues: Doubles
    """Λ (D); zeros where no fit counts the unobserved items."""
    rotation: Doubles | None
    """Q (D, D); None = not rotated."""
    items: int
    """Vectors in the whole table."""

    def original(self, vectors: Floats) -> Doubles:
        """Rows in the coordinates of the table: (n, D) -> (n, D)."""
        exact = vectors.astype(np.float64)
        return exact if self.rotation is None else exact @ self.rotation.T


def gramian(matrix: EmbeddingMatrix, *, normalized: bool, mapped: Mapping) -> Doubles:
    """Σ x xᵀ over the table, each x with a constant 1 behind it: (d + 1, d + 1).

    Added up in fixed blocks in order of ids, so the bits are the same for any number of workers and order of rows.
    """
    total = np.zeros((matrix.vectors.shape[1] + 1,) * 2)
    for part in mapped(lambda at: gramian_of_block(_exact(matrix, at, normalized, bias=True)), _blocks(matrix)):
        total += part
    return total


def make_basis(
    matrix: EmbeddingMatrix,
    items: int,
    gramian: Doubles | None,
    *,
    normalized: bool,
    bias: bool,
    mapped: Mapping,
    folder: Path | None = None,
) -> Basis:
    """The vectors of a table in the coordinates that diagonalise its Gramian; without one, as they are.

    With a folder they are in a mapped file there.
    """
    dim = matrix.vectors.shape[1] + bias
    if gramian is None and normalized and not bias:
        return Basis(matrix.vectors, np.zeros(dim), None, items)
    values, rotation = (np.zeros(dim), None) if gramian is None else eigen(gramian[:dim, :dim])
    out = zeros((len(matrix.vectors), dim), np.float32, folder)

    def fill(at: slice) -> None:
        exact = _exact(matrix, at, normalized, bias=bias)
        out[at] = exact if rotation is None else exact @ rotation

    for _ in mapped(fill, _blocks(matrix)):
        pass
    return Basis(out, values, rotation, items)


def _exact(matrix: EmbeddingMatrix, at: slice, normalized: bool, *, bias: bool) -> Doubles:
    """Some vectors in float64; of those that are missing all is 0, the constant too."""
    vectors = matrix.vectors[at].astype(np.float64)
    norms = matrix.norms[at]
    if not normalized:
        vectors *= norms[:, None]
    return np.column_stack([vectors, norms > 0]) if bias else vectors


def _blocks(matrix: EmbeddingMatrix) -> Iterator[slice]:
    return (slice(low, min(low + ROWS, len(matrix.vectors))) for low in range(0, len(matrix.vectors), ROWS))
