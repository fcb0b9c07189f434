"""Write the folder of a model; the old model stays valid until the new one is complete."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save

from extembed_cli.data.files.commit import Staged, file_digest, matching, remove_leftovers
from extembed_cli.errors import InputError, SpecError, listing
from extembed_cli.json_files import parsed
from extembed_cli.neural import folder as files
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.training.curves import page
from extembed_cli.neural.training.trainer import Trained

_PENDING = rf"\.{re.escape(files.WEIGHTS)}\.[0-9a-f]{{64}}\.tmp"


def check_folder(output: Path) -> None:
    """Raise if the folder holds other files, such as a model of another library."""
    if not output.exists():
        return
    if not output.is_dir():
        raise SpecError(f"{output}: is a file, but a model is a folder. Name a folder")
    names = "|".join(re.escape(name) for name in files.FILES)
    present = {path.name for path in output.iterdir()}
    foreign = {name for name in present if not re.fullmatch(rf"{names}|\.({names})\.[0-9a-f]+\.tmp", name)}
    if not files.is_ours(output):  # without a config of ours only a checkpoint can be ours
        foreign |= present & (files.FILES - {files.CHECKPOINT})
    if foreign:
        raise SpecError(f"{output}: this folder has other files ({listing(sorted(foreign))}); name a new one")


def recover(folder: Path) -> None:
    """Clean up after a killed training: rename weights that the config names, and remove all other leftovers."""
    for name in files.FILES:
        remove_leftovers(folder / name)
    for path in matching(folder, _PENDING):
        with suppress(InputError):
            if file_digest(path) == files.read_config(str(folder)).weights_sha256:
                path.replace(folder / files.WEIGHTS)
        path.unlink(missing_ok=True)


def read_finished(folder: Path) -> tuple[ModelConfig, dict[str, Any]] | None:
    """Return the config and the training report of the model in the folder; None if it is not complete."""
    try:
        config = files.read_config(str(folder))
        report = parsed((folder / files.METRICS).read_bytes())
    except (InputError, OSError, ValueError):
        return None
    complete = (folder / files.CURVES).exists() and report.get("weights_sha256") == config.weights_sha256
    return (config, {**report, "model": str(folder)}) if complete else None


def stage_models(stage: Staged, output: Path, config: ModelConfig, models: list[Trained]) -> dict[str, Any]:
    """Stage the files of the folder and return the training report."""
    tensors = {f"{fold}.{name}": each for fold, model in enumerate(models) for name, each in model.weights.items()}
    weights = save(tensors)
    config = config.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    folds = [{**fold.model_dump(), **_metrics(model)} for fold, model in zip(config.folds, models, strict=True)]
    newest = folds[-1]
    report = {
        "model": str(output),
        "version": config.version,
        "encoder": config.architecture.encoder,
        "values": [value.column for value in config.values],
        **{key: newest[key] for key in ("trained_until", "rows", "best_epoch", "valid_loss", "valid_auc")},
        "parameters": sum(tensor.numel() for tensor in models[-1].weights.values()),
        "seconds": round(sum(epoch.seconds for model in models for epoch in model.epochs), 3),
        "weights_sha256": config.weights_sha256,
        "folds": folds,
    }
    stage.json(output / files.CONFIG, files.config_json(config))
    pending = files.pending_weights(output, config.weights_sha256)
    stage.temporary(output / files.WEIGHTS, pending).write_bytes(weights)
    stage.json(output / files.METRICS, {**report, "model": output.name})
    stage.temporary(output / files.CURVES).write_text(page(config, models), encoding="utf-8")
    return report


def _metrics(model: Trained) -> dict[str, Any]:
    """Return the metrics of the best epoch, and of all."""
    best = model.epochs[model.best]
    return {
        "best_epoch": best.epoch + 1,
        "valid_loss": best.valid_loss,
        "valid_auc": best.valid_auc,
        "epochs": [{**asdict(epoch), "epoch": epoch.epoch + 1} for epoch in model.epochs],
    }
