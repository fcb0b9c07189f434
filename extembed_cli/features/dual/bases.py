"""Item vectors in the coordinates of the Gramian's eigenvectors: what all dual fits on a table share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extembed_cli.arrays import Doubles, Floats
from extembed_cli.data.shards.mapped_arrays import ArrayFolder, zeros
from extembed_cli.data.shards.matrices import ROWS, EmbeddingMatrix
from extembed_cli.kernels.gramian import eigen
from extembed_cli.system.threads import Mapping


@dataclass(frozen=True)
class Basis:
    """Item vectors x, with a constant 1 for a bias, rotated: z = Qᵀ x with G = Σ x xᵀ = Q Λ Qᵀ."""

    vectors: Floats
    """(n + 1, D): z by slot; the last row is zero and stands for every partner without a vector."""
    eigenvalues: Doubles
    """Λ (D); zeros where no fit counts the unobserved partners."""
    rotation: Doubles | None
    """Q (D, D); None = not rotated."""
    partners: int
    """Vectors in the whole table; 0 where no fit counts the unobserved partners"""

    def original(self, vectors: Floats) -> Doubles:
        """Return the rows in the coordinates of the table: (n, D) -> (n, D)."""
        exact = vectors.astype(np.float64)
        return exact if self.rotation is None else exact @ self.rotation.T

    def save(self, arrays: ArrayFolder, name: str, matrix: EmbeddingMatrix) -> dict[str, Any]:
        """Keep it in mapped files; returns what `open` needs."""
        parts = {
            "vectors": None if self.vectors is matrix.vectors else self.vectors,
            "eigenvalues": self.eigenvalues,
            "rotation": self.rotation,
        }
        kept = {part: arrays.put(f"{name}.{part}", values) for part, values in parts.items() if values is not None}
        return {**kept, "partners": self.partners}

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any], matrix: EmbeddingMatrix) -> Basis:
        """Open what `save` kept."""
        return cls(
            vectors=arrays.get(about["vectors"]) if "vectors" in about else matrix.vectors,
            eigenvalues=arrays.get(about["eigenvalues"]),
            rotation=arrays.get(about["rotation"]) if "rotation" in about else None,
            partners=about["partners"],
        )


def make_basis(
    matrix: EmbeddingMatrix,
    partners: int,
    gramian: Doubles | None,
    *,
    normalized: bool,
    bias: bool,
    mapped: Mapping,
    at: Path | None = None,
) -> Basis:
    """Return the vectors of a table in the coordinates that diagonalise its Gramian; without one, as they are.

    With a path they are in a mapped file there.
    """
    dim = matrix.vectors.shape[1] + bias
    if gramian is None and normalized and not bias:
        return Basis(matrix.vectors, np.zeros(dim), None, partners)
    values, rotation = (np.zeros(dim), None) if gramian is None else eigen(gramian[:dim, :dim])
    out = zeros((len(matrix.vectors), dim), np.float32, at)

    def fill(rows: slice) -> None:
        exact = matrix.exact(rows, normalized=normalized, bias=bias)
        if rotation is None:
            out[rows] = exact
            return
        block = np.zeros((ROWS, dim))  # a product's bits depend on its shape, and a row on no other
        block[: len(exact)] = exact
        out[rows] = (block @ rotation)[: len(exact)]

    for _ in mapped(fill, matrix.blocks):
        pass
    return Basis(out, values, rotation, partners)
