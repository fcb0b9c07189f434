"""A model's folder as a training writes it: the old model stands until the new one is whole."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save

from extembed_cli.data.commit import Staged, file_digest, matching, remove_leftovers
from extembed_cli.errors import InputError, SpecError, listing
from extembed_cli.neural import folder as files
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.training.curves import page
from extembed_cli.neural.training.fitting import Fitting

_PENDING = rf"\.{re.escape(files.WEIGHTS)}\.[0-9a-f]{{64}}\.tmp"


def check_folder(output: Path) -> None:
    """Refuse a folder that holds something else, such as a model that is not ours."""
    if not output.exists():
        return
    if not output.is_dir():
        raise SpecError(f"{output}: is a file; a model is a folder")
    names = "|".join(re.escape(name) for name in files.FILES)
    there = {path.name for path in output.iterdir()}
    others = {name for name in there if not re.fullmatch(rf"{names}|\.({names})\.[0-9a-f]+\.tmp", name)}
    if not files.is_ours(output):  # nothing but a checkpoint stands without a config
        others |= there & (files.FILES - {files.CHECKPOINT})
    if others:
        raise SpecError(f"{output}: this folder holds something else ({listing(sorted(others))}); name a new one")


def finish(folder: Path) -> None:
    """Finish what a killed training left: its weights get their name if the config is theirs; all else goes."""
    for name in files.FILES:
        remove_leftovers(folder / name)
    for path in matching(folder, _PENDING):
        with suppress(InputError):
            if file_digest(path) == files.read_config(str(folder)).weights_sha256:
                path.replace(folder / files.WEIGHTS)
        path.unlink(missing_ok=True)


def finished(folder: Path) -> tuple[ModelConfig, dict[str, Any]] | None:
    """The config of the model that is there, and what came of its training; None where not all of that is."""
    try:
        config = files.read_config(str(folder))
        report = json.loads((folder / files.METRICS).read_text(encoding="utf-8"))
    except (InputError, OSError, ValueError):
        return None
    whole = (folder / files.CURVES).exists() and report.get("weights_sha256") == config.weights_sha256
    return (config, {**report, "model": str(folder)}) if whole else None


def write(stage: Staged, output: Path, config: ModelConfig, fitting: Fitting) -> dict[str, Any]:
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
    stage.json(output / files.CONFIG, files.config_json(config))
    waiting = files.pending(output, config.weights_sha256)
    stage.temporary(output / files.WEIGHTS, waiting).write_bytes(weights)
    epochs = [{**asdict(epoch), "epoch": epoch.epoch + 1} for epoch in fitting.epochs]
    stage.json(output / files.METRICS, {**report, "model": output.name, "epochs": epochs})
    stage.temporary(output / files.CURVES).write_text(page(config, fitting.epochs, best.epoch), encoding="utf-8")
    return {**report, "epochs": epochs}
