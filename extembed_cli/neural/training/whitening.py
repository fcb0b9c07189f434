"""Whitening: the transformation of vectors to uncorrelated dimensions of variance 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from extembed_cli.arrays import Ints
from extembed_cli.errors import DataError
from extembed_cli.neural.model import Items

_BLOCK = 4096  # items at a time
_MAX_ITEMS = 100_000  # for the covariance
_MIN_VARIANCE = 1e-3  # relative to the largest: smaller ones are noise and are not scaled up further


def whitening(items: Callable[[Ints], Items], complete: Ints) -> tuple[Tensor, Tensor]:
    """Return mean (V) and W (V, V): (v − mean) W is uncorrelated over the items that all tables have (`complete`)."""
    if not len(complete):
        raise DataError("--whiten: no item has a vector in every table. Leave --whiten out, or train on one table")
    chosen = complete[:: -(-len(complete) // _MAX_ITEMS)]
    blocks = [chosen[low : low + _BLOCK] for low in range(0, len(chosen), _BLOCK)]
    mean = torch.stack([items(block).vectors.double().sum(0) for block in blocks]).sum(0) / len(chosen)
    second = torch.zeros((len(mean), len(mean)), dtype=torch.float64)
    for block in blocks:
        x = items(block).vectors.double() - mean
        second += x.T @ x / len(chosen)
    variance, axes = torch.linalg.eigh(second)
    scale = variance.clamp_min(_MIN_VARIANCE * float(variance.max()) + 1e-12).rsqrt()
    return mean.float(), (axes * scale).float()
