"""`values` of a `[[neural]]` group: numbers that the model reads of each event."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import extembed, soak
from helpers.neural import train, weights, write_spec
from helpers.reference import Event
from helpers.reference_targets import residuals
from neural.test_learning import fitted

from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.jobs.train import train_job
from extembed_cli.neural.config import Architecture, Layers, TrainingSettings
from extembed_cli.neural.events import Examples
from extembed_cli.neural.folder import read_config
from extembed_cli.neural.model import Model
from extembed_cli.neural.training.dataset import Dataset
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

pytestmark = pytest.mark.usefixtures("engine")

VALUES = '[[neural]]\nmodel = "model"\nvalues = ["said", "dwell * 2"]\nresidual = "item"\n'


@pytest.fixture
def said(trained_copy: Path) -> Path:
    """Provides inputs whose events have a number that says whether the user liked the item, a third of them none."""
    rng = np.random.default_rng(0)
    events = pl.read_parquet(trained_copy / "interactions.parquet")
    known = rng.random(len(events)) > 0.3
    events = events.with_columns(
        said=pl.when(pl.Series(known)).then(pl.col("liked").cast(pl.Float64) * 2 - 1),
        dwell=pl.Series(rng.integers(1, 100, len(events))),
    )
    events.write_parquet(trained_copy / "interactions.parquet")
    write_spec(trained_copy, VALUES)
    return trained_copy


@pytest.mark.parametrize("encoder", [soak("mean"), "attention", soak("gru"), soak("transformer")])
def test_values_are_read_and_standardized(said: Path, encoder: str) -> None:
    train(said, "--encoder", encoder, "--epochs", "1").ok()
    config = read_config(str(said / "model"))
    texts = [(value.expression.text, value.expression.residual is not None) for value in config.values]
    assert texts == [("said", False), ("said", True), ("dwell * 2", False), ("dwell * 2", True)]
    events = pl.read_parquet(said / "interactions.parquet")
    until = pl.lit(config.trained_until).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)
    before = events.filter(pl.col("timestamp") <= until)
    assert config.values[2].mean == pytest.approx((before["dwell"] * 2).mean(), rel=1e-4)
    assert config.values[2].sd == pytest.approx((before["dwell"] * 2).std(ddof=0), rel=1e-3)
    extembed("run", said / "spec.toml", "-q").ok()
    first = weights(said)
    more = VALUES.replace('"said", ', "")
    write_spec(said, more)
    train(said, "--encoder", encoder, "--epochs", "1").ok()
    assert weights(said) != first


@pytest.mark.soak
def test_residuals_are_those_of_the_log(said: Path) -> None:
    rows = pl.read_parquet(said / "interactions.parquet").sort("timestamp").head(1500)
    rows.write_parquet(said / "interactions.parquet")
    write_spec(said, VALUES.replace(', "dwell * 2"', ""))
    train(said, "--encoder", "mean", "--epochs", "1").ok()
    config = read_config(str(said / "model"))
    events = [
        Event(u, i, t) for u, i, t in rows.select("user_id", "item_id", pl.col("timestamp").cast(int)).iter_rows()
    ]
    found = residuals(events, dict(enumerate(rows["said"].to_list())), "item")
    expected = np.array([found[i] for i in range(len(rows)) if found[i] is not None])
    assert config.values[1].mean == pytest.approx(expected.mean(), abs=1e-5)
    assert config.values[1].sd == pytest.approx(expected.std(), abs=1e-5)


@pytest.mark.soak
def test_scores_do_not_depend_on_layout_or_later_events(said: Path) -> None:
    train(said, "--encoder", "attention", "--epochs", "1").ok()
    spec = load_spec(said / "spec.toml", output=str(said / "out.parquet"))
    outputs = []
    for options in (RunOptions(workers=1), RunOptions(workers=2, layout=Layout(shards=4, mapped=True))):
        run_job(spec, options, Watch())
        outputs.append((said / "out.parquet").read_bytes())
    assert outputs[0] == outputs[1]
    scores = pl.read_parquet(said / "out.parquet")
    events = pl.read_parquet(said / "interactions.parquet")
    cut = events["timestamp"].quantile(0.6, "nearest")
    changed = events.with_columns(said=pl.when(pl.col("timestamp") < cut).then("said").otherwise(-3.0))
    changed.write_parquet(said / "interactions.parquet")
    run_job(load_spec(said / "spec.toml", output=str(said / "out.parquet")), RunOptions(workers=1), Watch())
    after = pl.read_parquet(said / "out.parquet")
    mine = scores["timestamp"] <= cut
    assert mine.sum() > 1000
    assert scores.filter(mine)["neural_score"].equals(after.filter(mine)["neural_score"], null_equal=True)
    assert not scores["neural_score"].equals(after["neural_score"], null_equal=True)


@pytest.mark.soak
def test_weights_do_not_depend_on_the_layout(said: Path) -> None:
    spec, settings = load_spec(said / "spec.toml"), TrainingSettings(label="label", epochs=1, max_events=20, folds=2)
    for name, cut in {"whole": Layout(), "cut": Layout(shards=5, rows=700, mapped=True)}.items():
        how = RunOptions(workers=1, layout=cut)
        train_job(spec, settings, Layers(dim=8, encoder="gru"), str(said / name), how, False, Watch())
    assert weights(said, "whole") == weights(said, "cut")


def test_a_group_with_other_values_is_refused(said: Path) -> None:
    train(said, "--encoder", "mean", "--epochs", "1").ok()
    for values, parts in (
        ("", ("reads `said`, `(said) − mean of earlier", "which its group does not have in `values`")),
        ('values = ["said"]\n', ("reads `(said) − mean of earlier", "`dwell * 2`", "does not have in `values`")),
        ('values = ["dwell"]\n', ("does not read `dwell`",)),
        ('values = ["dwell * 2", "said"]\nresidual = "item"\n', ("the `values` of its group in the order",)),
    ):
        write_spec(said, f'[[neural]]\nmodel = "model"\n{values}')
        extembed("run", said / "spec.toml").failed(2, *parts)
    write_spec(said, '[[neural]]\nmodel = "model"\nresidual = "item"\n')
    extembed("run", said / "spec.toml").failed(2, "neural.0.residual: needs `values`")
    write_spec(said, '[[neural]]\nmodel = "model"\nvalues = ["sayd"]\n')
    train(said, model="other").failed(2, "neural.0.values.0", "no column `sayd`")


def test_vectors_after_the_training_are_of_the_same_values(said: Path) -> None:
    vectors = ("--user-vectors", str(said / "u.parquet"), "--item-vectors", str(said / "i.parquet"))
    train(said, "--encoder", "gru", "--epochs", "1", *vectors).ok()
    users, items = pl.read_parquet(said / "u.parquet"), pl.read_parquet(said / "i.parquet")
    assert len(users) > 50
    assert len(items) == len(pl.read_parquet(said / "text.parquet"))


def test_the_config_has_what_a_run_needs(said: Path) -> None:
    train(said, "--encoder", "mean", "--epochs", "1").ok()
    data = json.loads((said / "model" / "config.json").read_text())
    assert [value["column"] for value in data["values"]][:2] == ["Float64:said", "item/5.0/none:said"]
    assert data["architecture"]["values"] == 4


@pytest.mark.soak
@pytest.mark.parametrize("encoder", ["mean", "attention", "gru", "transformer"])
def test_an_effect_of_values_is_learned(encoder: str) -> None:
    """A candidate is liked where it is of a cluster of which the user said something good; all clusters were seen."""
    assert learned(encoder, values=True) > 0.9
    assert learned(encoder, values=False) < 0.65


def learned(encoder: str, *, values: bool, n: int = 4000, clusters: int = 4) -> float:
    rng = np.random.default_rng(3)
    length, of_item = 2 * clusters, np.arange(40) % clusters
    vectors = np.eye(clusters, dtype=np.float32)[of_item]
    events = (np.arange(length) % clusters + clusters * rng.integers(0, 10, (n, length))).astype(np.int32)
    good = rng.integers(0, clusters, n)
    said = np.where(of_item[events] == good[:, None], 1.0, -0.5)[..., None].astype(np.float32)
    said[rng.random(said.shape) < 0.2] = np.nan
    candidates = rng.integers(0, 40, n).astype(np.int32)
    labels = (of_item[candidates] == good).astype(np.float32)
    end = length * np.arange(1, n + 1)
    times = np.full(n, 10**12)
    examples = Examples(
        rows=np.arange(n),
        times=times,
        items=candidates,
        starts=(end - length)[:, None],
        ends=end[:, None],
        max_events=length,
        lengths=np.full(n, length),
        history_events=[np.arange(n * length)],
        event_items=events.ravel(),
        event_times=(times[:, None] - 60_000_000 * np.arange(length, 0, -1)).ravel(),
        event_values=said.reshape(-1, 1) if values else None,
    )
    cut = n * 3 // 4
    data = Dataset(examples, labels, np.arange(n), np.arange(cut), np.arange(cut, n))
    architecture = Architecture(
        encoder=encoder, widths=(clusters,), histories=1, dim=16, dropout=0.0, values=int(values)
    )
    trainer = fitted(Model(architecture), data, vectors, lr=5e-3)
    return max(epoch.valid_auc for epoch in trainer.epochs)


def test_a_model_of_no_group_is_refused_where_groups_have_values(said: Path) -> None:
    write_spec(said, VALUES, '[[neural]]\nname = "b"\nmodel = "b"\n')
    train(said, model="c").failed(2, "--model ", "no [[neural]] group has this folder", "/b")
    train(said, "--encoder", "mean", "--epochs", "1", model="b").ok()
    assert read_config(str(said / "b")).values == ()
