"""A few vectors that a model was trained on, kept in `config.json`: they tell another table of the same length."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Floats, Ints
from extembed_cli.errors import SpecError

_ITEMS, _NUMBERS = 16, 16
_GOLDEN_ANGLE = 2.399963  # no two directions of the projection are alike
_KEPT = 0.2  # distance against the length: a mean that moves as its table grows leaves less, another text model more


def id_text(item: Any) -> str:
    """An item's id as text, whatever its type."""
    return item.hex() if isinstance(item, bytes) else str(item)


def choose(having: Ints) -> Ints:
    """Some of the items that have a vector."""
    return having[:: max(1, len(having) // _ITEMS)][:_ITEMS]


def find(vocabulary: pl.Series, probes: dict[str, str]) -> tuple[Ints, Doubles]:
    """Items of a job that are probed, and their projections (n, numbers) then."""
    texts = pl.Series(list(probes), dtype=pl.String)
    binary = vocabulary.dtype == pl.Binary
    ids = texts.str.decode("hex", strict=False) if binary else texts.cast(vocabulary.dtype, strict=False)
    wanted = pl.DataFrame({"id": ids, "then": list(probes.values())}).drop_nulls().unique("id", keep="first")
    found = pl.DataFrame({"id": vocabulary}).with_row_index("num").join(wanted, on="id").sort("num")
    then = np.frombuffer(b"".join(map(base64.b64decode, found["then"])), "<f4").reshape(-1, _NUMBERS)
    return found["num"].to_numpy().astype(np.int64), then.astype(np.float64)


def of(vocabulary: pl.Series, nums: Ints, vectors: Floats) -> dict[str, str]:
    """Projections of vectors (n, V) by the ids of their items, as text."""
    projected = _projected(vectors).astype("<f4")
    return {
        id_text(vocabulary[num]): base64.b64encode(row.tobytes()).decode()
        for num, row in zip(nums.tolist(), projected, strict=True)
    }


def check(what: str, then: Doubles, vectors: Floats) -> None:
    """Refuse vectors (n, V) most of which are not those of the training; where nothing is probed nothing is known."""
    moved = np.linalg.norm(_projected(vectors) - then, axis=1) > _KEPT * np.linalg.norm(then, axis=1)
    if np.count_nonzero(moved) > len(moved) / 2:
        raise SpecError(
            f"{what} has other vectors than the model was trained on ({np.count_nonzero(moved)} of {len(moved)} that "
            "were compared). Name the table of the training, or train again"
        )


def _projected(vectors: Floats) -> Doubles:
    """(n, numbers): a vector of any length as a few numbers, that few others share."""
    angles = np.outer(np.arange(1, vectors.shape[1] + 1), np.arange(1, _NUMBERS + 1)) * _GOLDEN_ANGLE
    projected: Doubles = vectors.astype(np.float64) @ np.cos(angles)
    return projected
