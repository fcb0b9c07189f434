"""Training from a spec to a model's folder: the one function that the command calls."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

import extembed_cli
from extembed_cli import signals
from extembed_cli.data.commit import Staged, locked, remove_leftovers, staged, writing
from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.data.inputs import Inputs
from extembed_cli.data.roles import read_codes, read_labels, read_times
from extembed_cli.data.scratch import Scratch, scratch
from extembed_cli.data.tables import Table
from extembed_cli.engines import local
from extembed_cli.errors import Problems, ResourceError, SpecError, listing
from extembed_cli.features.neural_scores import id_buckets, item_block
from extembed_cli.features.shard import prepare
from extembed_cli.job import RunOptions, digesting, load, open_all
from extembed_cli.neural import folder as files
from extembed_cli.neural.checkpoint import Checkpoint
from extembed_cli.neural.config import Architecture, ModelConfig, TrainedTable, TrainingSettings
from extembed_cli.neural.curves import page
from extembed_cli.neural.dataset import Dataset, Labelled, build, check, newest
from extembed_cli.neural.fitting import Fitting
from extembed_cli.neural.model import Items, Model
from extembed_cli.neural.whitening import whitening
from extembed_cli.plan import Layout, layout, sample
from extembed_cli.spec import ALL, Spec, time_us
from extembed_cli.watch import Watch

Ints = NDArray[np.int64]

# What was measured: libraries, and those of them that a run does not have; numbers for each of an event, of 11 to 22.
_BYTES_FOR_LIBRARIES, _BEYOND_A_RUN = 400 * 2**20, 280 * 2**20
_FLOATS_PER_NUMBER = 25
_COPIES = 8  # of the weights: gradient, two of Adam, the best, and a checkpoint of them
_FEWEST_BUCKETS, _MOST_BUCKETS = 2**10, 2**20


def train_job(
    spec: Spec,
    settings: TrainingSettings,
    layers: dict[str, Any],
    ids: bool,
    folder: str,
    how: RunOptions,
    resume: bool,
    watch: Watch,
) -> dict[str, Any]:
    """Train a model on a spec's tables and histories, and commit its folder; returns what came of it.

    `layers` are fields of the architecture; with `ids` the model learns a vector for each item id as well.
    """
    # The tables and histories alone: what the spec computes may need the model that is not there yet.
    spec = spec.model_copy(update={"aggregate": (), "dual": (), "neural": (), "output": None})
    settings = _checked(spec, settings)
    output = Path(folder)
    _check_folder(output)
    with locked(output, how.wait), staged() as stage, ExitStack() as stack:
        problems = Problems()
        opened = open_all(spec, watch, problems)
        if problems.errors:
            load(spec, watch, opened, problems, sample(opened))
        inputs = opened.complete(spec)
        assert inputs.candidates is not None
        labelled = _labelled(spec, settings, inputs.candidates, watch)
        usable, left_out = labelled.usable(None if settings.until is None else time_us(settings.until))
        digests = stack.enter_context(digesting(inputs, {}, {}))
        batch = _check_memory(settings, layers["dim"], 0, how.memory)
        left = None if how.memory is None else how.memory - _BEYOND_A_RUN - batch
        cut = how.cut or layout(spec, inputs, how.workers, left)
        place = stack.enter_context(_scratch(how, output, cut))
        mapped = stack.enter_context(local.threads(how.workers))
        _make_deterministic(how.workers)
        loaded = load(spec, watch, opened, problems, Layout(**place.cut) if place else cut, place)
        with watch.timing("vectors"):
            where = place.folder if place else None
            shared = prepare(spec, inputs.embeddings, loaded.ids, loaded.vocabulary, mapped, where)
        histories = tuple(spec.histories) or (ALL,)
        with watch.timing("encode"):
            data, rows = build(
                spec,
                list(histories),
                settings.max_events,
                (loaded.shard(spec, index) for index in range(loaded.partition.shards)),
                labelled,
                usable,
                loaded.log.usable,
                where,
            )
        check(data, inside_groups=settings.loss == "softmax")
        inputs.check_unchanged()  # all of it is read; a log may grow while the model learns
        tables = [shared.embeddings[name] for name in spec.embeddings]
        architecture = Architecture(
            widths=tuple(table.vectors.shape[1] for table in tables),
            histories=len(histories),
            id_buckets=_buckets(len(loaded.vocabulary)) if ids else 0,
            **layers,
        )
        _check_memory(settings, architecture.dim, architecture.id_buckets, how.memory)
        scaled = [(table, options.normalize) for table, options in zip(tables, spec.embeddings.values(), strict=True)]
        buckets = id_buckets(loaded.vocabulary, architecture.id_buckets)
        fitting = _fitting(architecture, settings, data, scaled, buckets)
        job = {
            "settings": settings.model_dump(exclude={"epochs", "patience"}),
            "model": architecture.model_dump(),
            "spec": spec.meaning(),
            "inputs": digests.result(),
            "workers": how.workers,  # torch divides sums among them
            "versions": [extembed_cli.__version__, torch.__version__, np.__version__],
        }
        with writing(output):
            stage.folder(output)
            for name in files.FILES:
                remove_leftovers(output / name)
            checkpoint = Checkpoint(output / files.CHECKPOINT, job)
            if resume:
                checkpoint.restore(fitting, watch)
            elif checkpoint.path.exists():
                watch.note(f"{folder}: starting over; --resume would go on with the training that was stopped")
            _fit(fitting, checkpoint, watch)
            config = ModelConfig(
                version=extembed_cli.__version__,
                architecture=architecture,
                tables=_trained_tables(spec, tables, inputs, digests.result()),
                histories={name: spec.history(name) for name in histories},
                lag=spec.lag,
                as_of_step=spec.as_of_step,
                settings=settings,
                trained_until=newest(data, labelled),
                rows={**rows, **left_out},
                spec=spec.meaning(),
                weights_sha256="",
            )
            report = _write(stage, output, config, fitting)
            stage.obsolete.append(checkpoint.path)
            stage.commit()
    return report


def _make_deterministic(workers: int) -> None:
    """The same bits at every run with so many threads."""
    torch.set_num_threads(workers)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # on a GPU sums have an order only with this
    torch.use_deterministic_algorithms(True)


def _trained_tables(
    spec: Spec, tables: list[EmbeddingMatrix], inputs: Inputs, digests: dict[str, Any]
) -> dict[str, TrainedTable]:
    return {
        name: TrainedTable(
            dim=matrix.vectors.shape[1],
            rows=inputs.embeddings[name].rows,
            sha256=digests["embeddings"][name]["sha256"],
            normalize=spec.embeddings[name].normalize,
            center=spec.embeddings[name].center,
        )
        for name, matrix in zip(spec.embeddings, tables, strict=True)
    }


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
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"--device {name}: {str(error).splitlines()[0]}; `auto` takes what there is") from None
    return name


def _check_folder(output: Path) -> None:
    """Refuse a folder that holds something else, such as a model that is not ours."""
    if not output.exists():
        return
    if not output.is_dir():
        raise SpecError(f"{output}: is a file; a model is a folder")
    stems = {Path(name).stem for name in files.FILES}
    others = [path.name for path in output.iterdir() if path.name.lstrip(".").split(".")[0] not in stems]
    if not others and not files.is_ours(output):
        others = [files.CONFIG]
    if others:
        raise SpecError(f"{output}: this folder holds something else ({listing(sorted(others))}); name a new one")


def _labelled(spec: Spec, settings: TrainingSettings, table: Table, watch: Watch) -> Labelled:
    """Labels, times and requests of all candidates; what is wrong with them is told together."""
    labels = times = groups = None
    problems = Problems()
    with watch.timing("read"):
        for flag, name in {"--label": settings.label, "--group": settings.group}.items():
            with problems.collect():
                if name is not None:
                    table.require({name: f". {flag} names a column of the candidates"})
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
def _scratch(how: RunOptions, output: Path, cut: Layout) -> Iterator[Scratch | None]:
    """A folder for shards and mapped arrays, where they do not fit: a training goes on from its checkpoint instead."""
    with scratch(
        how.scratch or output.parent,
        output,
        dict,
        asdict(cut),
        needed=cut.on_disk,
        fits=lambda old: False,
        fresh=True,
        note=lambda message: None,
    ) as place:
        yield place


def _buckets(items: int) -> int:
    """Four for each item, so that few share one."""
    return int(min(_MOST_BUCKETS, max(_FEWEST_BUCKETS, 2 ** int(np.ceil(np.log2(4 * max(1, items)))))))


def _check_memory(settings: TrainingSettings, dim: int, id_buckets: int, memory: int | None) -> int:
    """Refuse what does not fit; the bytes of a batch and of the ids' vectors."""
    numbers = settings.batch_size * settings.max_events * dim * _FLOATS_PER_NUMBER + _COPIES * id_buckets * dim
    if memory is not None and _BYTES_FOR_LIBRARIES + 4 * numbers > memory:
        ids = f", {id_buckets:,} vectors of ids" if id_buckets else ""
        needed = (_BYTES_FOR_LIBRARIES + 4 * numbers) / 2**20
        raise ResourceError(
            f"a batch of {settings.batch_size} candidates with {settings.max_events} events{ids} and the libraries "
            f"need about {needed:,.0f} MiB, and {memory / 2**20:,.0f} MiB may be used. Raise --memory, or lower "
            "--batch-size, --max-events or --dim"
        )
    return 4 * numbers


