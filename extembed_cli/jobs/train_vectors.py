"""Files of vectors of a model that is trained now: checked before the training, written after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extembed_cli.data.files.commit import locked
from extembed_cli.data.outputs.feature_file import check_target
from extembed_cli.errors import SpecError
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.jobs.train import group_of
from extembed_cli.neural.config import Layers
from extembed_cli.spec.groups import NeuralGroup
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch


def check_vectors(user_vectors: Path | None, item_vectors: Path | None, layers: Layers, wait: float) -> None:
    """Raise if the files cannot be written: the training before it takes long."""
    paths = [path for path in (user_vectors, item_vectors) if path is not None]
    if len(set(paths)) < len(paths) or not all(path.suffix == ".parquet" for path in paths):
        raise SpecError(
            f"--user-vectors, --item-vectors: {', '.join(map(str, paths))}: name two files that end in .parquet"
        )
    if paths:
        layers.check_vectors("--user-vectors" if user_vectors else "--item-vectors")
    for path in paths:
        check_target(str(path))
        with locked(path, wait):
            pass


def write_model_vectors(
    spec: Spec,
    model: Path,
    user_vectors: Path | None,
    item_vectors: Path | None,
    options: RunOptions,
    watch: Watch,
) -> dict[str, Any]:
    """Run a job on the same inputs that writes the vectors only; return its report."""
    group = (group_of(spec, str(model)) or NeuralGroup(model=str(model))).model_copy(
        update={
            "model": str(model.absolute()),
            "user_vectors": None if user_vectors is None else str(user_vectors.absolute()),
            "item_vectors": None if item_vectors is None else str(item_vectors.absolute()),
        }
    )
    return run_job(spec.with_groups(group).model_copy(update={"candidates": None}), options, watch)
