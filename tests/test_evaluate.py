"""`extembed evaluate` from outside: the ladder, its controls, its files, and its errors."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Ran, extembed
from evaluation_world import make_features

from extembed_cli.errors import DataError, SpecError
from extembed_cli.evaluate.columns import Roles
from extembed_cli.evaluate.evaluate import evaluate, report_job
from extembed_cli.evaluate.schema import Report
from extembed_cli.evaluate.settings import Settings
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources

QUICK = ("--seeds", "1", "--resamples", "100", "--workers", "1")
ONCE: dict[str, Any] = {"seeds": (0,), "resamples": 100}
FAST = Settings(**ONCE)
OWN = ("--baseline", "popularity", "--baseline", "kind")


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with features that help."""
    return make_features(tmp_path_factory.mktemp("world"), seed=1, signal=1.5)


@pytest.fixture(scope="module")
def found(features: Path) -> Report:
    """Its evaluation as the command would do it."""
    return judged(features, baseline=("popularity", "kind"))


def judged(features: Path, baseline: tuple[str, ...] = ("popularity",), **how: Any) -> Report:
    roles = Roles("label", baseline=baseline, group=how.pop("group", None))
    return evaluate(str(features), roles, Settings(**{"resamples": 200, **how}), Resources(1), Watch())


def rung(report: Report, step: str) -> Any:
    return next(each for each in report.ladder if each.step == step)


def control(report: Report, name: str, subject: str | None = None) -> Any:
    return next(c for c in report.controls if c.control == name and subject in {None, c.subject})


# --- the answer --------------------------------------------------------------------------------------


def test_a_planted_signal_is_found(found: Report) -> None:
    assert [each.step for each in found.ladder] == ["baseline", "counters", "aggregate", "dual"]
    assert rung(found, "aggregate").verdict == "keep"
    assert rung(found, "aggregate").delta > 0.02
    assert rung(found, "baseline").verdict is None
    assert "help this ranker: keep aggregate" in found.summary
    assert all(each.passed for each in found.controls if each.control == "permuted")
    strongest = found.strongest_feature
    assert strongest is not None
    assert "text__" in strongest


def test_the_gain_is_the_difference_of_the_values(found: Report) -> None:
    for before, after in zip(found.ladder, found.ladder[1:], strict=False):
        assert after.delta == pytest.approx(after.value - before.value, abs=1e-12)
        assert after.delta_ci[0] < after.delta < after.delta_ci[1]
        assert after.metrics["auc"] == after.value


def called_right(folder: Path, seed: int, users: int = 300, each: int = 70, min_gain: float = 0.01) -> bool:
    """Random vectors are not worth it; popularity and the user's rate are in the baseline and in the counters."""
    folder.mkdir()
    report = judged(make_features(folder, seed, signal=0.0, users=users, each=each), min_gain=min_gain)
    assert rung(report, "counters").verdict == "keep"
    embeddings = [rung(report, step) for step in ("aggregate", "dual")]
    at_default = [told.delta_ci[0] > 0 and told.delta >= 0.001 for told in embeddings]
    return not any(at_default) and report.summary == "The embeddings are not worth it for this ranker."


def test_vectors_without_a_signal_are_not_worth_it(tmp_path: Path) -> None:
    assert called_right(tmp_path / "world", 0, users=150, each=60, min_gain=0.02)


@pytest.mark.soak
def test_nearly_all_worlds_without_a_signal_are_called_right(tmp_path: Path) -> None:
    """An interval of 95 % leaves one of forty steps above 0 by luck."""
    assert sum(called_right(tmp_path / str(seed), seed) for seed in range(20)) >= 19


def test_requests_are_ranked_by_ndcg(features: Path) -> None:
    report = judged(features, group="request", seeds=(0,))
    for each in report.ladder:
        assert each.metric == "ndcg@10"
        assert each.value == each.metrics["ndcg@10"]
        assert set(each.metrics) == {"auc", "gauc", "ndcg@10", "mrr"}
    assert rung(report, "aggregate").delta > 0
    assert report.data.left_out["alone in their request"] > 0


def test_graded_labels_are_ranked_too(features: Path) -> None:
    roles = Roles("grade", group="request", baseline=("popularity",))
    report = evaluate(str(features), roles, FAST, Resources(1), Watch())
    assert 0 < rung(report, "aggregate").value < 1


