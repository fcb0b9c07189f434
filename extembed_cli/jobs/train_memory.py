"""The memory that a training needs in addition to that of any job on its inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from extembed_cli.data.columns.vector_columns import VectorColumns
from extembed_cli.data.inputs.inputs import Inputs
from extembed_cli.jobs.layout import Layout, layout_of, memory_needed
from extembed_cli.neural.config import Layers, TrainingSettings
from extembed_cli.spec.model import Spec

# Measured, see docs/decisions/.
_BYTES_FOR_LIBRARIES = 280 * 2**20  # torch, safetensors and the libraries of the charts
_FLOATS_PER_NUMBER = 25  # for each number of an event; 11 to 22 were measured
_FLOATS_PER_VECTOR = 6  # for each number of a frozen vector of a micro-batch
_BYTES_PER_LABEL = 70  # label, time and request of a candidate, and its index in two orders
_BYTES_PER_FOLD = 8  # of a candidate: its index in the rows of a model
_COPIES = 13  # of the parameters: gradient, two of Adam, the averaged and the best ones, and a checkpoint of all
_COPIES_PER_FOLD = 3  # of the weights of a finished model: kept, and twice in a checkpoint
_MIN_BUCKETS, _MAX_BUCKETS = 2**10, 2**20


def id_bucket_count(layers: Layers, items: int) -> int:
    """Return the number of hash buckets of item ids: four per item, so that few items share one."""
    if not layers.id_embedding:
        return 0
    return int(min(_MAX_BUCKETS, max(_MIN_BUCKETS, 2 ** int(np.ceil(np.log2(4 * max(1, items)))))))


def training_needs(
    spec: Spec, inputs: Inputs, settings: TrainingSettings, layers: Layers, micro_batch: int, workers: int
) -> dict[str, int]:
    """Return the bytes by purpose; a thread computes `micro_batch` candidates of a step at a time."""
    items = sum(table.rows for table in inputs.embeddings.values())
    width = sum(VectorColumns.of(spec, n, table).dim for n, table in inputs.embeddings.items())
    events = micro_batch * (settings.max_events + 1)
    floats = events * layers.dim * _FLOATS_PER_NUMBER + min(events, items) * width * _FLOATS_PER_VECTOR
    copies = _COPIES + _COPIES_PER_FOLD * settings.folds
    label = _BYTES_PER_LABEL + _BYTES_PER_FOLD * settings.folds
    batches = f"{micro_batch:,} candidates with {settings.max_events} events in each worker (--max-events, --dim)"
    return {
        "libraries of a training": _BYTES_FOR_LIBRARIES,
        batches: 4 * workers * floats,
        "labels": label * (0 if inputs.candidates is None else inputs.candidates.rows),
        "weights": 4 * (copies + 2 * workers) * (12 * layers.dim**2 + width * layers.dim),
        "vectors of items and ids": 4 * layers.dim * (items + copies * id_bucket_count(layers, items)),
    }


def training_layout(
    spec: Spec, inputs: Inputs, workers: int, memory: int | None, needs: dict[str, int], dataset: int
) -> Layout:
    """Return the layout of a training; `dataset` is the bytes of its dataset, which is mapped if it does not fit."""
    layout = layout_of(spec, inputs, workers, memory, other_needs=needs)
    needed = memory_needed(spec, inputs, layout, workers) + sum(needs.values()) + dataset
    return replace(layout, mapped=layout.mapped or (memory is not None and needed > memory))
