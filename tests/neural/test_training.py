"""`extembed neural train`: its training rows, its folder, and the same bytes for any workers and shards."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import extembed, soak
from helpers.neural import QUICK, scored, train, until, weights, write_spec

from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.train import train_job
from extembed_cli.neural.config import Layers, TrainingSettings
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch


def test_the_folder_has_all_files_of_a_model(trained: Path) -> None:
    assert {path.name for path in (trained / "model").iterdir()} == {
        "config.json", "metrics.json", "model.safetensors", "training.html",
    }  # fmt: skip
    config = json.loads((trained / "model" / "config.json").read_text())
    times = pl.read_parquet(trained / "candidates.parquet")["timestamp"]
    newest = times.filter(times < pl.Series([until(trained)]).str.to_datetime()[0]).max()
    assert config["folds"][0]["trained_until"] == newest.isoformat() + "+00:00"
    assert list(config["histories"]) == ["liked", "disliked"]
    assert config["tables"]["text"]["dim"] == 16
    rows = config["folds"][0]["rows"]
    assert sum(rows.values()) == len(times)
    assert rows["from --until on"] == (times >= pl.Series([until(trained)]).str.to_datetime()[0]).sum()
    metrics = json.loads((trained / "model" / "metrics.json").read_text())
    assert 0 < len(metrics["folds"][0]["epochs"]) <= 12
    assert metrics["valid_auc"] == max(epoch["valid_auc"] for epoch in metrics["folds"][0]["epochs"])
    page = (trained / "model" / "training.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page


@pytest.mark.soak
@pytest.mark.parametrize("encoder", ["mean", "gru", "attention", "transformer"])
def test_one_seed_makes_one_model_on_any_workers(trained_copy: Path, encoder: str) -> None:
    how = ("--encoder", encoder, "--epochs", "1")
    train(trained_copy, *how, model="first").ok()
    train(trained_copy, *how, "--workers", "3", model="second").ok()
    train(trained_copy, *how, "--seed", "1", model="third").ok()
    assert weights(trained_copy, "first") == weights(trained_copy, "second") != weights(trained_copy, "third")


@pytest.mark.soak
def test_shards_make_the_same_model(trained_copy: Path) -> None:
    """Batches are drawn from all candidates of all shards."""
    spec, settings = load_spec(trained_copy / "spec.toml"), TrainingSettings(label="label", epochs=1, max_events=20)
    for name, cut in {"whole": Layout(), "cut": Layout(shards=5, mapped=True)}.items():
        how = RunOptions(workers=1, layout=cut)
        train_job(spec, settings, Layers(dim=8, id_embedding=True), str(trained_copy / name), how, False, Watch())
    assert weights(trained_copy, "whole") == weights(trained_copy, "cut")


@pytest.mark.parametrize("encoder", [soak("mean"), "gru", soak("transformer")])
def test_every_encoder_trains_and_scores(trained_copy: Path, encoder: str) -> None:
    train(trained_copy, "--encoder", encoder, "--id-embedding", "--whiten", "--epochs", "1").ok()
    assert scored(trained_copy)["neural_score"].is_finite().sum() > 4_000


@pytest.mark.soak
def test_requests_can_be_ranked_against_each_other(trained_copy: Path) -> None:
    how = ("--loss", "softmax", "--group", "request", "--lr", "0.01", "--epochs", "6", "--encoder", "mean")
    report = train(trained_copy, *how, "--json").ok().json
    assert 0.5 < report["valid_auc"] <= 1


def test_rows_after_the_training_end_are_not_learned_from(trained_copy: Path) -> None:
    train(trained_copy, "--until", until(trained_copy), model="first").ok()
    rows = pl.read_parquet(trained_copy / "candidates.parquet")
    late = pl.col("timestamp") >= pl.lit(until(trained_copy)).str.to_datetime()
    rows.with_columns(label=pl.when(late).then(1 - pl.col("label")).otherwise("label").cast(pl.Int8)).write_parquet(
        trained_copy / "candidates.parquet"
    )
    train(trained_copy, "--until", until(trained_copy), model="second").ok()
    assert weights(trained_copy, "first") == weights(trained_copy, "second")


def test_training_needs_no_group_in_the_spec(trained_copy: Path) -> None:
    write_spec(trained_copy)
    train(trained_copy, "--epochs", "1", model="new").ok()
    extembed("run", trained_copy / "spec.toml").failed(2, "nothing to compute")


def test_a_leak_in_the_inputs_warns(trained_copy: Path) -> None:
    loud = ("neural", "train", trained_copy / "spec.toml", "--label", "label", *QUICK[:-1], "--epochs", "1", "--model")
    rows = pl.read_parquet(trained_copy / "candidates.parquet")
    rows.with_columns(pl.col("timestamp") + pl.duration(seconds=1)).write_parquet(trained_copy / "candidates.parquet")
    stderr = extembed(*loud, trained_copy / "first").ok().err
    assert "5,000 of 5,000 candidates are in their own visible history" in stderr
    assert "no candidate is newer than the training candidates" in stderr
    log = pl.read_parquet(trained_copy / "interactions.parquet")
    log.with_columns(pl.col("timestamp").cast(pl.Date)).write_parquet(trained_copy / "interactions.parquet")
    assert (
        "has dates without a time of day"
        in extembed(*loud, trained_copy / "second", "--until", until(trained_copy)).ok().err
    )


def test_a_spec_with_columns_within_a_request_can_be_trained_on(trained_copy: Path) -> None:
    """The training has no features, so none that `[within]` names."""
    within = '[within]\nby = "request"\ncolumns = ["text__*"]\n'
    write_spec(trained_copy, "[[aggregate]]\n", within)
    train(trained_copy, "--epochs", "1", "--encoder", "mean", "--memory", "3GiB").ok()
