"""The weights of a trained model, from its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from extembed_cli.errors import InputError
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.folder import AGAIN, CONFIG, WEIGHTS, pending
from extembed_cli.neural.model import Model


def read_weights(folder: str, config: ModelConfig) -> bytes:
    """The file of the weights, checked to be that of the config."""
    path = Path(folder) / WEIGHTS
    waiting = pending(Path(folder), config.weights_sha256)
    try:
        # Once more where a training gives the weights their name in between.
        data = _whole(path, config) or _whole(waiting, config) or _whole(path, config)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}. {AGAIN}") from None
    if data is None:
        raise InputError(
            f"{path}: is not the file that {CONFIG} is of: it is missing, was changed, or is torn. {AGAIN}"
        )
    return data


def load_model(folder: str, config: ModelConfig) -> Model:
    """The model with its weights, ready to score."""
    path, data = Path(folder) / WEIGHTS, read_weights(folder, config)
    try:
        tensors = load(data)
        with torch.random.fork_rng(devices=[]):
            model = Model(config.architecture)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit {CONFIG}: {str(error).splitlines()[0]}. {AGAIN}") from None
    return model


def _whole(path: Path, config: ModelConfig) -> bytes | None:
    """The file's bytes, if it is there and of the config."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == config.weights_sha256 else None