def test_rows_that_tie_are_not_ranked_by_their_place_in_the_file(features: Path, tmp_path: Path) -> None:
    """Counters are the same for all rows of a user's request: positives first in the file must not help them."""
    table = pq.read_table(features)
    order = pl.read_parquet(features).with_row_index().sort("request", pl.col("label") * -1)["index"].to_arrow()
    pq.write_table(table.take(order), tmp_path / "features.parquet")
    report = judged(tmp_path / "features.parquet", group="request", baseline=(), **ONCE)
    assert report.ladder[0].value < 0.9  # 1.0 if the order of the file counted
    assert rung(report, "aggregate").delta > 0


@pytest.mark.parametrize("group", [None, pytest.param("request_id", marks=pytest.mark.soak)])
def test_the_planted_signal_of_the_sample_is_found(tmp_path: Path, group: str | None) -> None:
    extembed("run", ROOT / "sample_data" / "spec.toml", "-q", "-o", tmp_path / "features.parquet").ok()
    report = judged(tmp_path / "features.parquet", group=group, max_rows=6_000, seeds=(0,))
    assert rung(report, "aggregate").verdict == "keep"
    assert rung(report, "aggregate").delta > 0.05


def test_requests_that_are_null_or_stand_on_both_sides_are_told(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    some = pl.Series(np.arange(len(rows)) % 4 == 0)
    wide = (rows["user_id"] % 20).set(some, None)
    report = judged(altered(features, tmp_path, wide=wide), group="wide", **ONCE)
    assert report.data.left_out["without a request"] == some.sum()
    assert any("20 requests have rows before the test and in it" in message for message in report.warnings)


def test_a_neural_column_of_unknown_training_is_told(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    copied = altered(features, tmp_path, neural_score=pl.Series(np.zeros(len(rows), np.float32)))
    add_columns(copied, name="neural_score", technique="neural")
    report = judged(copied, **ONCE)
    assert not control(report, "neural training end").passed


# --- the split ---------------------------------------------------------------------------------------


def test_the_last_fifth_of_all_rows_is_the_test(features: Path, found: Report) -> None:
    rows = pl.read_parquet(features)
    cutoff = rows["timestamp"].sort()[len(rows) - round(0.2 * len(rows))]
    assert found.data.test_from == cutoff.isoformat() + "+00:00"
    assert found.data.test_rows == (rows["timestamp"] >= cutoff).sum()
    assert found.data.train_rows + found.data.early_stopping_rows + found.data.test_rows == len(rows)


def test_it_is_decided_before_anything_is_left_out(features: Path, found: Report, tmp_path: Path) -> None:
    """Late rows without a label, and early ones left out by a flag, move no row into the test."""
    rows = pl.read_parquet(features)
    late = rows["timestamp"] > rows["timestamp"].quantile(0.9)
    copied = altered(features, tmp_path, label=rows["label"].set(late, None))
    middle = rows["timestamp"].quantile(0.4)
    report = judged(copied, from_time=middle.isoformat(), gap="1d", **ONCE)
    assert report.data.test_from == found.data.test_from
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


def test_equal_times_stay_together(features: Path, tmp_path: Path) -> None:
    """Days instead of seconds: the day at which the test begins is whole in it."""
    days = pl.read_parquet(features)["timestamp"].dt.truncate("7d")
    report = judged(altered(features, tmp_path, timestamp=days), **ONCE)
    cutoff = days.sort()[len(days) - round(0.2 * len(days))]
    assert report.data.test_rows == (days >= cutoff).sum() > 0.2 * len(days)


def test_rows_that_a_neural_model_has_seen_are_left_out(features: Path, found: Report, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    until = rows["timestamp"].quantile(0.45)
    copied = altered(features, tmp_path, neural_score=pl.Series(np.zeros(len(rows), np.float32)))
    add_columns(copied, name="neural_score", technique="neural", trained_until=until.isoformat())
    report = judged(copied, **ONCE)
    seen = int((rows["timestamp"] <= until).sum())
    assert report.data.left_out == {"that the neural model may have been trained on": seen}
    assert report.data.test_from == found.data.test_from
    assert report.ladder[-1].step == "neural"
    assert f"{seen:,} rows are left out" in "\n".join(report.warnings)
    assert control(report, "neural training end").passed


def test_a_sample_of_users_keeps_them_whole(features: Path, found: Report) -> None:
    report = judged(features, max_rows=2500, **ONCE)
    left = report.data.left_out["of users left out by --max-rows"]
    assert 2400 < report.data.rows - left <= 2500
    assert (report.data.rows - left) % 50 == 0  # every user has 50 rows
    assert report.data.test_from == found.data.test_from


# --- controls and columns ----------------------------------------------------------------------------


def test_a_column_that_knows_the_label_raises_the_alarm(features: Path, tmp_path: Path) -> None:
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
    """Positives in the middle, negatives at both ends: no order of the column shows it."""
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


def test_honest_columns_raise_none(found: Report) -> None:
    assert control(found, "single feature").passed
    assert not [message for message in found.warnings if "implausibly" in message]


def test_candidates_in_their_own_history_raise_the_alarm(features: Path, tmp_path: Path) -> None:
    copied = altered(features, tmp_path)
    report = json.loads((features.parent / "features.parquet.run.json").read_text())
    assert report["candidates_in_own_history"] == 0
    (tmp_path / "features.parquet.run.json").write_text(json.dumps({**report, "candidates_in_own_history": 12}))
    found = judged(copied, **ONCE)
    assert not control(found, "own history").passed
    assert "12 of 5,000 candidates" in control(found, "own history").text


def test_seconds_come_from_the_run_report_of_this_very_file(features: Path, found: Report, tmp_path: Path) -> None:
    assert rung(found, "aggregate").seconds > 0
    assert rung(found, "baseline").seconds is None
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


def test_each_column_is_described(features: Path, found: Report) -> None:
    rows = pl.read_parquet(features)
    test = rows.filter(
        pl.col("timestamp") >= pl.lit(found.data.test_from).str.to_datetime(time_zone="UTC").dt.replace_time_zone(None)
    )
    by_name = {each.name: each for each in found.features}
    assert set(by_name) == set(rows.columns) - {"user_id", "item_id", "timestamp", "label", "grade", "request"}
    one = by_name["text__disliked__cos_max"]
    assert one.coverage == pytest.approx(test["text__disliked__cos_max"].is_not_null().mean())
    assert one.meaning.startswith("largest c over visible events")
    assert one.auc_ci[0] < one.auc < one.auc_ci[1]
    assert 0 <= one.drift < 0.5
    assert by_name["kind"].auc is None  # text has no order
    assert by_name[found.strongest_feature].correlation == pytest.approx(1)
    assert sum(each.gain_share for each in found.features) == pytest.approx(1)
    shares = [each.gain_share for each in found.features]
    assert shares == sorted(shares, reverse=True)


def test_the_short_list_keeps_the_gain_with_fewer_columns(features: Path, found: Report) -> None:
    short = found.short_list
    assert short is not None
    assert 0 < len(short.columns) < sum(each.columns for each in found.ladder[1:])
    assert short.kept >= 0.95
    assert {each.name for each in found.features if each.in_short_list} == set(short.columns)
    gained = short.value - found.ladder[0].value
    assert gained == pytest.approx(short.kept * (found.ladder[-1].value - found.ladder[0].value))


def test_gains_by_length_of_history_cover_the_test_rows(found: Report) -> None:
    assert found.history_length_of == ["liked__count", "disliked__count"]
    assert sum(each.rows for each in found.by_history_length) == found.data.test_rows
    assert {each.events for each in found.by_history_length} <= {"0", "1–5", "6–20", "21–100", "> 100"}
    long = next(each for each in found.by_history_length if each.events == "21–100")
    assert long.gains["aggregate"] > 0


def test_distributions_are_of_the_cosines_that_rank_best(features: Path, found: Report) -> None:
    assert 0 < len(found.distributions) <= 4
    for each in found.distributions:
        assert "cos_" in each.name
        assert sum(each.positives) == pytest.approx(1)
        assert sum(each.negatives) == pytest.approx(1)
        assert len(each.edges) == len(each.positives) + 1


# --- the command -------------------------------------------------------------------------------------


def run(features: Path, folder: Path, *args: str, label: str = "label") -> Ran:
    return extembed("evaluate", features, "--label", label, "-o", folder / "report", *QUICK, *args)


def test_the_command_writes_both_files_and_shows_the_ladder(features: Path, tmp_path: Path) -> None:
    done = run(features, tmp_path, *OWN).ok()
    assert re.search(r"^aggregate +0\.\d{4} +\+0\.\d{4} +\+0\.\d{4} to \+0\.\d{4} .* keep *$", done.out, re.MULTILINE)
    assert "The embeddings help this ranker" in done.err
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    steps = {"step", "metric", "value", "delta", "delta_ci", "metrics", "seconds", "verdict"}
    assert all(steps <= set(each) for each in report["ladder"])
    assert report["ladder"][0]["delta"] is None


def test_the_report_keeps_to_its_schema(features: Path, found: Report) -> None:
    import jsonschema

    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    written = json.loads(found.model_dump_json())
    jsonschema.validate(written, schema)
    written["ladder"][0]["verdict"] = "perhaps"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, schema)


def written(features: Path, folder: Path, threads: int = 1) -> dict[str, bytes]:
    """Both files of a report, made in this process."""
    roles = Roles("label", baseline=("popularity",))
    report_job(str(features), roles, FAST, folder / "report", Resources(threads), Watch())
    return {path.name: path.read_bytes() for path in (folder / "report").iterdir()}


def test_the_same_report_on_any_number_of_workers(features: Path, tmp_path: Path) -> None:
    one, four = (written(features, tmp_path / str(threads), threads) for threads in (1, 4))
    assert one == four
    assert set(one) == {"report.json", "report.html"}


def test_json_on_stdout_is_the_report(features: Path, tmp_path: Path) -> None:
    done = run(features, tmp_path, "--baseline", "popularity", "--json", "-q").ok()
    assert done.json == json.loads((tmp_path / "report" / "report.json").read_text())
    assert not done.err


def test_a_directory_of_parts_is_evaluated_too(features: Path, tmp_path: Path) -> None:
    extembed("run", features.parent / "spec.toml", "-o", tmp_path / "parts", "-q").ok()
    parts, alone = (judged(path, **ONCE) for path in (tmp_path / "parts", features))
    assert [each.value for each in parts.ladder] == [each.value for each in alone.ladder]
    assert rung(parts, "aggregate").seconds > 0
    globbed = judged(tmp_path / "parts" / "*.parquet", **ONCE)
    assert rung(globbed, "aggregate").seconds == rung(parts, "aggregate").seconds


def test_features_of_several_runs_are_one_ladder(features: Path, tmp_path: Path) -> None:
    """What one run made are candidates of the next, and still known as what they are."""
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
    assert rung(report, "aggregate").seconds is None  # the report beside the file is of the second run
    assert rung(report, "dual").seconds is not None


# --- what cannot be evaluated ------------------------------------------------------------------------


def altered(features: Path, folder: Path, **columns: pl.Series) -> Path:
    """A copy of the file with other or more columns, its metadata kept."""
    table = pq.read_table(features)
    for name, values in columns.items():
        array = values.to_arrow()
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, array)
        else:
            table = table.append_column(name, array)
    path = folder / "features.parquet"
    pq.write_table(table, path)
    return path


def add_columns(path: Path, **column: str) -> None:
    """Say in a file's metadata that a column is a feature."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"extembed"])
    about["columns"].append({"meaning": "", "dtype": "Float32", **column})
    pq.write_table(table.replace_schema_metadata({b"extembed": json.dumps(about)}), path)


BAD: dict[str, tuple[Callable[[pl.DataFrame], dict[str, pl.Series]], tuple[str, ...], tuple[str, ...]]] = {
    "not 0 or 1": (lambda f: {"label": f["label"] * 2 + 1}, (), ("has the values 1, 3", "0 or 1", "--group")),
    "text": (lambda f: {"label": f["label"].cast(pl.String)}, (), ("label `label`", "a number or a boolean")),
    "one class": (lambda f: {"label": f["label"] * 0}, (), ("all", "labels of the training rows are 0")),
    "one class in the test": (
        lambda f: {"label": f["label"].set(f["timestamp"] > f["timestamp"].quantile(0.79), 1)},
        (),
        ("labels of the test rows are 1",),
    ),
    "half grades": (lambda f: {"label": f["label"] / 2}, ("--group", "request"), ("grades, whole numbers",)),
    "newest rows without labels": (
        lambda f: {"label": f["label"].set(f["timestamp"] > f["timestamp"].quantile(0.75), None)},
        (),
        ("no rows are left for test", "leave rows without a label out of the file"),
    ),
    "too few of --max-rows": (lambda f: {}, ("--max-rows", "3"), ("no rows are left", "raise --max-rows")),
    "no times": (
        lambda f: {"timestamp": f["timestamp"].set(f["label"] >= 0, None)},
        (),
        ("--time: 5,000 of 5,000 rows have no time",),
    ),
    "no labels": (
        lambda f: {"label": f["label"].set(f["label"] >= 0, None)},
        (),
        ("no rows are left", "without a label"),
    ),
    "one time": (
        lambda f: {"timestamp": pl.repeat(f["timestamp"][0], len(f), eager=True)},
        (),
        ("no rows are left for training", "1 times"),
    ),
    "all before --from": (lambda f: {}, ("--from", "2030-01-01"), ("no rows are left", "before --from")),
    "groups of one": (
        lambda f: {"row": pl.Series(range(len(f)))},
        ("--group", "row"),
        ("--group: every request has a single row",),
    ),
    "list as baseline": (
        lambda f: {"vector": pl.Series([[1.0, 2.0]] * len(f))},
        ("--baseline", "vector"),
        ("--baseline vector: is", "numbers, booleans and text"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_told(features: Path, tmp_path: Path, case: str) -> None:
    columns, flags, told = BAD[case]
    copied = altered(features, tmp_path, **columns(pl.read_parquet(features)))
    run(copied, tmp_path, *flags).failed(1, *told)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--label", "labl"), "--label labl: "),
        (("--label", "text__liked__cos_max"), "is a feature"),
        (("--time", "when"), "--time when: "),
        (("--group", "requst"), "did you mean `request`?"),
        (("--baseline", "popularty"), "did you mean `popularity`?"),
        (("--baseline", "label"), "matches only label"),
        (("--ranker", "catboost"), "lightgbm"),
        (("--gap", "1 day"), "is not a duration"),
        (("--from", "yesterday"), "ISO 8601"),
        (("--test-fraction", "1.5"), "--test-fraction"),
    ],
)
def test_wrong_flags_are_told(features: Path, tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    run(features, tmp_path, *flags).failed(2, told)


def test_a_file_without_metadata_or_features_is_told(features: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.parquet"
    pl.read_parquet(features).write_parquet(plain)
    run(plain, tmp_path).failed(3, "no readable `extembed` metadata", "pass through")
    table = pq.read_table(features)
    kept = [name for name in table.column_names if "__" not in name]
    pq.write_table(table.select(kept), plain)
    run(plain, tmp_path).failed(1, "has no feature columns")
    run(tmp_path / "nothing.parquet", tmp_path).failed(3, "no such file")


def test_too_little_memory_is_told_with_a_number_of_rows(features: Path, tmp_path: Path) -> None:
    done = run(features, tmp_path, "--memory", "321MiB").failed(5, "Raise --memory, or take", "--max-rows")
    (rows,) = re.findall(r"--max-rows (\d+)", done.err)
    settings = FAST.model_copy(update={"max_rows": int(rows)})
    report = evaluate(str(features), Roles("label"), settings, Resources(1, 321 * 2**20), Watch())
    assert 0 < report.data.train_rows + report.data.early_stopping_rows + report.data.test_rows <= int(rows)


def test_the_old_report_stays_when_an_evaluation_fails(features: Path, tmp_path: Path) -> None:
    before = written(features, tmp_path)
    with pytest.raises(DataError):
        written(altered(features, tmp_path, label=pl.Series([0] * 5000)), tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def few(features: Path, folder: Path, rows: pl.Expr) -> Path:
    """A copy of some rows of the file."""
    table = pq.read_table(features)
    kept = pl.read_parquet(features).select(rows).to_series().to_arrow()
    path = folder / "features.parquet"
    pq.write_table(table.filter(kept), path)
    return path


@pytest.mark.parametrize(
    ("rows", "told"),
    [(pl.col("user_id") < 5, "the test rows are of 5 users"), (pl.int_range(pl.len()) % 30 == 0, "learns nothing")],
    ids=["few users", "few rows"],
)
def test_too_little_data_cannot_tell(features: Path, tmp_path: Path, rows: pl.Expr, told: str) -> None:
    report = judged(few(features, tmp_path, rows), **ONCE)
    for each in report.ladder[1:]:
        assert each.verdict == "cannot tell"
        assert told in each.reason
    assert report.summary == "These rows cannot tell yet whether the embeddings help this ranker."


def test_a_file_without_rows_is_told(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        judged(few(features, tmp_path, pl.col("user_id") < 0))


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
def test_a_number_that_float32_does_not_hold_ranks_as_well(
    features: Path, tmp_path: Path, far: Callable[[pl.Series], pl.Series]
) -> None:
    """A baseline that is read badly would be credited to the embeddings."""
    values = (pl.read_parquet(features)["popularity"] * 1000).round()
    copied = altered(features, tmp_path, near=values, far=far(values))
    report = judged(copied, baseline=("near", "far"), **ONCE)
    by_name = {each.name: each for each in report.features}
    assert by_name["far"].auc == by_name["near"].auc != 0.5
    assert by_name["far"].drift == by_name["near"].drift


def test_a_wildcard_leaves_out_what_no_ranker_learns_from(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    odd = {"vector": pl.Series([[1.0, 2.0]] * len(rows)), "day": rows["timestamp"].dt.date()}
    report = judged(altered(features, tmp_path, **odd), baseline=("*",), **ONCE)
    assert report.data.baseline == ["popularity", "kind", "grade", "request"]
    assert any("`day` (date32[day])" in message and "`vector`" in message for message in report.warnings)


def test_times_of_another_unit_are_doubted(features: Path, tmp_path: Path) -> None:
    seconds = pl.read_parquet(features)["timestamp"].dt.epoch("s") + 1_700_000_000
    copied = altered(features, tmp_path, timestamp=seconds)
    for unit, doubted in {"us": True, "s": False}.items():
        report = evaluate(str(copied), Roles("label", time_unit=unit), FAST, Resources(1), Watch())
        assert any(f"Is --time-unit {unit} right?" in message for message in report.warnings) is doubted


def test_a_folder_that_takes_no_files_is_told_at_once(features: Path) -> None:
    extembed("evaluate", features, "--label", "label", "-o", "/proc/report").failed(2, "/proc/report: no")


def test_files_of_a_killed_run_are_removed(features: Path, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / ".report.html.123.tmp").touch()
    assert set(written(features, tmp_path)) == {"report.json", "report.html"}


def test_problems_are_told_together(features: Path) -> None:
    roles = Roles("labl", time="when", baseline=("popularty",))
    with pytest.raises(Exception, match=r"(?s)--label labl.*--time when.*--baseline popularty"):
        evaluate(str(features), roles, FAST, Resources(1), Watch())


def test_users_without_an_id_and_rows_without_a_time_do_not_stop_it(features: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(features)
    some = pl.Series(np.arange(len(rows)) % 50 == 0)
    copied = altered(
        features, tmp_path, user_id=rows["user_id"].set(some, None), timestamp=rows["timestamp"].set(some, None)
    )
    report = judged(copied, **ONCE)
    assert report.data.left_out == {"without a time": some.sum()}


@pytest.mark.parametrize("module", ["lightgbm", "altair", "vl_convert"])
def test_the_extra_is_named_where_it_is_missing(
    features: Path, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(SpecError, match=rf"needs {module}: pip install 'extembed\[evaluate\]'"):
        report_job(str(features), Roles("label"), FAST, tmp_path / "report", Resources(1), Watch())
    assert not (tmp_path / "report").exists()


def test_integer_and_date_times_are_understood(features: Path, tmp_path: Path) -> None:
    days = pl.read_parquet(features)["timestamp"].dt.date()
    report = judged(altered(features, tmp_path, timestamp=days), **ONCE)
    assert report.data.test_from.endswith("T00:00:00+00:00")
    counted = altered(features, tmp_path, timestamp=pl.read_parquet(features)["timestamp"].cast(pl.Int64))
    with pytest.raises(DataError, match="time_unit"):
        judged(counted)
