"""`--steps` chooses and orders the steps of the ladder; columns of other steps are not used."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import soak
from helpers.evaluation import ONCE, add_columns, altered, judged, run

from extembed_cli.evaluate.schema import Report

pytestmark = pytest.mark.usefixtures("short_rankers")


def steps_of(report: Report) -> list[str]:
    return [rung.step for rung in report.ladder]


@pytest.mark.parametrize(
    "steps", [("dual",), soak(("dual", "aggregate", "counters")), soak(("counters", "dual"))], ids=",".join
)
def test_the_ladder_has_the_chosen_steps_in_their_order(features: Path, steps: tuple[str, ...]) -> None:
    report = judged(features, steps=steps, **ONCE)
    assert steps_of(report) == ["baseline", *steps]
    assert {feature.step for feature in report.features} == {"baseline", *steps}
    assert any("--steps leaves out the counters" in message for message in report.warnings) == ("counters" not in steps)


def test_a_step_is_measured_as_if_the_file_had_no_other(features: Path, tmp_path: Path) -> None:
    table = pq.read_table(features)
    metadata = json.loads(table.schema.metadata[b"extembed"])
    others = [column["name"] for column in metadata["columns"] if column["technique"] != "aggregate"]
    pq.write_table(table.drop_columns(others), tmp_path / "features.parquet")
    alone, chosen = judged(tmp_path / "features.parquet", **ONCE), judged(features, steps=("aggregate",), **ONCE)
    assert [rung.value for rung in alone.ladder] == [rung.value for rung in chosen.ladder]
    assert chosen.ladder[1].delta == chosen.ladder[1].value - chosen.ladder[0].value


def test_rows_that_a_left_out_model_was_trained_on_stay(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    copied = altered(features, tmp_path, neural_score=rows["label"].cast(pl.Float32))
    end = rows["timestamp"].quantile(0.1).isoformat()
    add_columns(copied, name="neural_score", technique="neural", trained_until=end)
    key = "that a model may have been trained on"
    assert key not in judged(copied, steps=("counters", "dual"), **ONCE).data.left_out
    assert judged(copied, steps=("neural",), **ONCE).data.left_out[key] >= 500


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("aggregate,dul", "--steps dul: no such step; known: counters, aggregate, dual, neural"),
        ("", "--steps : no such step; known: counters, aggregate"),
        ("dual,baseline", "--steps baseline: no such step; known: counters, aggregate"),
        ("dual,dual", "--steps: names `dual` twice"),
        ("dual,neural", "features.parquet has no columns of neural; it has counters, aggregate, dual"),
    ],
)
def test_wrong_steps_are_refused(features: Path, tmp_path: Path, steps: str, message: str) -> None:
    run(features, tmp_path, "--steps", steps).failed(2, message)
    assert not (tmp_path / "report").exists()