def _fitting(
    a: Architecture,
    settings: TrainingSettings,
    data: Dataset,
    tables: list[tuple[EmbeddingMatrix, bool]],
    buckets: Ints,
) -> Fitting:
    def items(nums: Ints) -> Items:
        return item_block(tables, buckets, nums)

    torch.manual_seed(settings.seed)
    model = Model(a)
    if a.whiten:
        having = np.flatnonzero(np.all([table.with_vector for table, _ in tables], axis=0))
        model.adapter.set_whitening(*whitening(items, having))
    return Fitting(model, data, settings, items, len(buckets))


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
                best = " *" if fitting.now.best == epoch.epoch else ""
                watch.note(
                    f"epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}, of the last by time {epoch.valid_loss:.4f}, "
                    f"AUC {epoch.valid_auc:.4f}, {rows / max(1e-9, epoch.seconds):,.0f} rows/s{best}"
                )
        if stopping:
            watch.note(f"{checkpoint.path.parent}: saved; --resume goes on from here")


def _write(stage: Staged, output: Path, config: ModelConfig, fitting: Fitting) -> dict[str, Any]:
    """Stage the files of the folder; what came of the training."""
    weights = save(fitting.best)
    config = config.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    best = fitting.epochs[fitting.now.best]
    report = {
        "model": str(output),
        "version": config.version,
        "encoder": config.architecture.encoder,
        "trained_until": config.trained_until,
        "rows": config.rows,
        "parameters": sum(parameter.numel() for parameter in fitting.parameters),
        "best_epoch": best.epoch + 1,
        "valid_loss": best.valid_loss,
        "valid_auc": best.valid_auc,
        "seconds": round(sum(epoch.seconds for epoch in fitting.epochs), 3),
        "weights_sha256": config.weights_sha256,
    }
    stage.temporary(output / files.WEIGHTS).write_bytes(weights)
    epochs = [{**asdict(epoch), "epoch": epoch.epoch + 1} for epoch in fitting.epochs]
    stage.json(output / files.METRICS, {**report, "model": output.name, "epochs": epochs})
    stage.temporary(output / files.CURVES).write_text(page(config, fitting.epochs, best.epoch), encoding="utf-8")
    stage.json(output / files.CONFIG, files.config_json(config))
    return {**report, "epochs": epochs}
