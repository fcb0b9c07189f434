"""A training killed at any place leaves the old or the new model, and the next training cleans up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from conftest import extembed
from helpers.evaluation import TABLES, make_features
from helpers.faults import KILLED, Fault, drive

from extembed_cli.features.neural import scores
from extembed_cli.neural.folder import CHECKPOINT, FILES, read_config
from extembed_cli.neural.weights import load_models


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides a folder with small inputs and a spec with a neural group."""
    folder = tmp_path_factory.mktemp("neural")
    make_features(folder, seed=1, signal=3.0, users=50, each=40)
    (folder / "spec.toml").write_text(TABLES + '[[neural]]\nmodel = "model"\n')
    return folder


def arguments(world: Path, model: str, seed: int, *more: str) -> list[str]:
    """Return the arguments of a one-epoch training. It renames checkpoint, config (the commit), then the rest."""
    named = ["neural", "train", world / "spec.toml", "--label", "label", "--model", world / model, "--seed", seed]
    return [*map(str, named), *more, "--folds", "1", "--epochs", "1", "--dim", "8", "--device", "cpu", "-q"]


def weights(world: Path, model: str) -> str:
    return hashlib.sha256((world / model / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.soak
@pytest.mark.parametrize("before", ["an older model", "nothing"])
@pytest.mark.parametrize("renamed", range(6))
def test_a_killed_training_leaves_the_old_or_the_new_model(world: Path, before: str, renamed: int) -> None:
    for model, seed in {"old": 0, "new": 7}.items():
        if not (world / model).exists():
            extembed(*arguments(world, model, seed)).ok()
    old, new = weights(world, "old"), weights(world, "new")
    model = world / f"{before}-{renamed}"
    if before == "an older model":
        extembed(*arguments(world, model.name, 0)).ok()
    kill = Fault("pathlib:Path.replace", *(("after", renamed) if renamed else ("before", 1)))
    with drive(*arguments(world, model.name, 7), faults=(kill,)) as run:
        assert run.end().code == KILLED
    if renamed >= 2 or before == "an older model":
        config = read_config(str(model))
        assert config.weights_sha256 == (new if renamed >= 2 else old)
        load_models(str(model), config)
        extembed("run", world / "spec.toml", "-q", "--set", f'neural.0.model="{model}"').ok()
    else:
        extembed("run", world / "spec.toml", "-q", "--set", f'neural.0.model="{model}"').failed(3, "no trained model")
    if renamed == 0 and before == "an older model":  # no checkpoint yet; the old model is complete
        extembed(*arguments(world, model.name, 7, "--resume")).failed(2, "seed 0 before, 7 now")
        extembed(*arguments(world, model.name, 7)).ok()
    else:
        extembed(*arguments(world, model.name, 7, "--resume")).ok()
    assert weights(world, model.name) == new
    assert {path.name for path in model.iterdir()} == FILES - {CHECKPOINT}


@pytest.mark.soak
@pytest.mark.parametrize("place", ["prepare_scorer", "load_models"])
def test_a_run_fails_if_its_model_is_trained_again_meanwhile(
    world: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It fails wherever it is in reading the model, and the old output stays."""
    extembed(*arguments(world, "model", 0)).ok()
    extembed("run", world / "spec.toml", "-q").ok()
    before = (world / "features.parquet").read_bytes()
    inner = getattr(scores, place)

    def after_another_training(*args: Any, **named: Any) -> Any:
        extembed(*arguments(world, "model", 7)).ok()
        return inner(*args, **named)

    monkeypatch.setattr(scores, place, after_another_training)
    ended = extembed("run", world / "spec.toml", "-q")
    assert ended.code in {1, 3}
    assert "changed during the run" in ended.err or "was changed" in ended.err
    assert "internal error" not in ended.err
    assert (world / "features.parquet").read_bytes() == before
