"""The inputs of a training: read here, and cut to the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from extembed_cli.data.coverage import Coverage
from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.data.labels import read_codes, read_labels, read_times
from extembed_cli.data.parquet import Table
from extembed_cli.data.scratch import Scratch, scratch, scratch_folder
from extembed_cli.errors import Problems, SpecError, did_you_mean
from extembed_cli.features.prepare import prepare
from extembed_cli.histories.csr import Shard
from extembed_cli.histories.visibility import in_own_history, visible_end
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import digesting, load, open_all, sample_layout
from extembed_cli.jobs.train_memory import memory_of_training, training_layout
from extembed_cli.jobs.warnings import repeated_items
from extembed_cli.neural.config import Layers, TrainingSettings
from extembed_cli.neural.training.dataset import Dataset, Labelled, build, bytes_needed, check, histories_of, newest
from extembed_cli.neural.training.fitting import PART
from extembed_cli.spec.durations import time_text, time_us
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping


@dataclass(frozen=True)
class Training:
    """A model to train."""

    spec: Spec
    settings: TrainingSettings
    layers: Layers
    output: Path
    """Its folder"""
    options: RunOptions


@dataclass(frozen=True)
class TrainingInputs:
    """What a model is trained on."""

    data: Dataset
    rows: dict[str, int]
    """Candidates by what they are for, or why they are left out."""
    trained_until: str
    tables: dict[str, EmbeddingMatrix]
    table_rows: dict[str, int]
    vocabulary: pl.Series
    digests: dict[str, Any]
    """Of the inputs."""


def read_training(training: Training, mapped: Mapping, watch: Watch, stack: ExitStack) -> TrainingInputs:
    """Read everything; what does not fit into memory is in mapped files until the stack is left."""
    spec, settings, options = training.spec, training.settings, training.options
    opened = open_all(spec, watch)
    if opened.problems.errors:
        load(opened, watch, sample_layout(opened))
    inputs = opened.complete()
    assert inputs.candidates is not None
    labelled = _labelled(spec, settings, inputs.candidates, watch)
    usable, left_out = labelled.usable(None if settings.until is None else time_us(settings.until))
    part = max(PART, labelled.largest_group(usable)) if settings.loss == "softmax" else min(PART, settings.batch_size)
    taken = memory_of_training(spec, inputs, settings, training.layers, part, options.workers)
    learned = bytes_needed(int(np.count_nonzero(usable)), inputs.interactions.rows, len(histories_of(spec)))
    layout = options.layout or training_layout(spec, inputs, options.workers, options.memory, taken, learned)
    with digesting(inputs, {}) as digests:
        place = stack.enter_context(_scratch(training, layout))
        where = place.folder if place else None
        loaded = load(opened, watch, layout, place)
        with watch.timing("vectors"):
            shared = prepare(spec, inputs.embeddings, loaded.ids, loaded.vocabulary, mapped, where)
        coverage, repeats = Coverage(), 0

        def shards() -> Iterator[Shard]:
            nonlocal repeats
            for index in range(loaded.partition.shards):
                shard = loaded.shard(spec, index)
                coverage.add(Coverage.of(shard, shared.with_vector))
                end = visible_end(spec, shard.history, shard.candidates)
                repeats += in_own_history(shard.history, shard.candidates, end)
                yield shard

        with watch.timing("encode"):
            events = loaded.events.usable
            data, rows = build(spec, settings.max_events, shards(), labelled, usable, events, where)
        watch.warn_of(coverage.mismatches(spec, loaded))
        watch.warn_of(repeated_items(repeats, coverage.candidates))
        check(data, labelled, {**rows, **left_out}, inside_groups=settings.group is not None)
        until = newest(data, labelled)
        if not (labelled.times > until).any():
            watch.warning("no candidate is newer than those that are learned from: a ranker needs later ones (--until)")
        inputs.check_unchanged()  # all of it is read; a log may grow while the model learns
        return TrainingInputs(
            data,
            {**rows, **left_out},
            time_text(until),
            {name: shared.embeddings[name] for name in spec.embeddings},
            {name: table.rows for name, table in inputs.embeddings.items()},
            loaded.vocabulary.ids,
            digests.result(),
        )


def _labelled(spec: Spec, settings: TrainingSettings, table: Table, watch: Watch) -> Labelled:
    """Labels, times and requests of all candidates; what is wrong with them is told together."""
    labels = times = groups = None
    problems = Problems()
    with watch.timing("read"):
        for flag, name in {"--label": settings.label, "--group": settings.group}.items():
            with problems.collect():
                if name is not None and name not in table.schema.names:
                    raise SpecError(
                        f"{flag} {name}: the candidates have no such column{did_you_mean(name, table.schema.names)}"
                    )
        problems.raise_any()
        with problems.collect():
            labels = read_labels(table, settings.label, graded=settings.group is not None)
        with problems.collect():
            times = read_times(table, spec.column("candidates", "time"), spec.time_unit)
        with problems.collect():
            groups = None if settings.group is None else read_codes(table, "group", settings.group)
    problems.raise_any()
    assert labels is not None
    assert times is not None
    return Labelled(labels, times, groups)


@contextmanager
def _scratch(training: Training, layout: Layout) -> Iterator[Scratch | None]:
    """A folder for shards and mapped arrays, where they do not fit; a training resumes from its checkpoint instead."""
    with scratch(
        scratch_folder(training.options.scratch or training.output.parent, training.output),
        dict,
        asdict(layout),
        needed=layout.on_disk,
        fits=None,
        note=lambda message: None,
    ) as place:
        yield place
