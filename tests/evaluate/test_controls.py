"""The controls of an evaluation: leaks, candidates in their own history, and seconds from the run report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from helpers.evaluation import ONCE, altered, control, judged, rung

from extembed_cli.evaluate.schema import Report

pytestmark = pytest.mark.usefixtures("short_rankers")


def test_a_column_that_leaks_the_label_raises_the_alarm(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    leak = rows["label"] + pl.Series(np.random.default_rng(0).normal(0, 0.2, len(rows)))
    report = judged(
        altered(features, tmp_path, leak=leak.cast(pl.Float32)),
        baseline=("leak",),
        max_rows=1500,
        **ONCE,
    )
    alarm = control(report, "single feature", "leak")
    assert not alarm.passed
    assert "implausibly strong" in alarm.text
    assert any("leak" in message for message in report.warnings)
    assert report.summary.startswith("No answer yet: leak, baseline may know the label")


def test_a_leak_that_only_the_ranker_sees_raises_the_alarm(features: Path, tmp_path: Path) -> None:
    """Positives are in the middle and negatives at both ends, so the column itself has no high AUC."""
    label = pl.read_parquet(features)["label"].to_numpy()
    side = np.random.default_rng(0).choice([-1.0, 1.0], len(label))
    leak = pl.Series(np.where(label == 1, 0.1, 1.0) * side)
    report = judged(altered(features, tmp_path, leak=leak), baseline=("leak",), max_rows=1500, **ONCE)
    assert control(report, "single feature").passed
    assert not control(report, "whole step", "baseline").passed
    assert report.summary.startswith("No answer yet: baseline may know the label")


@pytest.mark.parametrize("leak", ["null for negatives", "text"])
def test_a_leak_that_has_no_order_raises_the_alarm(features: Path, tmp_path: Path, leak: str) -> None:
    label = pl.read_parquet(features)["label"]
    rng = np.random.default_rng(0)
    values = pl.Series(rng.standard_normal(len(label))).set(label == 0, None)
    if leak == "text":
        values = pl.Series(np.array(["no", "yes"])[label.to_numpy()])
    report = judged(
        altered(features, tmp_path, leak=values), baseline=("leak",), max_rows=1500, seeds=(0,), resamples=100
    )
    assert not control(report, "single feature", "leak").passed


def test_columns_without_a_leak_raise_no_alarm(features_report: Report) -> None:
    assert control(features_report, "single feature").passed
    assert not [message for message in features_report.warnings if "implausibly" in message]


@pytest.mark.parametrize(("share", "passed"), [(0.4, True), (0.6, False)])
def test_as_many_candidates_in_their_own_history_as_positives_raise_the_alarm(
    features: Path, tmp_path: Path, share: float, passed: bool
) -> None:
    """A few are repeats; the positives themselves are in their own history if rows see their own event."""
    count = round(share * pl.read_parquet(features)["label"].sum())
    report = json.loads((features.parent / "features.parquet.run.json").read_text())
    assert report["candidates_in_own_history"] == 0
    (tmp_path / "features.parquet.run.json").write_text(json.dumps({**report, "candidates_in_own_history": count}))
    evaluated = judged(altered(features, tmp_path), **ONCE)
    assert control(evaluated, "own history").passed == passed
    assert f"{count:,} of 5,000 candidates" in control(evaluated, "own history").text
    assert any("in their own visible history" in message for message in evaluated.warnings) != passed


@pytest.mark.soak
def test_seconds_come_from_the_run_report_of_this_very_file(
    features: Path, features_report: Report, tmp_path: Path
) -> None:
    assert rung(features_report, "aggregate").seconds > 0
    assert rung(features_report, "baseline").seconds is None
    copied = altered(features, tmp_path)
    (tmp_path / "features.parquet.run.json").write_text(json.dumps({"rows_out": 3, "column_names": []}))
    report = judged(copied, **ONCE)
    assert [each.seconds for each in report.ladder] == [None] * 4
    assert "not checked" in control(report, "own history").text
    of_another = {**json.loads((features.parent / "features.parquet.run.json").read_text()), "digests": {}}
    (tmp_path / "features.parquet.run.json").write_text(json.dumps(of_another))
    assert rung(judged(copied, **ONCE), "aggregate").seconds is None


def test_a_column_that_was_dropped_does_not_hide_the_run_report(features: Path, tmp_path: Path) -> None:
    table = pq.read_table(features).drop_columns(["text__liked__cos_min"])
    pq.write_table(table, tmp_path / "features.parquet")
    shutil.copy(features.parent / "features.parquet.run.json", tmp_path)
    report = judged(tmp_path / "features.parquet", **ONCE)
    assert rung(report, "aggregate").seconds is not None
    assert "text__liked__cos_min" not in {each.name for each in report.features}
