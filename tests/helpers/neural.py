"""A small model that is trained once per session, and folders with copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from conftest import Ran, extembed

from helpers.evaluation import TABLES, make_features

GROUP = '[[neural]]\nmodel = "model"\n'
LEARNED = ("--encoder", "attention", "--epochs", "12", "--lr", "0.01", "--dim", "16")
QUICK = ("--folds", "1", "--epochs", "2", "--max-events", "20", "--dim", "8", "--device", "cpu", "--workers", "1", "-q")


def write_spec(folder: Path, *more: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(TABLES + "\n".join(more))
    return path


def train(folder: Path, *args: str, model: str = "model") -> Ran:
    return extembed(*train_command(folder, *args, model=model))


def train_command(folder: Path, *args: str, model: str) -> list[str]:
    named = ["neural", "train", folder / "spec.toml", "--label", "label", "--model", folder / model]
    return [*map(str, named), *QUICK, *args]


def weights(folder: Path, model: str = "model") -> bytes:
    return (folder / model / "model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides inputs with a strong signal, a model trained on the first 45 % of the candidates, and its scores."""
    folder = tmp_path_factory.mktemp("neural")
    make_features(folder, seed=1, signal=6.0)
    for path in folder.glob("features*"):
        path.unlink()
    write_spec(folder, "[[aggregate]]\npercentiles = [50]\n" + GROUP)
    train(folder, "--until", until(folder), *LEARNED).ok()
    extembed("run", folder / "spec.toml", "-q").ok()
    return folder


def until(folder: Path) -> str:
    moment = pl.read_parquet(folder / "candidates.parquet")["timestamp"].quantile(0.45, "nearest")
    return moment.isoformat()


@pytest.fixture
def trained_copy(trained: Path, tmp_path: Path) -> Path:
    """Provides a fresh folder with the inputs and the model."""
    for name in ("interactions.parquet", "candidates.parquet", "text.parquet", "spec.toml"):
        shutil.copy(trained / name, tmp_path)
    shutil.copytree(trained / "model", tmp_path / "model")
    return tmp_path


def scored(folder: Path, *args: str) -> pl.DataFrame:
    extembed("run", folder / "spec.toml", "-q", *args).ok()
    return pl.read_parquet(folder / "features.parquet")
