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
from extembed_cli.neural.fitting import Fitting
from extembed_cli.watch import Watch


class Checkpoint:
    """The tensors of a training, and in the file's metadata the rest: what it is of, where it stands, a checksum."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path = path
        self.job = {aspect: _digest(value) for aspect, value in job.items()}

    def save(self, fitting: Fitting) -> None:
        """Replace the file by one of now."""
        tensors, rest = fitting.state()
        state = json.dumps({"job": self.job, "sha256": _tensor_digest(tensors), **rest})
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
            job, tensors = state.pop("job"), load_file(self.path)
            if state.pop("sha256") != _tensor_digest(tensors):
                raise ValueError("its tensors were changed")
            others = [aspect for aspect, digest in self.job.items() if job[aspect] != digest]
            if not others:
                fitting.restore(tensors, state)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: cannot be gone on with ({str(error).splitlines()[0]}). Train again without --resume"
            ) from None
        if others:
            raise SpecError(
                f"{self.path}: is of another training: other {listing(others)}. Give what it was begun with, or train "
                "again without --resume"
            )
        if len(fitting.epochs) > fitting.settings.epochs:
            raise SpecError(f"--epochs {fitting.settings.epochs}: {len(fitting.epochs)} are done already")
        watch.note(f"{self.path.parent}: going on in epoch {fitting.now.epoch + 1}, step {fitting.now.step + 1}")


def _tensor_digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return sha.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
