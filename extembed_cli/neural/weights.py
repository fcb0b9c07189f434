"""The weights of a trained model, from its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from extembed_cli.errors import InputError
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


def load_model(folder: str, config: ModelConfig) -> Model:
    """Return the model with its weights, ready to score."""
    path, data = Path(folder) / WEIGHTS, read_weights(folder, config)
    try:
        tensors = load(data)
        with torch.random.fork_rng(devices=[]):
            model = Model(config.architecture)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit {CONFIG}: {str(error).splitlines()[0]}. {RESTORE_HINT}") from None
    return model


def _whole(path: Path, config: ModelConfig) -> bytes | None:
    """Return the bytes of the file if it exists and is the one that the config names."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == config.weights_sha256 else None
