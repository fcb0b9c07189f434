"""The weights of a trained model, from its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from extembed_cli.errors import InputError, first_line
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.folder import CONFIG, RESTORE_HINT, WEIGHTS, pending_weights
from extembed_cli.neural.model import Model


def read_weights(folder: str, config: ModelConfig) -> bytes:
    """Return the bytes of the weights file; raise if it is not the one that the config names."""
    path = Path(folder) / WEIGHTS
    waiting = pending_weights(Path(folder), config.weights_sha256)
    try:
        # The last read finds weights that a training renamed in between.
        data = _whole(path, config) or _whole(waiting, config) or _whole(path, config)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}. {RESTORE_HINT}") from None
    if data is None:
        raise InputError(
            f"{path}: is not the file that {CONFIG} names: it is missing, was changed or is torn. {RESTORE_HINT}"
        )
    return data


def load_models(folder: str, config: ModelConfig) -> list[Model]:
    """Return the models with their weights, ready to score, oldest first."""
    path, data = Path(folder) / WEIGHTS, read_weights(folder, config)
    models = []
    try:
        tensors = load(data)
        _check_shapes(config, tensors)
        for fold in range(len(config.folds)):
            with torch.random.fork_rng(devices=[]):
                models.append(Model(config.architecture))
            prefix = f"{fold}."
            models[-1].load_state_dict(
                {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
            )
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit {CONFIG}: {first_line(error)}. {RESTORE_HINT}") from None
    return models


def _check_shapes(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Raise RuntimeError if the config describes larger models than the file has, before memory is taken for them."""
    if not len(config.folds) <= len(tensors) or config.architecture.layers > len(tensors):
        raise RuntimeError("fewer tensors than models or layers")
    with torch.device("meta"):
        skeleton = Model(config.architecture).state_dict()
    for fold in range(len(config.folds)):
        for name, each in skeleton.items():
            there = tensors.get(f"{fold}.{name}")
            if there is None or there.shape != each.shape:
                raise RuntimeError(f"{fold}.{name} is missing or has another shape")


def _whole(path: Path, config: ModelConfig) -> bytes | None:
    """Return the bytes of the file if it exists and is the one that the config names."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == config.weights_sha256 else None
