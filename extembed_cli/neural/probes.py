"""Projections of a few training vectors in `config.json`, to recognise another table of the same length."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Floats, Ints
from extembed_cli.errors import SpecError

_ITEMS, _NUMBERS = 16, 16
_GOLDEN_ANGLE = 2.399963  # makes all directions of the projection different
# Largest distance relative to the length: a table that grows moves its mean by less, another text model by more.
_MAX_DISTANCE = 0.2


def id_text(item: Any) -> str:
    """Return the id of an item as text, whatever its type."""
    return item.hex() if isinstance(item, bytes) else str(item)


def choose(with_vector: Ints) -> Ints:
    """Return a few of the items that have a vector."""
    return with_vector[:: max(1, len(with_vector) // _ITEMS)][:_ITEMS]


def find(vocabulary: pl.Series, probes: dict[str, str]) -> tuple[Ints, Doubles]:
    """Return the nums (n) of a job's items that have a probe, and their projections in the training (n, numbers)."""
    texts = pl.Series(list(probes), dtype=pl.String)
    binary = vocabulary.dtype == pl.Binary
    ids = texts.str.decode("hex", strict=False) if binary else texts.cast(vocabulary.dtype, strict=False)
    stored = pl.DataFrame({"id": ids, "probe": list(probes.values())}).drop_nulls().unique("id", keep="first")
    items = pl.DataFrame({"id": vocabulary}).with_row_index("num").join(stored, on="id").sort("num")
    projections = np.frombuffer(b"".join(map(base64.b64decode, items["probe"])), "<f4").reshape(-1, _NUMBERS)
    return items["num"].to_numpy().astype(np.int64), projections.astype(np.float64)


def of(vocabulary: pl.Series, nums: Ints, vectors: Floats) -> dict[str, str]:
    """Return the projections of vectors (n, V) as text, by the ids of their items."""
    projected = _projected(vectors).astype("<f4")
    return {
        id_text(vocabulary[num]): base64.b64encode(row.tobytes()).decode()
        for num, row in zip(nums.tolist(), projected, strict=True)
    }


def check(what: str, projections: Doubles, vectors: Floats) -> None:
    """Raise if most of the vectors (n, V) differ from those of the training, by their projections then (n, numbers)."""
    distances = np.linalg.norm(_projected(vectors) - projections, axis=1)
    moved = distances > _MAX_DISTANCE * np.linalg.norm(projections, axis=1)
    if np.count_nonzero(moved) > len(moved) / 2:
        raise SpecError(
            f"{what} has other vectors than the model was trained on ({np.count_nonzero(moved)} of {len(moved)} "
            "compared vectors differ). Name the table of the training, or train again"
        )


def _projected(vectors: Floats) -> Doubles:
    """Return each vector, whatever its length, as a few numbers that hardly any other vector shares: (n, numbers)."""
    angles = np.outer(np.arange(1, vectors.shape[1] + 1), np.arange(1, _NUMBERS + 1)) * _GOLDEN_ANGLE
    projected: Doubles = vectors.astype(np.float64) @ np.cos(angles)
    return projected
