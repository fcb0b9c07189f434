"""A training between two steps as one file, to go on from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from extembed_cli.errors import InputError, SpecError, listing
from extembed_cli.neural.training.fitting import Fitting
from extembed_cli.system.progress import Watch

_CHECKSUM = "checksum"
_TOLD = str | int | float | bool | None
_DIGEST = "sha256:"


class Checkpoint:
    """The tensors of a training, and in the file's metadata the rest: what it is of, where it stands, a checksum."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path, self.job = path, job

    def save(self, fitting: Fitting) -> None:
        """Replace the file by one of now."""
        tensors, rest = fitting.state()
        rest = {"job": self.job, **rest}
        state = json.dumps({**rest, _CHECKSUM: _checksum(tensors, rest)})
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(save(tensors, {"state": state}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def restore(self, fitting: Fitting, watch: Watch) -> None:
        """Take up what was saved of the same job."""
        if not self.path.exists():
            watch.note(f"{self.path.parent}: there is no training to go on with; starting one")
            return
        try:
            with safe_open(self.path, framework="pt") as opened:
                state = json.loads(opened.metadata()["state"])
            checksum, tensors = state.pop(_CHECKSUM), load_file(self.path)
            if checksum != _checksum(tensors, state):
                raise ValueError("it was changed since it was written")
            job = state.pop("job")
            others = differences(job, self.job)
            if not others:
                fitting.restore(tensors, state)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: cannot be gone on with ({str(error).splitlines()[0]}). Train again without --resume"
            ) from None
        if others:
            raise SpecError(
                f"{self.path}: is of another training ({listing(others)}). Give what it was begun with, or train again "
                "without --resume"
            )
        if len(fitting.epochs) > fitting.settings.epochs:
            raise SpecError(f"--epochs {fitting.settings.epochs}: {len(fitting.epochs)} are done already")
        watch.note(f"{self.path.parent}: going on in epoch {fitting.now.epoch + 1}, step {fitting.now.step + 1}")


def _checksum(tensors: dict[str, Tensor], rest: dict[str, Any]) -> str:
    sha = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(f"{name} {tuple(tensors[name].shape)}".encode() + tensors[name].contiguous().numpy().tobytes())
    return sha.hexdigest()


def described(job: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights of a training; what is no number, word or truth as its digest."""
    return {name: value if isinstance(value, _TOLD) else _digest(value) for name, value in job.items()}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of two trainings is not the same, in words."""
    found = []
    for name, after in now.items():
        before = then.get(name)
        if before != after:
            digest = isinstance(after, str) and after.startswith(_DIGEST)
            found.append(f"other {name}" if digest else f"{name} {before} then, {after} now")
    return found


def _digest(value: Any) -> str:
    return _DIGEST + hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
