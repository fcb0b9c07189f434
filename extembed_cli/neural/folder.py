"""A model's folder: `config.json`, `model.safetensors`, and what its training looked like. Nothing of it is pickled."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from extembed_cli.errors import InputError, Problems, SpecError, listing
from extembed_cli.neural.config import ModelConfig
from extembed_cli.spec.model import HistorySpec, Spec

CONFIG, WEIGHTS, METRICS, CURVES = "config.json", "model.safetensors", "metrics.json", "training.html"
CHECKPOINT = "checkpoint.safetensors"
"""Of a training that is not done."""
FILES = {CONFIG, WEIGHTS, METRICS, CURVES, CHECKPOINT}
_CHECKSUM = "checksum"
AGAIN = "Restore the folder, or train again"
"""How to mend a folder that was changed."""


def need_extra(*modules: str) -> None:
    """Refuse to go on without the extra."""
    missing = [name for name in ("torch", "safetensors", *modules) if find_spec(name) is None]
    if missing:
        raise SpecError(f"neural models need {listing(missing)}: pip install 'extembed[neural]'")


def config_json(config: ModelConfig) -> dict[str, Any]:
    """As it is written, with a checksum over the rest."""
    data = config.model_dump(mode="json")
    return {**data, _CHECKSUM: _checksum(data)}


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def is_ours(folder: Path) -> bool:
    """Whether the config in the folder is one of ours, whole or damaged; other libraries have files of that name."""
    data = (folder / CONFIG).read_bytes() if (folder / CONFIG).exists() else b""
    return _CHECKSUM.encode() in data and b"weights_sha256" in data


def read_config(folder: str) -> ModelConfig:
    """The config of a trained model; a folder that is none, or was changed, is told."""
    path = Path(folder) / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        checksum = data.pop(_CHECKSUM)
        config = ModelConfig.model_validate(data)
    except (FileNotFoundError, NotADirectoryError):
        unfinished = (Path(folder) / CHECKPOINT).exists()
        hint = "its training is not done: go on with --resume" if unfinished else "`extembed neural train` makes one"
        raise InputError(f"{folder}: no trained model in it ({CONFIG} is missing); {hint}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        told = (
            f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}" if isinstance(error, ValidationError) else error
        )
        raise InputError(f"{path}: cannot be read as the config of a model of this version ({told}). {AGAIN}") from None
    if checksum != _checksum(data):
        raise InputError(f"{path}: was changed since it was written. {AGAIN}")
    return config


def pending(folder: Path, weights_sha256: str) -> Path:
    """Where weights wait until their config has its name: with that a new model is there, whatever comes in between."""
    return folder / f".{WEIGHTS}.{weights_sha256}.tmp"


def check_fits(folder: str, config: ModelConfig, spec: Spec) -> None:
    """The spec has to have the tables and histories of the model, defined as they were."""
    problems = Problems()

    def refuse(what: str) -> None:
        problems.errors.append(
            SpecError(f"{folder}: {what}. Make the spec as it was when the model was trained, or train again")
        )

    for name, table in config.tables.items():
        if name not in spec.embeddings:
            refuse(f"the model reads the embedding table `{name}`, which the spec does not have")
            continue
        options = spec.embeddings[name]
        for option in ("normalize", "center"):
            if getattr(options, option) != getattr(table, option):
                refuse(f"the model was trained with embeddings.{name}.{option} = {getattr(table, option)!s}".lower())
    for name, history in config.histories.items():
        if name not in {"all", *spec.histories}:
            refuse(f"the model reads the history `{name}`, which the spec does not have")
        elif spec.history(name) != history:
            refuse(
                f"the model was trained with histories.{name} = {_written(history)}, not {_written(spec.history(name))}"
            )
    for key in ("lag", "as_of_step"):
        if getattr(spec, key) != getattr(config, key):
            refuse(f"the model was trained with {key} = {getattr(config, key)}, not {getattr(spec, key)}")
    problems.raise_any()


def _written(history: HistorySpec) -> str:
    return json.dumps(history.model_dump(exclude_none=True))


def check_dim(folder: str, config: ModelConfig, name: str, dim: int) -> None:
    """The vectors of a table have to be as long as they were."""
    if dim != config.tables[name].dim:
        raise SpecError(
            f"{folder}: the model was trained on vectors of length {config.tables[name].dim} in `{name}`, which has "
            f"{dim} now. Name that table, or train again"
        )
