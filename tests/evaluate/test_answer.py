"""An evaluation finds a signal if there is one, and none if there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, extembed
from helpers.evaluation import FAST, ONCE, add_columns, altered, control, judged, make_features, rung

from extembed_cli.evaluate.columns import Roles
from extembed_cli.evaluate.evaluate import evaluate
from extembed_cli.evaluate.schema import Report
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources


def test_a_planted_signal_is_found(features_report: Report) -> None:
    assert [each.step for each in features_report.ladder] == ["baseline", "counters", "aggregate", "dual"]
    assert rung(features_report, "aggregate").verdict == "keep"
    assert rung(features_report, "aggregate").delta > 0.02
    assert rung(features_report, "baseline").verdict is None
    assert "help this ranker: keep aggregate" in features_report.summary
    assert all(each.passed for each in features_report.controls if each.control == "permuted")
    strongest = features_report.strongest_feature
    assert strongest is not None
    assert "text__" in strongest


def test_the_gain_is_the_difference_of_the_values(features_report: Report) -> None:
    for before, after in zip(features_report.ladder, features_report.ladder[1:], strict=False):
        assert after.delta == pytest.approx(after.value - before.value, abs=1e-12)
        assert after.delta_ci[0] < after.delta < after.delta_ci[1]
        assert after.metrics["auc"] == after.value


def finds_no_signal(folder: Path, seed: int, users: int = 300, each: int = 70, min_gain: float = 0.01) -> bool:
    """Return whether an evaluation finds random vectors not worth it, while it keeps the counters."""
    folder.mkdir()
    report = judged(make_features(folder, seed, signal=0.0, users=users, each=each), min_gain=min_gain)
    assert rung(report, "counters").verdict == "keep"
    embeddings = [rung(report, step) for step in ("aggregate", "dual")]
    at_default = [gain.delta_ci[0] > 0 and gain.delta >= 0.001 for gain in embeddings]
    return not any(at_default) and report.summary == "The embeddings are not worth it for this ranker."


@pytest.mark.soak
def test_vectors_without_a_signal_are_not_worth_it(tmp_path: Path) -> None:
    assert finds_no_signal(tmp_path / "world", 0, users=80, each=50, min_gain=0.02)


@pytest.mark.soak
def test_nearly_all_worlds_without_a_signal_are_not_worth_it(tmp_path: Path) -> None:
    """With intervals of 95 %, one step in forty is above 0 by chance."""
    assert sum(finds_no_signal(tmp_path / str(seed), seed) for seed in range(20)) >= 19


@pytest.mark.soak
def test_requests_are_ranked_by_ndcg(features: Path) -> None:
    report = judged(features, group="request", seeds=(0,))
    for each in report.ladder:
        assert each.metric == "ndcg@10"
        assert each.value == each.metrics["ndcg@10"]
        assert set(each.metrics) == {"auc", "gauc", "ndcg@10", "mrr"}
    assert rung(report, "aggregate").delta > 0
    assert report.data.left_out["alone in their request"] > 0


@pytest.mark.usefixtures("short_rankers")
def test_graded_labels_are_ranked_too(features: Path) -> None:
    roles = Roles("grade", group="request", baseline=("popularity",))
    report = evaluate(str(features), roles, FAST, Resources(1), Watch())
    assert 0 < rung(report, "aggregate").value < 1


@pytest.mark.soak
def test_tied_rows_are_not_ranked_by_file_order(features: Path, tmp_path: Path) -> None:
    """Counters are equal within a request, so a file with its positives first must not improve their value."""
    table = pq.read_table(features)
    order = pl.read_parquet(features).with_row_index().sort("request", pl.col("label") * -1)["index"].to_arrow()
    pq.write_table(table.take(order), tmp_path / "features.parquet")
    report = judged(tmp_path / "features.parquet", group="request", baseline=(), **ONCE)
    assert report.ladder[0].value < 0.9  # it would be 1.0 if file order mattered
    assert rung(report, "aggregate").delta > 0


@pytest.mark.soak
@pytest.mark.parametrize("group", [None, "request_id"])
def test_the_planted_signal_of_the_sample_is_found(tmp_path: Path, group: str | None) -> None:
    extembed("run", ROOT / "sample_data" / "spec.toml", "-q", "-o", tmp_path / "features.parquet").ok()
    report = judged(tmp_path / "features.parquet", group=group, max_rows=6_000, seeds=(0,))
    assert rung(report, "aggregate").verdict == "keep"
    assert rung(report, "aggregate").delta > 0.05
    assert report.warnings == []


@pytest.mark.usefixtures("short_rankers")
def test_null_requests_and_requests_on_both_sides_of_the_split_are_reported(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    some = pl.Series(np.arange(len(rows)) % 4 == 0)
    wide = (rows["user_id"] % 20).set(some, None)
    report = judged(altered(features, tmp_path, wide=wide), group="wide", **ONCE)
    assert report.data.left_out["without a request"] == some.sum()
    assert any("20 requests have rows both before and among the test rows" in message for message in report.warnings)


@pytest.mark.usefixtures("short_rankers")
def test_a_neural_column_without_a_training_end_is_reported(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    copied = altered(features, tmp_path, neural_score=pl.Series(np.zeros(len(rows), np.float32)))
    add_columns(copied, name="neural_score", technique="neural")
    report = judged(copied, **ONCE)
    assert not control(report, "training end").passed
