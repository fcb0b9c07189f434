"""The split of an evaluation into rows for training, rows for testing and rows that it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers.evaluation import ONCE, add_columns, altered, control, judged

from extembed_cli.evaluate.schema import Report

pytestmark = pytest.mark.usefixtures("short_rankers")


def test_the_last_fifth_of_all_rows_is_the_test(features: Path, features_report: Report) -> None:
    rows = pl.read_parquet(features)
    cutoff = rows["timestamp"].sort()[len(rows) - round(0.2 * len(rows))]
    assert features_report.data.test_from == cutoff.isoformat() + "+00:00"
    assert features_report.data.test_rows == (rows["timestamp"] >= cutoff).sum()
    assert (
        features_report.data.train_rows + features_report.data.early_stopping_rows + features_report.data.test_rows
        == len(rows)
    )


def test_the_test_rows_are_decided_before_any_row_is_left_out(
    features: Path, features_report: Report, tmp_path: Path
) -> None:
    """Late rows without a label and early rows that a flag leaves out do not change the test rows."""
    rows = pl.read_parquet(features)
    late = rows["timestamp"] > rows["timestamp"].quantile(0.9)
    copied = altered(features, tmp_path, label=rows["label"].set(late, None))
    middle = rows["timestamp"].quantile(0.4)
    report = judged(copied, from_time=middle.isoformat(), gap="1d", **ONCE)
    assert report.data.test_from == features_report.data.test_from
    assert report.data.left_out == {
        "without a label": late.sum(),
        "before --from": (rows["timestamp"] < middle).sum(),
        "in the gap before the test rows": len(rows)
        - late.sum()
        - (rows["timestamp"] < middle).sum()
        - report.data.train_rows
        - report.data.early_stopping_rows
        - report.data.test_rows,
    }
    assert report.data.left_out["in the gap before the test rows"] > 0


def test_rows_of_equal_times_are_not_split(features: Path, tmp_path: Path) -> None:
    """With times in whole weeks, the test includes all rows of its first time."""
    days = pl.read_parquet(features)["timestamp"].dt.truncate("7d")
    report = judged(altered(features, tmp_path, timestamp=days), **ONCE)
    cutoff = days.sort()[len(days) - round(0.2 * len(days))]
    assert report.data.test_rows == (days >= cutoff).sum() > 0.2 * len(days)


def test_rows_that_a_neural_model_has_seen_are_left_out(
    features: Path, features_report: Report, tmp_path: Path
) -> None:
    rows = pl.read_parquet(features)
    until = rows["timestamp"].quantile(0.45)
    copied = altered(features, tmp_path, neural_score=pl.Series(np.zeros(len(rows), np.float32)))
    add_columns(copied, name="neural_score", technique="neural", trained_until=until.isoformat())
    report = judged(copied, **ONCE)
    seen = int((rows["timestamp"] <= until).sum())
    assert report.data.left_out == {"that a model may have been trained on": seen}
    assert report.data.test_from == features_report.data.test_from
    assert report.ladder[-1].step == "neural"
    assert f"{seen:,} rows are left out" in "\n".join(report.warnings)
    assert control(report, "training end").passed


def test_a_sample_of_users_keeps_them_whole(features: Path, features_report: Report) -> None:
    report = judged(features, max_rows=2500, **ONCE)
    left = report.data.left_out["of users left out by --max-rows"]
    assert 2400 < report.data.rows - left <= 2500
    assert (report.data.rows - left) % 50 == 0  # every user has 50 rows
    assert report.data.test_from == features_report.data.test_from
