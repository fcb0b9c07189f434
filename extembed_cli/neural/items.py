"""Items as a model reads them: the concatenated vectors of all tables, adapted to the model's own space."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from extembed_cli.arrays import Bools, Floats, Ints
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.errors import DataError
from extembed_cli.neural import probes
from extembed_cli.neural.model import Items, Model
from extembed_cli.system.threads import Mapping

_BLOCK = 1024  # items adapted at a time: a fixed number, so that the bits of the result are fixed


def adapted_items(model: Model, items: Callable[[Ints], Items], count: int, mapped: Mapping = map) -> Tensor:
    """Return the first `count` items in the model's own space, on its device: (count, D)."""
    device = str(model.adapter.linear.weight.device)
    adapted = torch.empty((count, model.a.dim), device=device)

    def adapt(low: int) -> None:
        nums = np.minimum(np.arange(low, low + _BLOCK), count - 1)
        with torch.inference_mode():
            block = model.adapter(items(nums).to(device))[: count - low]
        if not block.isfinite().all():
            raise DataError("an item has such large vectors that the model overflows: train with `normalize = true`")
        adapted[low : low + _BLOCK] = block

    for _ in mapped(adapt, range(0, count, _BLOCK)):
        pass
    return adapted


def id_buckets(vocabulary: pl.Series, buckets: int) -> Ints:
    """Return the hash bucket of each id (items + 1), the same in every job; 0 for the null item and without buckets."""
    hashed = np.zeros(len(vocabulary) + 1, np.int64)
    if buckets:
        for num, item in enumerate(vocabulary.to_list()):
            digest = hashlib.blake2b(probes.id_text(item).encode(), digest_size=8).digest()
            hashed[num] = int.from_bytes(digest) % buckets
    return hashed


def model_vectors(table: EmbeddingMatrix, normalized: bool, nums: Ints) -> tuple[Floats, Bools]:
    """Return the vectors (n, V) of items, of norm 1 if the table is normalized, and whether an item has one (n)."""
    slots = table.slots[nums]
    scale = 1.0 if normalized else table.norms[slots, None]
    return (table.vectors[slots] * scale).astype(np.float32, copy=False), slots != table.missing


def item_block(tables: Sequence[tuple[EmbeddingMatrix, bool]], buckets: Ints, nums: Ints) -> Items:
    """Return the concatenated vectors of all tables and the id buckets of items."""
    vectors, known = zip(*(model_vectors(table, normalized, nums) for table, normalized in tables), strict=True)
    joined, has_vector = np.concatenate(vectors, axis=1), np.stack(known, axis=1)
    return Items(torch.from_numpy(joined), torch.from_numpy(has_vector), torch.from_numpy(buckets[nums]))
