"""The weights of a trained model, from its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from extembed_cli.errors import InputError
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.folder import AGAIN, CHECKPOINT, CONFIG, WEIGHTS
from extembed_cli.neural.model import Model


def load_model(folder: str, config: ModelConfig) -> Model:
    """The model with its weights, ready to score."""
    path = Path(folder) / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}. {AGAIN}") from None
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        killed = (Path(folder) / CHECKPOINT).exists()
        fix = "A training was killed while it wrote: `neural train --resume` finishes it" if killed else AGAIN
        raise InputError(f"{path}: is not the file that {CONFIG} is of: it was changed, or is torn. {fix}")
    try:
        tensors = load(data)
        with torch.random.fork_rng(devices=[]):
            model = Model(config.architecture)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: does not fit {CONFIG}: {str(error).splitlines()[0]}. {AGAIN}") from None
    return model.eval()
