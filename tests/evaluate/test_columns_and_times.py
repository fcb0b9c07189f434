"""Columns and times of any type: an evaluation uses those that can be a baseline or a time and reports the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers.evaluation import FAST, ONCE, altered, judged, with_rows

from extembed_cli.errors import DataError
from extembed_cli.evaluate.columns import Roles
from extembed_cli.evaluate.evaluate import evaluate
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources

pytestmark = pytest.mark.usefixtures("short_rankers")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [(pl.col("user_id") < 5, "the test rows have 5 users"), (pl.int_range(pl.len()) % 30 == 0, "learns nothing")],
    ids=["few users", "few rows"],
)
def test_too_little_data_gives_the_verdict_cannot_tell(
    features: Path, tmp_path: Path, rows: pl.Expr, reason: str
) -> None:
    report = judged(with_rows(features, tmp_path, rows), **ONCE)
    for each in report.ladder[1:]:
        assert each.verdict == "cannot tell"
        assert reason in each.reason
    assert report.summary == "These rows do not show yet whether the embeddings help this ranker."


def test_a_file_without_rows_is_refused(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        judged(with_rows(features, tmp_path, pl.col("user_id") < 0))


def test_columns_of_any_kind_can_be_the_baseline(features: Path, tmp_path: Path) -> None:
    n = len(pl.read_parquet(features))
    odd = {
        "endless": pl.Series(np.where(np.arange(n) % 5 == 0, np.inf, 1.0)),
        "constant": pl.Series(np.zeros(n)),
        "nothing": pl.Series([None] * n, dtype=pl.Null),
        "coded": pl.Series(np.array(["a", "b"])[np.arange(n) % 2]).cast(pl.Categorical),
        "exact": pl.Series(np.arange(n)).cast(pl.Decimal(25, 2)),
        "flag": pl.Series(np.arange(n) % 3 == 0),
    }
    report = judged(altered(features, tmp_path, **odd), baseline=tuple(odd), **ONCE)
    by_name = {each.name: each for each in report.features}
    assert by_name["nothing"].coverage == 0
    assert by_name["nothing"].auc is None
    assert by_name["constant"].auc == by_name["constant"].auc_ci[0] == 0.5
    assert by_name["coded"].auc is None
    assert 0 < by_name["endless"].auc < 1


@pytest.mark.parametrize("far", [lambda x: 1e15 + x, lambda x: 1e300 * x], ids=["large", "beyond float32"])
def test_numbers_beyond_float32_rank_as_well(
    features: Path, tmp_path: Path, far: Callable[[pl.Series], pl.Series]
) -> None:
    """If such a baseline were read with errors, its share would be credited to the embeddings."""
    values = (pl.read_parquet(features)["popularity"] * 1000).round()
    copied = altered(features, tmp_path, near=values, far=far(values))
    report = judged(copied, baseline=("near", "far"), **ONCE)
    by_name = {each.name: each for each in report.features}
    assert by_name["far"].auc == by_name["near"].auc != 0.5
    assert by_name["far"].drift == by_name["near"].drift


def test_a_baseline_wildcard_leaves_out_columns_that_no_ranker_can_use(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    odd = {"vector": pl.Series([[1.0, 2.0]] * len(rows)), "day": rows["timestamp"].dt.date()}
    report = judged(altered(features, tmp_path, **odd), baseline=("*",), **ONCE)
    assert report.data.baseline == ["popularity", "kind", "grade", "request"]
    assert any("`day` (date32[day])" in message and "`vector`" in message for message in report.warnings)


def test_a_wrong_time_unit_warns(features: Path, tmp_path: Path) -> None:
    seconds = pl.read_parquet(features)["timestamp"].dt.epoch("s") + 1_700_000_000
    copied = altered(features, tmp_path, timestamp=seconds)
    for unit, doubted in {"us": True, "s": False}.items():
        report = evaluate(str(copied), Roles("label", time_unit=unit), FAST, Resources(1), Watch())
        assert any(f"Is --time-unit {unit} right?" in message for message in report.warnings) is doubted


def test_problems_are_reported_together(features: Path) -> None:
    roles = Roles("labl", time="when", baseline=("popularty",))
    with pytest.raises(Exception, match=r"(?s)--label labl.*--time when.*--baseline popularty"):
        evaluate(str(features), roles, FAST, Resources(1), Watch())


def test_null_users_and_times_do_not_stop_an_evaluation(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    some = pl.Series(np.arange(len(rows)) % 50 == 0)
    copied = altered(
        features, tmp_path, user_id=rows["user_id"].set(some, None), timestamp=rows["timestamp"].set(some, None)
    )
    report = judged(copied, **ONCE)
    assert report.data.left_out == {"without a time": some.sum()}


def test_date_times_are_read_and_integer_times_need_a_unit(features: Path, tmp_path: Path) -> None:
    days = pl.read_parquet(features)["timestamp"].dt.date()
    report = judged(altered(features, tmp_path, timestamp=days), **ONCE)
    assert report.data.test_from.endswith("T00:00:00+00:00")
    counted = altered(features, tmp_path, timestamp=pl.read_parquet(features)["timestamp"].cast(pl.Int64))
    with pytest.raises(DataError, match="time_unit"):
        judged(counted)
