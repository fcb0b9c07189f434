"""The report of an evaluation: its columns, short list, segments and files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, extembed
from helpers.evaluation import ONCE, altered, judged, rung, written

from extembed_cli.errors import DataError
from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.charts import figures
from extembed_cli.evaluate.columns import count_columns
from extembed_cli.evaluate.report import where_items
from extembed_cli.evaluate.schema import Report, Segment
from extembed_cli.evaluate.segments import Bucket

pytestmark = pytest.mark.usefixtures("short_rankers")


def test_each_column_is_described(features: Path, features_report: Report) -> None:
    rows = pl.read_parquet(features)
    test = rows.filter(
        pl.col("timestamp")
        >= pl.lit(features_report.data.test_from).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)
    )
    by_name = {each.name: each for each in features_report.features}
    assert set(by_name) == set(rows.columns) - {"user_id", "item_id", "timestamp", "label", "grade", "request"}
    one = by_name["text__disliked__cos_max"]
    assert one.coverage == pytest.approx(test["text__disliked__cos_max"].is_not_null().mean())
    assert one.meaning.startswith("largest c over visible events")
    assert one.auc_ci[0] < one.auc < one.auc_ci[1]
    assert 0 <= one.drift < 0.5
    assert by_name["kind"].auc is None  # text has no order, so no AUC
    assert by_name[features_report.strongest_feature].correlation == pytest.approx(1)
    assert sum(each.gain_share for each in features_report.features) == pytest.approx(1)
    shares = [each.gain_share for each in features_report.features]
    assert shares == sorted(shares, reverse=True)


def test_the_short_list_keeps_the_gain_with_fewer_columns(features: Path, features_report: Report) -> None:
    short = features_report.short_list
    assert short is not None
    assert 0 < len(short.columns) < sum(each.columns for each in features_report.ladder[1:])
    assert short.kept >= 0.95
    assert {each.name for each in features_report.features if each.in_short_list} == set(short.columns)
    gained = short.value - features_report.ladder[0].value
    assert gained == pytest.approx(short.kept * (features_report.ladder[-1].value - features_report.ladder[0].value))


def test_gains_by_length_of_history_cover_the_test_rows(features_report: Report) -> None:
    assert features_report.history_length_of == ["liked__count", "disliked__count"]
    assert sum(each.rows for each in features_report.by_history_length) == features_report.data.test_rows
    assert {each.events for each in features_report.by_history_length} <= {"0", "1–5", "6–20", "21–100", "> 100"}
    long = next(each for each in features_report.by_history_length if each.events == "21–100")
    assert long.gains["aggregate"] > 0


def test_gains_by_item_count_cover_the_test_rows(features: Path, features_report: Report) -> None:
    """Without counters of items, the earlier rows of each item are counted."""
    assert features_report.item_count_of == []
    file = pl.read_parquet(features).sort("timestamp", maintain_order=True)
    first = pl.lit(features_report.data.test_from).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)
    test = file.filter(pl.col("timestamp") >= first)
    earlier = [
        file.filter((pl.col("item_id") == row["item_id"]) & (pl.col("timestamp") < row["timestamp"])).height
        for row in test.select("item_id", "timestamp").iter_rows(named=True)
    ]
    limits = {"0": (0, 0), "1–4": (1, 4), "5–20": (5, 20), "> 20": (21, 10**9)}
    expected = {name: sum(low <= count <= high for count in earlier) for name, (low, high) in limits.items()}
    buckets = {each.events: each for each in features_report.by_item_count}
    assert {name: bucket.rows for name, bucket in buckets.items()} == {n: c for n, c in expected.items() if c}
    usual = buckets["1–4"]
    assert usual.values["baseline"] is not None
    assert usual.values["counters"] == pytest.approx(usual.values["baseline"] + usual.gains["counters"])
    low, high = usual.values_ci["aggregate"]
    assert low < usual.values["aggregate"] < high


@pytest.mark.soak
def test_counters_of_named_histories_do_not_say_how_often_an_item_was_seen(features: Path, tmp_path: Path) -> None:
    """They have some of its events only."""
    for name in ("interactions", "candidates", "text"):
        shutil.copy(features.parent / f"{name}.parquet", tmp_path)
    groups = (features.parent / "spec.toml").read_text() + '\n[[counters]]\nside = "item"\nhistories = ["liked"]\n'
    (tmp_path / "spec.toml").write_text(groups)
    extembed("run", tmp_path / "spec.toml", "-q").ok()
    report = judged(tmp_path / "features.parquet", seeds=(0,))
    assert report.item_count_of == []
    plain = judged(features, seeds=(0,))
    assert [(b.events, b.rows) for b in report.by_item_count] == [(b.events, b.rows) for b in plain.by_item_count]


@pytest.mark.soak
def test_counters_of_items_say_how_often_an_item_was_seen(features: Path, tmp_path: Path) -> None:
    for name in ("interactions", "candidates", "text"):
        shutil.copy(features.parent / f"{name}.parquet", tmp_path)
    groups = (features.parent / "spec.toml").read_text() + '\n[[counters]]\nside = "item"\nhistories = ["all"]\n'
    (tmp_path / "spec.toml").write_text(groups)
    extembed("run", tmp_path / "spec.toml", "-q").ok()
    report = judged(tmp_path / "features.parquet", seeds=(0,))
    assert report.item_count_of == ["item_all__count"]
    assert report.history_length_of == ["liked__count", "disliked__count"]
    assert "item_all__decayed_count__hl30d" in {f.name for f in report.features if f.step == "counters"}
    assert sum(bucket.rows for bucket in report.by_item_count) == report.data.test_rows


@pytest.mark.parametrize(
    ("cold", "warm", "said"),
    [
        (
            (0.010, 0.006, 0.014),
            (0.001, -0.001, 0.003),
            "items with 0 earlier events (+0.0100; with > 20",
        ),
        (
            (0.001, -0.001, 0.003),
            (0.010, 0.006, 0.014),
            "items with > 20 earlier events (+0.0100; with 0",
        ),
        ((0.004, 0.000, 0.009), (0.001, -0.001, 0.003), ""),
    ],
)
def test_the_summary_says_which_items_gain(
    cold: tuple[float, ...], warm: tuple[float, ...], said: str, features_report: Report
) -> None:
    rung = features_report.ladder[-1].model_copy(update={"step": "dual"})
    buckets = [Bucket(events, 100, 50, {}, {"dual": Interval(*gain)}) for events, gain in (("0", cold), ("> 20", warm))]
    text = where_items([rung], buckets)
    assert (said in text) if said else text == ""


def band(events: str, users: int, gain: float | None) -> Segment:
    interval = None if gain is None else (gain - 0.00001, gain + 0.00001)
    return Segment(
        events=events,
        rows=10 * users,
        users=users,
        values={"baseline": 0.5},
        values_ci={},
        gains={"aggregate": gain},
        gains_ci={"aggregate": interval},
    )


def with_bands(report: Report, *bands: Segment) -> Report:
    """Return the report with these bands alone, and gains that round to 0 in its ladder."""
    ladder = [rung for rung in report.ladder if rung.step in {"baseline", "aggregate"}]
    ladder[1] = ladder[1].model_copy(update={"delta": -0.00001, "delta_ci": (-0.00002, 0.00001)})
    bare = {"ladder": ladder, "by_history_length": list(bands), "by_item_count": [], "controls": []}
    return report.model_copy(update=bare)


def test_bands_without_a_gain_are_in_the_table_and_not_in_the_chart(features_report: Report) -> None:
    bands = band("0", 3, None), band("1–5", 40, None), band("6–20", 40, -0.00002)
    shown = {each.name: each for each in figures(with_bands(features_report, *bands))}
    (panel,) = shown["lengths"].panels
    drawn = [row for values in panel.spec["datasets"].values() for row in values if "events" in row]
    assert [row["events"] for row in drawn] == ["6–20"]
    assert [row[-1] for row in shown["lengths"].table.rows] == [
        "too few users",
        "labels of one class",
        "0.0000 (0.0000 to 0.0000)",
    ]
    assert "items" not in shown
    (gain,) = shown["gains"].table.rows
    assert gain[:3] == ["aggregate", "0.0000", "0.0000 to 0.0000"]


def test_a_figure_that_would_be_empty_is_left_out(features_report: Report) -> None:
    shown = figures(with_bands(features_report, band("0", 3, None)))
    assert {each.name for each in shown} == {"ladder", "gains", "features", "distributions"}


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (["liked__count", "all__count", "all__x_count"], ["all__count"]),
        (["liked__count", "liked__age_last_s", "liked__decayed_count", "liked__x_count"], ["liked__count"]),
        (["liked__x_count", "liked__x_decayed_count", "text__liked__x_vector_count"], ["liked__x_count"]),
        (["my_history__my_group_count", "a__b__vector_count"], ["my_history__my_group_count"]),
        (["popularity"], []),
    ],
)
def test_the_counters_that_give_the_length_of_a_history(names: list[str], counts: list[str]) -> None:
    assert count_columns(names) == counts


def test_distributions_are_of_the_cosines_that_rank_best(features: Path, features_report: Report) -> None:
    assert 0 < len(features_report.distributions) <= 4
    for each in features_report.distributions:
        assert "cos_" in each.name
        assert sum(each.positives) == pytest.approx(1)
        assert sum(each.negatives) == pytest.approx(1)
        assert len(each.edges) == len(each.positives) + 1


def test_the_report_matches_its_schema(features: Path, features_report: Report) -> None:
    import jsonschema

    schema = json.loads((ROOT / "docs" / "reference" / "report.schema.json").read_text())
    written = json.loads(features_report.model_dump_json())
    jsonschema.validate(written, schema)
    written["ladder"][0]["verdict"] = "perhaps"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, schema)


@pytest.mark.soak
def test_the_same_report_on_any_number_of_workers(features: Path, tmp_path: Path) -> None:
    one, four = (written(features, tmp_path / str(threads), threads) for threads in (1, 4))
    assert one == four
    assert set(one) == {"report.json", "report.html"}


@pytest.mark.soak
def test_a_directory_of_parts_is_evaluated_too(features: Path, tmp_path: Path) -> None:
    extembed("run", features.parent / "spec.toml", "-o", tmp_path / "parts", "-q").ok()
    parts, alone = (judged(path, **ONCE) for path in (tmp_path / "parts", features))
    assert [each.value for each in parts.ladder] == [each.value for each in alone.ladder]
    assert rung(parts, "aggregate").seconds > 0
    globbed = judged(tmp_path / "parts" / "*.parquet", **ONCE)
    assert rung(globbed, "aggregate").seconds == rung(parts, "aggregate").seconds


@pytest.mark.soak
def test_features_of_several_runs_are_evaluated_as_one_ladder(features: Path, tmp_path: Path) -> None:
    """The output of one run is the candidates of the next, and its features are still known as features."""
    folder = features.parent
    extembed(
        "aggregate", "-i", folder / "interactions.parquet", "-c", folder / "candidates.parquet",
        "-e", f"text={folder / 'text.parquet'}", "--history", "liked=liked", "-o", tmp_path / "first.parquet",
    ).ok()  # fmt: skip
    extembed(
        "dual", "-i", folder / "interactions.parquet", "-c", tmp_path / "first.parquet",
        "-e", f"text={folder / 'text.parquet'}", "--history", "liked=liked", "-o", tmp_path / "second.parquet",
    ).ok()  # fmt: skip
    report = judged(tmp_path / "second.parquet", **ONCE)
    assert [each.step for each in report.ladder] == ["baseline", "counters", "aggregate", "dual"]
    assert rung(report, "aggregate").seconds is None  # the run report is that of the second run
    assert rung(report, "dual").seconds is not None


def test_the_old_report_stays_when_an_evaluation_fails(features: Path, tmp_path: Path) -> None:
    before = written(features, tmp_path)
    with pytest.raises(DataError):
        written(altered(features, tmp_path, label=pl.Series([0] * 5000)), tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


@pytest.mark.soak
def test_files_of_a_killed_run_are_removed(features: Path, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / ".report.html.123.tmp").touch()
    assert set(written(features, tmp_path)) == {"report.json", "report.html"}
