"""`neural train --folds N`: several models, each trained on what came before the candidates that it scores."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Ran, extembed
from helpers.faults import Fault, drive
from helpers.neural import GROUP, train, train_command, write_spec
from safetensors.numpy import load_file

from extembed_cli.neural.folder import read_config

FOLDS = 3


def fold(folder: Path, *args: str, model: str = "model") -> Ran:
    return train(folder, "--folds", str(FOLDS), "--epochs", "1", "--encoder", "mean", *args, model=model)


def cuts(folder: Path) -> list[object]:
    """Return the times at which the stretches of equal rows begin."""
    times = pl.read_parquet(folder / "candidates.parquet")["timestamp"].sort()
    return [times[round(len(times) * k / (FOLDS + 1))] for k in range(1, FOLDS + 1)]


@pytest.mark.soak
def test_each_score_is_by_a_model_of_older_candidates(trained_copy: Path) -> None:
    """The scores and the weights are those of single models that are trained until each cut."""
    fold(trained_copy).ok()
    write_spec(trained_copy, GROUP)
    extembed("run", trained_copy / "spec.toml", "-q").ok()
    scores = pl.read_parquet(trained_copy / "features.parquet").select("timestamp", "neural_score")
    config = read_config(str(trained_copy / "model"))
    bounds = [*cuts(trained_copy), None]
    before = scores["timestamp"] < bounds[0]
    assert scores.filter(before)["neural_score"].null_count() == before.sum() > 100
    tensors = load_file(trained_copy / "model" / "model.safetensors")
    for number, (cut, end) in enumerate(pairwise(bounds)):
        train(
            trained_copy, "--until", cut.isoformat(), "--epochs", "1", "--encoder", "mean", model=f"single{number}"
        ).ok()
        single = load_file(trained_copy / f"single{number}" / "model.safetensors")
        for name, values in single.items():
            np.testing.assert_array_equal(values, tensors[f"{number}.{name.removeprefix('0.')}"])
        write_spec(trained_copy, f'[[neural]]\nmodel = "single{number}"\n')
        extembed("run", trained_copy / "spec.toml", "-q", "-o", trained_copy / "single.parquet").ok()
        alone = pl.read_parquet(trained_copy / "single.parquet")["neural_score"]
        mine = (scores["timestamp"] >= cut) & (True if end is None else scores["timestamp"] < end)
        assert mine.sum() > 100
        assert scores.filter(mine)["neural_score"].equals(alone.filter(mine), null_equal=True)
        assert config.folds[number].trained_until < cut.isoformat()


@pytest.mark.soak
def test_no_row_is_lost_to_the_ranker(trained_copy: Path, tmp_path: Path) -> None:
    fold(trained_copy).ok()
    write_spec(trained_copy, "[[aggregate]]\n" + GROUP)
    done = extembed("run", trained_copy / "spec.toml").ok()
    assert "not newer than what a neural model" not in done.err
    command = ("evaluate", trained_copy / "features.parquet", "--label", "label", "--baseline", "popularity")
    report = extembed(*command, "--seeds", "1", "--resamples", "100", "-o", tmp_path / "report", "--json").ok().json
    assert report["ladder"][-1]["step"] == "neural"
    assert not any("trained on" in reason for reason in report["data"]["left_out"])
    assert {control["control"] for control in report["controls"]}.isdisjoint({"training end"})


@pytest.mark.soak
@pytest.mark.parametrize("step", [40, 8, 20])
def test_a_stopped_training_resumes_in_its_fold(trained_copy: Path, step: int) -> None:
    """The folds have 4, 8 and 13 steps an epoch: in the third fold, at the end of the first, in the second."""
    arguments = ("--folds", str(FOLDS), "--epochs", "2", "--encoder", "mean")
    train(trained_copy, *arguments, model="unbroken").ok()
    stop = Fault("extembed_cli.neural.training.trainer:Trainer._step", "after", step, do="SIGINT")
    with drive(*train_command(trained_copy, *arguments, model="broken"), faults=(stop,)) as run:
        assert run.end().code == 130
    train(trained_copy, *arguments, "--resume", model="broken").ok()
    one, other = ((trained_copy / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken"))
    assert one == other


@pytest.mark.soak
def test_files_of_vectors_are_of_the_newest_model(trained_copy: Path) -> None:
    fold(trained_copy, "--user-vectors", str(trained_copy / "u.parquet")).ok()
    train(
        trained_copy, "--until", cuts(trained_copy)[-1].isoformat(), "--epochs", "1", "--encoder", "mean",
        "--user-vectors", str(trained_copy / "single.parquet"), model="single",
    ).ok()  # fmt: skip
    one, other = (pl.read_parquet(trained_copy / name) for name in ("u.parquet", "single.parquet"))
    assert one.equals(other)


@pytest.mark.soak
def test_the_curves_and_metrics_are_of_all_models(trained_copy: Path) -> None:
    fold(trained_copy).ok()
    metrics = json.loads((trained_copy / "model" / "metrics.json").read_text())
    assert [len(model["epochs"]) for model in metrics["folds"]] == [1] * FOLDS
    assert metrics["valid_auc"] == metrics["folds"][-1]["valid_auc"]
    rows = [model["rows"]["train"] + model["rows"]["early stopping"] for model in metrics["folds"]]
    assert rows == sorted(rows)
    page = (trained_copy / "model" / "training.html").read_text()
    assert [f"Model {number} of {FOLDS}" in page for number in (1, 2, 3)] == [True] * FOLDS


@pytest.mark.parametrize("rows", [2, 9])
def test_too_few_rows_are_refused(trained_copy: Path, rows: int) -> None:
    candidates = pl.read_parquet(trained_copy / "candidates.parquet")
    candidates.tail(rows).write_parquet(trained_copy / "candidates.parquet")
    train(trained_copy, "--folds", "30").failed(1, "--folds 30")


def test_too_many_folds_are_refused(trained_copy: Path) -> None:
    train(trained_copy, "--folds", "900").failed(1, "--folds 900, model 1: ", "Fewer folds")
    rows = pl.read_parquet(trained_copy / "candidates.parquet")
    moments = pl.col("timestamp").dt.truncate("45d")
    rows.with_columns(moments).write_parquet(trained_copy / "candidates.parquet")
    train(trained_copy, "--folds", "8").failed(1, "--folds 8", "too few different times", "--folds 1")
