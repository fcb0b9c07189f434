"""The state of a training between two steps as one file, from which --resume continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from extembed_cli.data.files.commit import replace_bytes
from extembed_cli.errors import InputError, SpecError, first_line, listing
from extembed_cli.json_files import parsed
from extembed_cli.neural.training.trainer import Epoch, Trained, Trainer
from extembed_cli.system.progress import Watch

_CHECKSUM = "checksum"
_SCALAR = str | int | float | bool | None
_DIGEST, _DONE = "sha256:", "done."


class Checkpoint:
    """A file of the tensors of a training, with its job, its progress and a checksum in the metadata."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path, self.job = path, job

    def save(self, done: list[Trained], trainer: Trainer) -> None:
        """Replace the file with the finished models and the state of the one in training."""
        tensors, rest = trainer.state()
        for fold, model in enumerate(done):
            tensors |= {f"{_DONE}{fold}.{name}": tensor for name, tensor in model.weights.items()}
        finished = [{"epochs": [asdict(epoch) for epoch in model.epochs], "best": model.best} for model in done]
        rest = {"job": self.job, "done": finished, "epochs_of_done": trainer.settings.epochs, **rest}
        state = json.dumps({**rest, _CHECKSUM: _checksum(tensors, rest)})
        replace_bytes(self.path, save(tensors, {"state": state}))

    def restore(self, make: Callable[[int], Trainer], watch: Watch) -> tuple[list[Trained], Trainer]:
        """Return the finished models and the trainer of the next one in their saved state.

        `make` returns the trainer of a fold. Raises if the file is of another job or damaged.
        """
        done: list[Trained] = []
        if not self.path.exists():
            watch.note(f"{self.path.parent}: no training to resume; starting one")
            return done, make(0)
        try:
            with safe_open(self.path, framework="pt") as opened:
                state = parsed(opened.metadata()["state"])
            checksum, tensors = state.pop(_CHECKSUM), load_file(self.path)
            if checksum != _checksum(tensors, state):
                raise ValueError("it was changed after it was written")
            job = state.pop("job")
            different = differences(job, self.job)
            if not different:
                for fold, kept in enumerate(state.pop("done")):
                    prefix = f"{_DONE}{fold}."
                    weights = {n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if n.startswith(prefix)}
                    done.append(Trained(weights, [Epoch(**epoch) for epoch in kept["epochs"]], kept["best"]))
                trainer = make(len(done))
                limit = state.pop("epochs_of_done")
                trainer.restore(tensors, state)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: cannot be resumed ({first_line(error)}). Train again without --resume"
            ) from None
        if different:
            raise SpecError(
                f"{self.path}: belongs to another training ({listing(different)}). Use the same options and inputs, or "
                "train again without --resume"
            )
        if done and limit != trainer.settings.epochs:
            raise SpecError(
                f"--epochs {trainer.settings.epochs}: the models so far were trained with --epochs {limit}; use that"
            )
        if len(trainer.epochs) > trainer.settings.epochs:
            raise SpecError(
                f"--epochs {trainer.settings.epochs}: {len(trainer.epochs)} epochs are done already; give more"
            )
        model = f"model {len(done) + 1}, " if trainer.settings.folds > 1 else ""
        watch.note(f"{self.path.parent}: resuming in {model}epoch {trainer.now.epoch + 1}, step {trainer.now.step + 1}")
        return done, trainer


def _checksum(tensors: dict[str, Tensor], rest: dict[str, Any]) -> str:
    sha = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(f"{name} {tuple(tensors[name].shape)}".encode() + tensors[name].contiguous().numpy().tobytes())
    return sha.hexdigest()


def describe_job(job: dict[str, Any]) -> dict[str, Any]:
    """Return everything that decides the weights of a training; values that are not scalars as digests."""
    return {name: value if isinstance(value, _SCALAR) else _digest(value) for name, value in job.items()}


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences between the jobs of two trainings in words."""
    texts = []
    for name, after in now.items():
        before = saved.get(name)
        if before != after:
            digest = isinstance(after, str) and after.startswith(_DIGEST)
            texts.append(f"other {name}" if digest else f"{name} {before} before, {after} now")
    return texts


def _digest(value: Any) -> str:
    return _DIGEST + hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
