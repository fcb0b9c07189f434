"""A few vectors that a model was trained on, kept in `config.json`: they tell another table of the same length."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.errors import SpecError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_ITEMS, _NUMBERS = 16, 16
_GOLDEN_ANGLE = 2.399963  # no two directions of the projection are alike
_ALIKE = 0.9  # cosine: a mean that moved with a table that grew leaves far more, another model's vectors far less


def id_text(item: Any) -> str:
    """An item's id as text, whatever its type."""
    return item.hex() if isinstance(item, bytes) else str(item)


def choose(having: Ints) -> Ints:
    """Some of the items that have a vector."""
    return having[:: max(1, len(having) // _ITEMS)][:_ITEMS]


def find(vocabulary: pl.Series, probes: dict[str, str]) -> Ints:
    """Which items of a job are probed."""
    ids = pl.Series(list(probes), dtype=pl.String)
    wanted = ids.str.decode("hex") if vocabulary.dtype == pl.Binary else ids.cast(vocabulary.dtype, strict=False)
    return vocabulary.is_in(wanted.implode()).arg_true().to_numpy().astype(np.int64)


def of(vocabulary: pl.Series, nums: Ints, vectors: Floats) -> dict[str, str]:
    """Projections of vectors (n, V) by the ids of their items, as text."""
    projected = _projected(vectors).astype("<f4")
    return {
        id_text(vocabulary[num]): base64.b64encode(row.tobytes()).decode()
        for num, row in zip(nums.tolist(), projected, strict=True)
    }


def check(what: str, probes: dict[str, str], vocabulary: pl.Series, nums: Ints, vectors: Floats) -> None:
    """Refuse vectors (n, V) of probed items that are not those of the training; where none is left nothing is known."""
    kept = [base64.b64decode(probes[id_text(vocabulary[num])]) for num in nums.tolist()]
    then, now = np.frombuffer(b"".join(kept), "<f4").astype(np.float64), _projected(vectors).ravel()
    norms = np.sqrt((then @ then) * (now @ now))
    if norms > 0 and then @ now < _ALIKE * norms:
        raise SpecError(
            f"{what} has other vectors than the model was trained on (of {len(nums)} items that both know, the "
            f"cosine of then and now is {then @ now / norms:.2f}). Name the table of the training, or train again"
        )


def _projected(vectors: Floats) -> NDArray[np.float64]:
    """(n, numbers): a vector of any length as a few numbers, that few others share."""
    angles = np.outer(np.arange(1, vectors.shape[1] + 1), np.arange(1, _NUMBERS + 1)) * _GOLDEN_ANGLE
    projected: NDArray[np.float64] = vectors.astype(np.float64) @ np.cos(angles)
    return projected
