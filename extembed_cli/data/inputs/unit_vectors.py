"""The arithmetic on the vectors of a table: means, in sums of fixed blocks, and unit vectors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from extembed_cli.arrays import Bools, Doubles, Floats, Values
from extembed_cli.data.shards.matrices import SUMMED_ROWS
from extembed_cli.system.threads import Mapping

_SUM_ROWS = 4096  # rows summed at a time for the mean: a fixed size, so that the mean's bits are fixed
# A centred vector shorter than this share of the mean's norm is rounding error and has no direction.
_ZERO_CENTRED = 1e-6


def _blocks(rows: int) -> list[slice]:
    return [slice(low, min(low + _SUM_ROWS, rows)) for low in range(0, rows, _SUM_ROWS)]


def mean_of_vectors(raw: Floats, has_vector: Bools, mapped: Mapping) -> Doubles:
    """Return the mean of the vectors, in float64; zeros if there are none."""
    starts = range(0, len(has_vector), SUMMED_ROWS)
    parts = (sum_of_vectors(raw[low : min(low + SUMMED_ROWS, len(has_vector))], mapped) for low in starts)
    return mean_of_sums(parts, raw.shape[1], int(np.count_nonzero(has_vector)))


def sum_of_vectors(raw: Floats, mapped: Mapping = map) -> Doubles:
    """Return the sum of vectors (n, d), zeros where there is none, in blocks of rows: (d)."""
    total = np.zeros(raw.shape[1])
    for of_block in mapped(lambda at: raw[at].sum(axis=0, dtype=np.float64), _blocks(len(raw))):
        total += of_block
    return total


def mean_of_sums(parts: Iterable[Doubles], dim: int, vectors: int) -> Doubles:
    """Return the mean of so many vectors from the sums (d) of each `SUMMED_ROWS` slots, in order."""
    mean = np.zeros(dim)
    for part in parts:
        mean += part
    mean /= max(1, vectors)
    return mean


def normalize_vectors(
    raw: Floats, has_vector: Bools, mean: Doubles | None, mapped: Mapping
) -> tuple[Doubles, NDArray[np.intp]]:
    """Subtract the mean (if given) and divide by the norm, in place, in float64: raw (n + 1, d), has_vector (n).

    Return the norms (n + 1), 0 = no vector, and the slots of vectors that are zero once centred.
    """
    norms = np.zeros(len(raw))
    shortest = 0.0 if mean is None else _ZERO_CENTRED * np.linalg.norm(mean)

    def divide(at: slice) -> None:
        vectors = raw[at].astype(np.float64)
        if mean is not None:
            vectors -= mean
        lengths = np.sqrt(np.vecdot(vectors, vectors))
        norms[at] = np.where(has_vector[at] & (lengths > shortest), lengths, 0)
        vectors /= np.where(norms[at] > 0, norms[at], np.inf)[:, None]
        raw[at] = vectors

    for _ in mapped(divide, _blocks(len(has_vector))):
        pass
    return norms, np.flatnonzero(has_vector & (norms[:-1] == 0))


def usable_rows(vectors: Values) -> Bools:
    """Whether each row is finite in float32 and not zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = vectors.astype(np.float32, copy=False)
        magnitude = np.maximum(single.max(axis=1), -single.min(axis=1))  # NaN and infinity survive a maximum
    usable: Bools = np.isfinite(magnitude) & (magnitude > 0)
    return usable
