"""Training from a spec to a model's folder: the one function that the command calls."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

import extembed_cli
from extembed_cli.arrays import Ints
from extembed_cli.data.commit import locked, staged
from extembed_cli.data.commit import writing as naming
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
from extembed_cli.neural.training.checkpoint import Checkpoint, described, differences
from extembed_cli.neural.training.dataset import histories_of
from extembed_cli.neural.training.fitting import Fitting
from extembed_cli.neural.training.whitening import whitening
from extembed_cli.spec.model import Spec
from extembed_cli.system import signals
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping, threads


def train_job(
    spec: Spec,
    settings: TrainingSettings,
    layers: Layers,
    folder: str,
    how: RunOptions,
    resume: bool,
    watch: Watch,
) -> dict[str, Any]:
    """Train a model on a spec's tables and histories, and commit its folder; returns what came of it."""
    # The tables and histories alone: what the spec computes may need the model that is not there yet.
    spec = spec.with_groups()
    settings = _checked(spec, settings)
    training = Training(spec, settings, layers, Path(folder), how)
    output = training.output
    writing.check_folder(output)
    with locked(output, how.wait), staged() as stage, ExitStack() as stack:
        mapped = stack.enter_context(threads(how.workers))
        _make_deterministic()
        read = read_training(training, mapped, watch, stack)
        architecture = Architecture(
            widths=tuple(table.vectors.shape[1] for table in read.tables.values()),
            histories=len(histories_of(spec)),
            id_buckets=id_bucket_count(layers, len(read.vocabulary)),
            **layers.model_dump(),
        )
        fitting = _fitting(spec, architecture, settings, read, mapped)
        job = described(
            {
                **settings.model_dump(exclude={"epochs", "patience"}),
                **architecture.model_dump(),
                "spec": spec.meaning(),
                "inputs": read.digests,
                "versions": [extembed_cli.__version__, torch.__version__, np.__version__],
            }
        )
        with naming(output):
            stage.folder(output)
            writing.finish(output)
            checkpoint = Checkpoint(output / files.CHECKPOINT, job)
            if resume and not checkpoint.path.exists() and (done := _done(output, settings, job, watch)):
                return done
            if resume:
                checkpoint.restore(fitting, watch)
            elif checkpoint.path.exists():
                watch.note(f"{folder}: starting over; --resume would go on with the training that was stopped")
            _fit(fitting, checkpoint, watch)
            config = ModelConfig(
                version=extembed_cli.__version__,
                architecture=architecture,
                tables=_trained_tables(spec, read),
                histories={name: spec.history(name) for name in histories_of(spec)},
                lag=spec.lag,
                as_of_step=spec.as_of_step,
                settings=settings,
                trained_until=read.trained_until,
                rows=read.rows,
                spec=spec.meaning(),
                job=job,
                weights_sha256="",
            )
            report = writing.write(stage, output, config, fitting)
            stage.obsolete.append(checkpoint.path)
            stage.commit()
    return report


def _done(output: Path, settings: TrainingSettings, job: dict[str, Any], watch: Watch) -> dict[str, Any] | None:
    """What came of the training that is to go on, if it is finished."""
    there = writing.finished(output)
    if there is None:
        return None
    config, report = there
    if others := differences(config.job, job):
        raise SpecError(
            f"{output}: is finished, of another training ({listing(others)}). Name a new folder, or train again "
            "without --resume"
        )
    if config.settings.epochs != settings.epochs:
        watch.note(f"{output}: is finished with --epochs {config.settings.epochs}; starting over")
        return None
    watch.note(f"{output}: is finished already")
    return report


def _make_deterministic() -> None:
    """The same bits at every run on one machine, with any number of workers."""
    torch.set_num_threads(1)  # in each worker: more would change the bits of a sum with their number
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # on a GPU sums have an order only with this
    torch.use_deterministic_algorithms(True)


def _trained_tables(spec: Spec, read: TrainingInputs) -> dict[str, TrainedTable]:
    found = {}
    for name, matrix in read.tables.items():
        options = spec.embeddings[name]
        probed = probes.choose(np.flatnonzero(matrix.with_vector))
        vectors, _ = model_vectors(matrix, options.normalize, probed)
        found[name] = TrainedTable(
            dim=matrix.vectors.shape[1],
            rows=read.table_rows[name],
            sha256=read.digests["embeddings"][name]["sha256"],
            probes=probes.of(read.vocabulary, probed, vectors),
            normalize=options.normalize,
            center=options.center,
        )
    return found


def _checked(spec: Spec, settings: TrainingSettings) -> TrainingSettings:
    """Refuse what cannot be trained; the device by its name."""
    problems = Problems()
    with problems.collect():
        if spec.candidates is None:
            raise SpecError("`candidates` is missing: a model learns from labelled candidates")
    with problems.collect():
        if spec.as_of is not None:
            raise SpecError(
                "as_of: a model learns from candidates with times of their own; leave as_of out of the spec"
            )
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
        kind = torch.device(name).type
        if kind not in {"cpu", "cuda"}:
            raise SpecError(f"--device {name}: models are trained on cpu or cuda; `auto` takes what there is")
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise SpecError(f"--device {name}: there is no such device here; `auto` takes what there is") from None
    return "cpu" if kind == "cpu" else name


def _fitting(spec: Spec, a: Architecture, settings: TrainingSettings, read: TrainingInputs, mapped: Mapping) -> Fitting:
    scaled = [(table, spec.embeddings[name].normalize) for name, table in read.tables.items()]
    buckets = id_buckets(read.vocabulary, a.id_buckets)

    def items(nums: Ints) -> Items:
        return item_block(scaled, buckets, nums)

    torch.manual_seed(settings.seed)
    model = Model(a)
    if a.whiten:
        having = np.flatnonzero(np.all([table.with_vector for table in read.tables.values()], axis=0))
        model.adapter.set_whitening(*whitening(items, having))
    return Fitting(model, read.data, settings, items, len(buckets), mapped)


def _fit(fitting: Fitting, checkpoint: Checkpoint, watch: Watch) -> None:
    """Train until it is finished, saving after every epoch, and when a signal asks to stop."""
    settings, rows = fitting.settings, len(fitting.data.train)
    watch.total(settings.epochs * rows)
    watch.moved(0, len(fitting.epochs) * rows + fitting.now.rows)
    with watch.timing("train") as cost, signals.deferred() as stopping:

        def moved(count: int) -> None:
            now = fitting.now
            last = f", AUC {fitting.epochs[-1].valid_auc:.4f}" if fitting.epochs else ""
            watch.detail(f"epoch {now.epoch + 1}/{settings.epochs}: loss {now.loss / now.rows:.4f}{last}")
            watch.moved(count, count)
            cost.add(rows=count)

        while not fitting.finished and not stopping:
            watch.expect(rows)
            done = fitting.run_epoch(moved, lambda: bool(stopping))
            checkpoint.save(fitting)
            if done:
                epoch = fitting.epochs[-1]
                best = ", best so far" if fitting.now.best == epoch.epoch else ""
                watch.note(
                    f"epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}, of the last by time {epoch.valid_loss:.4f}, "
                    f"AUC {epoch.valid_auc:.4f}, {rows / max(1e-9, epoch.seconds):,.0f} rows/s{best}"
                )
        if stopping:
            watch.note(f"{checkpoint.path.parent}: saved; --resume goes on from here")
