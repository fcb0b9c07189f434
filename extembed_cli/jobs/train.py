"""Train a model from a spec and write its folder: the function that the command calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
import torch

import extembed_cli
from extembed_cli.arrays import Ints
from extembed_cli.data.files.commit import locked, staged
from extembed_cli.data.files.commit import writing as naming
from extembed_cli.errors import Problems, SpecError, listing
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.train_inputs import Training, TrainingInputs, read_training
from extembed_cli.jobs.train_memory import id_bucket_count
from extembed_cli.neural import folder as files
from extembed_cli.neural import probes
from extembed_cli.neural.config import Architecture, Layers, ModelConfig, TrainedTable, TrainingSettings
from extembed_cli.neural.items import id_buckets, item_block, model_vectors
from extembed_cli.neural.model import Items, Model
from extembed_cli.neural.training import writing
from extembed_cli.neural.training.checkpoint import Checkpoint, describe_job, differences
from extembed_cli.neural.training.dataset import histories_of
from extembed_cli.neural.training.trainer import Trained, Trainer
from extembed_cli.neural.training.whitening import whitening
from extembed_cli.spec.groups import NeuralGroup
from extembed_cli.spec.model import Spec
from extembed_cli.system import signals
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping, threads


def train_job(
    spec: Spec,
    settings: TrainingSettings,
    layers: Layers,
    folder: str,
    options: RunOptions,
    resume: bool,
    watch: Watch,
) -> dict[str, Any]:
    """Train a model on the tables and histories of a spec, commit its folder, and return the training report."""
    # Without groups: a [[neural]] group may need the model that is not trained yet.
    spec = spec.for_training(group_of(spec, folder))
    settings = _checked(spec, settings)
    training = Training(spec, settings, layers, Path(folder), options)
    output = training.output
    writing.check_folder(output)
    with locked(output, options.wait), staged() as stage, ExitStack() as stack:
        mapped = stack.enter_context(threads(options.workers))
        _make_deterministic()
        inputs = read_training(training, mapped, watch, stack)
        architecture = Architecture(
            widths=tuple(table.vectors.shape[1] for table in inputs.tables.values()),
            histories=len(histories_of(spec)),
            values=len(inputs.values),
            id_buckets=id_bucket_count(layers, len(inputs.vocabulary)),
            **layers.model_dump(),
        )

        def make(fold: int) -> Trainer:
            return _trainer(spec, architecture, settings, inputs, fold, mapped)

        job = describe_job(
            {
                **settings.model_dump(exclude={"epochs", "patience"}),
                **architecture.model_dump(),
                "spec": spec.meaning(),
                "values": [target.column for target in spec.targets],
                "inputs": inputs.digests,
                "versions": [extembed_cli.__version__, torch.__version__, np.__version__],
            }
        )
        with naming(output):
            stage.folder(output)
            writing.recover(output)
            checkpoint = Checkpoint(output / files.CHECKPOINT, job)
            if resume and not checkpoint.path.exists() and (report := _finished(output, settings, job, watch)):
                return report
            done: list[Trained] = []
            if resume:
                done, trainer = checkpoint.restore(make, watch)
            else:
                if checkpoint.path.exists():
                    watch.note(f"{folder}: starting over; use --resume to resume the stopped training")
                trainer = make(0)
            models = _fit_all(make, done, trainer, checkpoint, len(inputs.folds), watch)
            config = ModelConfig(
                version=extembed_cli.__version__,
                architecture=architecture,
                tables=_trained_tables(spec, inputs),
                histories={name: spec.history(name) for name in histories_of(spec)},
                values=tuple(inputs.values),
                lag=spec.lag,
                as_of_step=spec.as_of_step,
                settings=settings,
                folds=tuple(inputs.folds),
                spec=spec.meaning(),
                job=job,
                weights_sha256="",
            )
            report = writing.stage_models(stage, output, config, models)
            stage.obsolete.append(checkpoint.path)
            stage.commit()
    return report


def group_of(spec: Spec, folder: str) -> NeuralGroup | None:
    """Return the group of the spec that a model is for: that of its folder, or the only one."""
    groups = spec.of(NeuralGroup)
    of_folder = [group for group in groups if normpath(group.model) == normpath(Path(folder).absolute())]
    if not of_folder and len(groups) > 1 and any(group.values for group in groups):
        folders = ", ".join(group.model for group in groups)
        raise SpecError(
            f"--model {folder}: no [[neural]] group has this folder, so its `values` are not known. The groups have "
            f"{folders}"
        )
    return next(iter(of_folder or (groups if len(groups) == 1 else ())), None)


def _finished(output: Path, settings: TrainingSettings, job: dict[str, Any], watch: Watch) -> dict[str, Any] | None:
    """Return the report of the training if it is finished already; raise if the folder has another training."""
    finished = writing.read_finished(output)
    if finished is None:
        return None
    config, report = finished
    if different := differences(config.job, job):
        raise SpecError(
            f"{output}: belongs to another training ({listing(different)}), which is finished. Name a new folder, or "
            "train again without --resume"
        )
    if config.settings.epochs != settings.epochs:
        watch.note(f"{output}: is finished with --epochs {config.settings.epochs}; starting over")
        return None
    watch.note(f"{output}: is finished already")
    return report


def _make_deterministic() -> None:
    """Set torch to return the same bits in every run on one machine, with any number of workers."""
    torch.set_num_threads(1)  # in each worker: the number of threads would change the bits of a sum
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # on a GPU only this fixes the order of sums
    torch.use_deterministic_algorithms(True)


def _trained_tables(spec: Spec, inputs: TrainingInputs) -> dict[str, TrainedTable]:
    trained = {}
    for name, matrix in inputs.tables.items():
        options = spec.embeddings[name]
        probed_items = probes.choose(np.flatnonzero(matrix.with_vector))
        vectors, _ = model_vectors(matrix, options.normalize, probed_items)
        trained[name] = TrainedTable(
            dim=matrix.vectors.shape[1],
            rows=inputs.table_rows[name],
            sha256=inputs.digests["embeddings"][name]["sha256"],
            probes=probes.of(inputs.vocabulary, probed_items, vectors),
            normalize=options.normalize,
            center=bool(options.center),
        )
    return trained


def _checked(spec: Spec, settings: TrainingSettings) -> TrainingSettings:
    """Return the settings with the device resolved; raise if the spec or the settings do not allow a training."""
    problems = Problems()
    with problems.collect():
        if spec.candidates is None:
            raise SpecError("`candidates` is missing: a model learns from labelled candidates")
    with problems.collect():
        if spec.as_of is not None:
            raise SpecError("as_of: a model learns from candidates with their own times; leave as_of out of the spec")
    with problems.collect():
        if settings.loss == "softmax" and settings.group is None:
            raise SpecError("--loss softmax: needs --group, the column that the candidates of one request share")
    device = settings.device
    with problems.collect():
        device = _device(device)
    problems.raise_any()
    return settings.model_copy(update={"device": device})


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device_type = torch.device(name).type
        if device_type not in {"cpu", "cuda"}:
            raise SpecError(f"--device {name}: models are trained on cpu or cuda; `auto` uses cuda if there is one")
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise SpecError(f"--device {name}: there is no such device; `auto` uses cuda if there is one") from None
    return "cpu" if device_type == "cpu" else name


def _trainer(
    spec: Spec, a: Architecture, settings: TrainingSettings, inputs: TrainingInputs, fold: int, mapped: Mapping
) -> Trainer:
    tables = [(table, spec.embeddings[name].normalize) for name, table in inputs.tables.items()]
    buckets = id_buckets(inputs.vocabulary, a.id_buckets)

    def items(nums: Ints) -> Items:
        return item_block(tables, buckets, nums)

    torch.manual_seed(settings.seed)
    model = Model(a)
    if a.whiten:
        complete = np.flatnonzero(np.all([table.with_vector for table in inputs.tables.values()], axis=0))
        model.adapter.set_whitening(*whitening(items, complete))
    return Trainer(model, inputs.datasets[fold], settings, items, len(buckets), mapped)


def _fit_all(
    make: Callable[[int], Trainer],
    done: list[Trained],
    trainer: Trainer,
    checkpoint: Checkpoint,
    folds: int,
    watch: Watch,
) -> list[Trained]:
    """Train the models one after the other, from the one that `trainer` is in."""
    while True:
        _fit(done, trainer, checkpoint, watch)
        done.append(trainer.trained)
        if len(done) == folds:
            return done
        trainer = make(len(done))
        checkpoint.save(done, trainer)


def _fit(done: list[Trained], trainer: Trainer, checkpoint: Checkpoint, watch: Watch) -> None:
    """Train until it is finished; save a checkpoint after every epoch and on a signal to stop."""
    settings, rows = trainer.settings, len(trainer.data.train)
    place = f"model {len(done) + 1}/{settings.folds}, " if settings.folds > 1 else ""
    watch.total(settings.epochs * rows)
    watch.moved(0, len(trainer.epochs) * rows + trainer.now.rows)
    with watch.timing("train") as cost, signals.deferred() as stopping:

        def moved(count: int) -> None:
            now = trainer.now
            auc = f", AUC {trainer.epochs[-1].valid_auc:.4f}" if trainer.epochs else ""
            watch.detail(f"{place}epoch {now.epoch + 1}/{settings.epochs}: loss {now.loss / now.rows:.4f}{auc}")
            watch.moved(count, count)
            cost.add(rows=count)

        while not trainer.finished and not stopping:
            watch.expect(rows)
            ended = trainer.run_epoch(moved, lambda: bool(stopping))
            checkpoint.save(done, trainer)
            if ended:
                epoch = trainer.epochs[-1]
                best = ", best so far" if trainer.now.best == epoch.epoch else ""
                watch.note(
                    f"{place}epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}; early stopping rows: loss "
                    f"{epoch.valid_loss:.4f}, AUC {epoch.valid_auc:.4f}; "
                    f"{rows / max(1e-9, epoch.seconds):,.0f} rows/s{best}"
                )
        if stopping:
            watch.note(f"{checkpoint.path.parent}: saved; --resume continues from here")
