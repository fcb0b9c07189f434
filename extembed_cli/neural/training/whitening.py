"""What makes the vectors of tables uncorrelated, of variance 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from extembed_cli.arrays import Ints
from extembed_cli.errors import DataError
from extembed_cli.neural.model import Items

_BLOCK = 4096  # items at a time
_ITEMS = 100_000  # that the covariance is taken of
_SMALLEST = 1e-3  # variance against the largest: what is less is noise, and is not blown up


def whitening(items: Callable[[Ints], Items], having: Ints) -> tuple[Tensor, Tensor]:
    """Mean (V) and W (V, V): (v − mean) W is uncorrelated over `having`, the items that all tables have."""
    if not len(having):
        raise DataError("--whiten: no item of the job has a vector in every table; leave it out, or train on one table")
    chosen = having[:: -(-len(having) // _ITEMS)]
    blocks = [chosen[low : low + _BLOCK] for low in range(0, len(chosen), _BLOCK)]
    mean = torch.stack([items(block).vectors.double().sum(0) for block in blocks]).sum(0) / len(chosen)
    second = torch.zeros((len(mean), len(mean)), dtype=torch.float64)
    for block in blocks:
        x = items(block).vectors.double() - mean
        second += x.T @ x / len(chosen)
    variance, axes = torch.linalg.eigh(second)
    scale = variance.clamp_min(_SMALLEST * float(variance.max()) + 1e-12).rsqrt()
    return mean.float(), (axes * scale).float()
