"""Items as a model sees them: vectors of all tables side by side, and adapted to the model's own space."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from extembed_cli.arrays import Bools, Floats, Ints
from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.errors import DataError
from extembed_cli.neural import probes
from extembed_cli.neural.model import Items, Model
from extembed_cli.system.threads import Mapping

_BLOCK = 1024  # items adapted at a time: a fixed size, so that the bits of each are fixed


def adapted_items(model: Model, items: Callable[[Ints], Items], count: int, mapped: Mapping = map) -> Tensor:
    """(count, D) the first items as the model sees them, on its device."""
    device = str(model.adapter.linear.weight.device)
    adapted = torch.empty((count, model.a.dim), device=device)

    def adapt(low: int) -> None:
        nums = np.minimum(np.arange(low, low + _BLOCK), count - 1)
        with torch.inference_mode():
            made = model.adapter(items(nums).to(device))[: count - low]
        if not made.isfinite().all():
            raise DataError("an item's vectors are too long for the model's arithmetic: train with `normalize = true`")
        adapted[low : low + _BLOCK] = made

    for _ in mapped(adapt, range(0, count, _BLOCK)):
        pass
    return adapted


def id_buckets(vocabulary: pl.Series, buckets: int) -> Ints:
    """(items + 1) a bucket for each id by its text, the same in every job; 0 for a null item, and without buckets."""
    found = np.zeros(len(vocabulary) + 1, np.int64)
    if buckets:
        for num, item in enumerate(vocabulary.to_list()):
            digest = hashlib.blake2b(probes.id_text(item).encode(), digest_size=8).digest()
            found[num] = int.from_bytes(digest) % buckets
    return found


def model_vectors(table: EmbeddingMatrix, normalized: bool, nums: Ints) -> tuple[Floats, Bools]:
    """(n, V) vectors of some items, of norm 1 where the table says so, and (n) whether there is one."""
    at = table.slots[nums]
    scale = 1.0 if normalized else table.norms[at, None]
    return (table.vectors[at] * scale).astype(np.float32, copy=False), at != table.missing


def item_block(tables: Sequence[tuple[EmbeddingMatrix, bool]], buckets: Ints, nums: Ints) -> Items:
    """Vectors of all tables side by side, and hashes of the ids, of some items."""
    vectors, known = zip(*(model_vectors(table, normalized, nums) for table, normalized in tables), strict=True)
    side_by_side, knowns = np.concatenate(vectors, axis=1), np.stack(known, axis=1)
    return Items(torch.from_numpy(side_by_side), torch.from_numpy(knowns), torch.from_numpy(buckets[nums]))
