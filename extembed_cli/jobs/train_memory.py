"""What a training needs of the memory, beside what any job on its inputs does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from extembed_cli.data.embeddings import first_dim
from extembed_cli.data.inputs import Inputs
from extembed_cli.jobs.layout import Layout, layout_of, memory_needed
from extembed_cli.neural.config import Layers, TrainingSettings
from extembed_cli.spec.model import Spec

# What was measured, see docs/decisions/.
_BYTES_FOR_LIBRARIES = 280 * 2**20  # torch, safetensors and what draws the curves
_FLOATS_PER_NUMBER = 25  # for each number of an event, of 11 to 22
_FLOATS_PER_VECTOR = 6  # for each number of a frozen vector that a part adapts
_BYTES_PER_LABEL = 70  # label, time and request of a candidate, and its places in two orders
_COPIES = 10  # of what is learned: gradient, two of Adam, the best, and a checkpoint of them
_FEWEST_BUCKETS, _MOST_BUCKETS = 2**10, 2**20


def id_bucket_count(layers: Layers, items: int) -> int:
    """Four for each item, so that few share one."""
    if not layers.id_embedding:
        return 0
    return int(min(_MOST_BUCKETS, max(_FEWEST_BUCKETS, 2 ** int(np.ceil(np.log2(4 * max(1, items)))))))


def memory_of_training(
    spec: Spec, inputs: Inputs, settings: TrainingSettings, layers: Layers, part: int, workers: int
) -> dict[str, int]:
    """Bytes by purpose; `part` candidates of a step are worked on by one thread."""
    items = sum(table.rows for table in inputs.embeddings.values())
    width = sum(first_dim(table, spec.embedding_column(n, "embedding")) for n, table in inputs.embeddings.items())
    events = part * (settings.max_events + 1)
    floats = events * layers.dim * _FLOATS_PER_NUMBER + min(events, items) * width * _FLOATS_PER_VECTOR
    parts = f"{part:,} candidates with {settings.max_events} events in each worker (--max-events, --dim)"
    return {
        "libraries of a training": _BYTES_FOR_LIBRARIES,
        parts: 4 * workers * floats,
        "labels": _BYTES_PER_LABEL * (0 if inputs.candidates is None else inputs.candidates.rows),
        "weights": 4 * (_COPIES + 2 * workers) * (12 * layers.dim**2 + width * layers.dim),
        "vectors of items and ids": 4 * layers.dim * (items + _COPIES * id_bucket_count(layers, items)),
    }


def training_layout(
    spec: Spec, inputs: Inputs, workers: int, memory: int | None, taken: dict[str, int], learned: int
) -> Layout:
    """How users are cut; what is learned from, so many bytes, is mapped where it does not fit as well."""
    layout = layout_of(spec, inputs, workers, memory, more=taken)
    needed = memory_needed(spec, inputs, layout, workers) + sum(taken.values()) + learned
    return replace(layout, mapped=layout.mapped or (memory is not None and needed > memory))
