"""Read the inputs of a training within its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from extembed_cli.data.columns.labels import read_codes, read_labels, read_times
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.data.shards.scratch import Scratch, scratch, scratch_folder
from extembed_cli.errors import DataError, Problems, SpecError, did_you_mean
from extembed_cli.features.prepare import prepare
from extembed_cli.histories.csr import Shard
from extembed_cli.histories.visibility import visible_end
from extembed_cli.histories.without_own import sees_own
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import digesting, load, open_all, sample_layout
from extembed_cli.jobs.requirements import check_inputs
from extembed_cli.jobs.train_memory import training_layout, training_needs
from extembed_cli.jobs.warnings import repeated_items
from extembed_cli.neural.config import EventValue, Fold, Layers, TrainingSettings
from extembed_cli.neural.events import Reading
from extembed_cli.neural.training.dataset import (
    Dataset,
    Labelled,
    build_dataset,
    check_dataset,
    dataset_bytes,
    histories_of,
    newest_time,
    standardize,
)
from extembed_cli.neural.training.trainer import MICRO_BATCH
from extembed_cli.spec.durations import time_text, time_us
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

_FEW_ROWS = 200  # of a model: with fewer its score is noise


@dataclass(frozen=True)
class Training:
    """A model to train, with its settings and options."""

    spec: Spec
    settings: TrainingSettings
    layers: Layers
    output: Path
    """Folder of the model"""
    options: RunOptions


@dataclass(frozen=True)
class TrainingInputs:
    """The datasets of a training, and facts about its inputs."""

    datasets: list[Dataset]
    """For each model"""
    folds: list[Fold]
    """For each model what it has seen"""
    values: list[EventValue]
    """What the models read of an event, beside its item, histories and age"""
    tables: dict[str, EmbeddingMatrix]
    table_rows: dict[str, int]
    vocabulary: pl.Series
    digests: dict[str, Any]
    """Digests of the inputs"""


def read_training(training: Training, mapped: Mapping, watch: Watch, stack: ExitStack) -> TrainingInputs:
    """Read all inputs; data that does not fit into memory is in mapped files until the stack is closed."""
    spec, settings, options = training.spec, training.settings, training.options
    opened = open_all(spec, watch)
    if opened.problems.errors:
        load(opened, watch, sample_layout(opened))
    inputs = opened.complete()
    assert inputs.candidates is not None
    labelled = _labelled(spec, settings, inputs.candidates, watch)
    usable, left_out = labelled.usable(None if settings.until is None else time_us(settings.until))
    cuts = labelled.cuts(usable, settings.folds)
    if cuts[-1] is not None:
        usable &= labelled.times < cuts[-1]
    micro_batch = (
        max(MICRO_BATCH, labelled.largest_group(usable))
        if settings.loss == "softmax"
        else min(MICRO_BATCH, settings.batch_size)
    )
    needs = training_needs(spec, inputs, settings, training.layers, micro_batch, options.workers)
    unscaled = [EventValue(column=target.column, mean=0.0, sd=1.0) for target in spec.targets]
    reading = Reading(histories_of(spec), settings.max_events, unscaled)
    candidates, events = int(np.count_nonzero(usable)), inputs.interactions.rows
    size = dataset_bytes(candidates, events, len(reading.histories), len(unscaled))
    layout = options.layout or training_layout(spec, inputs, options.workers, options.memory, needs, size)
    with digesting(inputs, {}) as digests:
        opened_scratch = stack.enter_context(_scratch(training, layout))
        folder = opened_scratch.folder if opened_scratch else None
        loaded = load(opened, watch, layout, opened_scratch)
        with watch.timing("vectors"):
            of_shared = folder / "shared" if folder and layout.mapped else None
            shared = prepare(spec, inputs.embeddings, loaded.ids, loaded.vocabulary, mapped, of_shared)
        coverage, repeats = Coverage(), 0

        def shards() -> Iterator[Shard]:
            nonlocal repeats
            for index in range(loaded.partition.shards):
                shard = loaded.shard(spec, index)
                coverage.add(shared.coverage(spec, shard))
                end = visible_end(spec, shard.history, shard.candidates)
                repeats += int(np.count_nonzero(sees_own(shard.history, shard.candidates, end)))
                yield shard

        with watch.timing("encode"):
            events = loaded.events.usable
            data, unseen = build_dataset(spec, reading, shards(), labelled, usable, events, folder)
        check_inputs(spec, loaded, coverage, watch)
        watch.warn_of(repeated_items(repeats, coverage.candidates))
        first = cuts[0] if cuts[0] is not None else int(labelled.times[usable].max(initial=0)) + 1
        values = standardize(data.examples, [target.column for target in spec.targets], first)
        datasets = [data.before(cut, labelled.times) for cut in cuts]
        rows = {**unseen, **left_out}
        folds = [_fold(training, labelled, rows, datasets, number) for number in range(len(datasets))]
        if len(folds) > 1 and folds[0].rows["train"] < _FEW_ROWS:
            few = f"{folds[0].rows['train']:,}"
            watch.warning(f"the first of {len(folds)} models learns from {few} candidates only: give fewer --folds")
        if len(folds) == 1 and not (labelled.times > time_us(folds[0].trained_until)).any():
            watch.warning(
                "no candidate is newer than the training candidates, but a ranker needs newer ones: set --until, or "
                "--folds"
            )
        inputs.check_unchanged()  # all inputs are read; a log may grow during the training
        return TrainingInputs(
            datasets,
            folds,
            values,
            {name: shared.by_table[name] for name in spec.embeddings},
            {name: table.rows for name, table in inputs.embeddings.items()},
            loaded.vocabulary.ids,
            digests.result(),
        )


def _fold(
    training: Training, labelled: Labelled, left_out: dict[str, int], datasets: list[Dataset], number: int
) -> Fold:
    """Return what a model has seen; raise if it is not enough to learn from."""
    dataset = datasets[number]
    try:
        check_dataset(dataset, labelled, left_out, inside_groups=training.settings.group is not None)
    except DataError as error:
        if len(datasets) == 1:
            raise
        where = f"--folds {len(datasets)}, model {number + 1}"
        raise DataError(f"{where}: {error} Fewer folds have more rows each") from None
    return Fold(trained_until=time_text(newest_time(dataset, labelled)), rows={**dataset.used, **left_out})


def _labelled(spec: Spec, settings: TrainingSettings, table: Table, watch: Watch) -> Labelled:
    """Return labels, times and requests of all candidates; raise all their problems together."""
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
            times = read_times(table, spec.times("candidates"))
        with problems.collect():
            groups = None if settings.group is None else read_codes(table, "group", settings.group)
    problems.raise_any()
    assert labels is not None
    assert times is not None
    return Labelled(labels, times, groups)


@contextmanager
def _scratch(training: Training, layout: Layout) -> Iterator[Scratch | None]:
    """Yield a folder for shards and mapped arrays if they do not fit; a training resumes from its checkpoint only."""
    with scratch(
        scratch_folder(training.options.scratch or training.output.parent, training.output),
        dict,
        asdict(layout),
        needed=layout.on_disk,
        fits=None,
        note=lambda message: None,
    ) as opened_scratch:
        yield opened_scratch
