"""`extembed evaluate` on the command line: its output, and the errors for its flags and its file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import extembed
from helpers.evaluation import FAST, OWN, altered, run

from extembed_cli.errors import SpecError
from extembed_cli.evaluate.columns import Roles
from extembed_cli.evaluate.evaluate import evaluate, report_job
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources


def test_the_command_writes_both_files_and_shows_the_ladder(features: Path, tmp_path: Path) -> None:
    done = run(features, tmp_path, *OWN, "--max-rows", "3500").ok()
    assert re.search(r"^aggregate +0\.\d{4} +\+0\.\d{4} +\+0\.\d{4} to \+0\.\d{4} .* keep$", done.out, re.MULTILINE)
    assert not re.search(" $", done.out, re.MULTILINE)
    assert "The embeddings help this ranker" in done.err
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    steps = {"step", "metric", "value", "delta", "delta_ci", "metrics", "seconds", "verdict"}
    assert all(steps <= set(each) for each in report["ladder"])
    assert report["ladder"][0]["delta"] is None
    doubtful = [rung for rung in report["ladder"] if rung["verdict"] == "cannot tell"]
    assert all(f"{rung['step']}: {rung['reason']}\n" in done.out for rung in doubtful)


@pytest.mark.usefixtures("short_rankers")
def test_json_on_stdout_is_the_report(features: Path, tmp_path: Path) -> None:
    done = run(features, tmp_path, "--baseline", "popularity", "--steps", "dual, aggregate", "--json", "-qq").ok()
    assert done.json == json.loads((tmp_path / "report" / "report.json").read_text())
    assert [rung["step"] for rung in done.json["ladder"]] == ["baseline", "dual", "aggregate"]
    assert not done.err


@pytest.mark.usefixtures("short_rankers")
def test_the_report_is_written_before_the_exit(features: Path, tmp_path: Path) -> None:
    flags = ("--baseline", "popularity", "--steps", "counters,aggregate")
    done = run(features, tmp_path, *flags, "--require", "aggregate=not worth it")
    done.failed(1, "error: --require aggregate=not worth it: the verdict is `keep`: adds +")
    assert "aggregate" in done.out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["settings"]["require"] == {"aggregate": "not worth it"}
    assert (tmp_path / "report" / "report.html").exists()
    few = run(
        features, tmp_path, *flags, "--max-rows", "400", "--require", "aggregate=keep", "--strict", "--json", "-q"
    )
    few.failed(6, "error: --require aggregate=keep: the verdict is `cannot tell`")
    assert (few.json["error"]["kind"], few.json["exit"]) == ("no answer", 6)


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
        ("no rows are left for test", "remove rows without a label from the file"),
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
def test_bad_data_is_reported(features: Path, tmp_path: Path, case: str) -> None:
    columns, flags, parts = BAD[case]
    copied = altered(features, tmp_path, **columns(pl.read_parquet(features)))
    run(copied, tmp_path, *flags).failed(1, *parts)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--label", "labl"), "--label labl: "),
        (("--label", "text__liked__cos_max"), "is a feature"),
        (("--time", "when"), "--time when: "),
        (("--group", "requst"), "did you mean `request`?"),
        (("--baseline", "popularty"), "did you mean `popularity`?"),
        (("--baseline", "pop"), "did you mean `popularity`?"),
        (("--baseline", "price"), "matches no column; known: popularity, kind, grade, request"),
        (("--baseline", "label"), "matches only label"),
        (("--ranker", "catboost"), "lightgbm"),
        (("--gap", "1 day"), "is not a duration"),
        (("--from", "yesterday"), "ISO 8601"),
        (("--test-fraction", "1.5"), "--test-fraction"),
    ],
)
def test_wrong_flags_are_reported(features: Path, tmp_path: Path, flags: tuple[str, ...], part: str) -> None:
    run(features, tmp_path, *flags).failed(2, part)


def test_a_file_without_metadata_or_features_is_refused(features: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.parquet"
    pl.read_parquet(features).write_parquet(plain)
    run(plain, tmp_path).failed(3, "no readable `extembed` metadata", "pass through")
    table = pq.read_table(features)
    kept = [name for name in table.column_names if "__" not in name]
    pq.write_table(table.select(kept), plain)
    run(plain, tmp_path).failed(1, "has no feature columns")
    run(tmp_path / "nothing.parquet", tmp_path).failed(3, "no such file")


@pytest.mark.usefixtures("short_rankers")
def test_too_little_memory_is_reported_with_a_number_of_rows(features: Path, tmp_path: Path) -> None:
    done = run(features, tmp_path, "--memory", "321MiB").failed(5, "Raise --memory, or evaluate", "--max-rows")
    (rows,) = re.findall(r"--max-rows (\d+)", done.err)
    settings = FAST.model_copy(update={"max_rows": int(rows)})
    report = evaluate(str(features), Roles("label"), settings, Resources(1, 321 * 2**20), Watch())
    assert 0 < report.data.train_rows + report.data.early_stopping_rows + report.data.test_rows <= int(rows)


def test_an_unwritable_report_folder_is_reported_at_once(features: Path) -> None:
    extembed("evaluate", features, "--label", "label", "-o", "/proc/report").failed(2, "/proc/report: no")


@pytest.mark.parametrize(
    ("module", "library"), [("lightgbm", "lightgbm"), ("altair", "altair"), ("vl_convert", "vl-convert-python")]
)
def test_the_extra_is_named_where_it_is_missing(
    features: Path, tmp_path: Path, module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # imports fail as if it were not installed
    with pytest.raises(SpecError, match=rf"needs {library}: pip install {library} \(extra `evaluate`\)"):
        report_job(str(features), Roles("label"), FAST, tmp_path / "report", Resources(1), Watch())
    assert not (tmp_path / "report").exists()
