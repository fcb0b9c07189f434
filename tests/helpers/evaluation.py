"""Worlds with known labels: from the user's rate, the item's popularity and, with `signal`, the user's taste."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Ran, extembed, timestamps, vectors

from extembed_cli.evaluate import ranker
from extembed_cli.evaluate.columns import Roles
from extembed_cli.evaluate.evaluate import evaluate, report_job
from extembed_cli.evaluate.schema import Report
from extembed_cli.evaluate.settings import Settings
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources

TABLES = """
interactions = "interactions.parquet"
candidates = "candidates.parquet"
output = "features.parquet"
[embeddings.text]
path = "text.parquet"
[histories.liked]
where = "liked"
[histories.disliked]
where = "NOT liked"
"""
GROUPS = """
[[aggregate]]
half_lives = ["30d"]
percentiles = [50, 90]
thresholds = [0.3]
[[dual]]
histories = ["all"]
target = "CASE WHEN liked THEN 1.0 ELSE -1.0 END"
"""


def make_features(
    folder: Path, seed: int, signal: float, users: int = 100, items: int = 600, each: int = 50, dim: int = 16
) -> Path:
    """Write the world, run its spec and return the feature file. No user has an item twice: that would be a signal.

    The candidates are the interactions, `each` per user within 90 days, in requests of one user within 15 days.
    """
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((items, dim))
    popularity, rate, taste = rng.standard_normal(items), rng.standard_normal(users), rng.standard_normal((users, dim))
    user = np.repeat(np.arange(users), each)
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    time = rng.integers(0, 90 * 86_400, len(user)) * 1_000_000
    drawn = 0.7 * rate[user] + 0.7 * popularity[item] + signal * (taste[user] * table[item]).sum(1) / np.sqrt(dim)
    liked = rng.random(len(user)) < 1 / (1 + np.exp(-drawn))

    def write(name: str, **columns: object) -> None:
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")

    rows = {"user_id": user, "item_id": item, "timestamp": timestamps(time)}
    write("interactions", **rows, liked=liked)
    own = {"popularity": popularity[item], "kind": np.array(["book", "film"])[item % 2]}
    grade = liked.astype(np.int8) * (1 + (drawn > 1))
    day = np.array([f"{u}/{t // 86_400_000_000 // 15}" for u, t in zip(user, time, strict=True)])
    write("candidates", **rows, **own, label=liked.astype(np.int8), grade=grade, request=day)
    write("text", item_id=np.arange(items), embedding=vectors(table))
    (folder / "spec.toml").write_text(TABLES + GROUPS)
    spec = load_spec(folder / "spec.toml")
    run_job(spec, RunOptions(workers=1), Watch())
    return Path(str(spec.output))


QUICK = ("--seeds", "1", "--resamples", "100", "--workers", "1")
ONCE: dict[str, Any] = {"seeds": (0,), "resamples": 100}
FAST = Settings(**ONCE)
OWN = ("--baseline", "popularity", "--baseline", "kind")


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides a feature file whose features help."""
    return make_features(tmp_path_factory.mktemp("world"), seed=1, signal=1.5)


@pytest.fixture(scope="session")
def features_report(features: Path) -> Report:
    """Provides the evaluation of `features` with its baseline."""
    return judged(features, baseline=("popularity", "kind"), seeds=(0, 1))


@pytest.fixture
def short_rankers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits rankers to 20 rounds, for tests that do not depend on their quality."""
    monkeypatch.setattr(ranker, "_ROUNDS", 20)


def judged(features: Path, baseline: tuple[str, ...] = ("popularity",), **how: Any) -> Report:
    roles = Roles("label", baseline=baseline, group=how.pop("group", None))
    return evaluate(str(features), roles, Settings(**{"resamples": 200, **how}), Resources(1), Watch())


def rung(report: Report, step: str) -> Any:
    return next(each for each in report.ladder if each.step == step)


def control(report: Report, name: str, subject: str | None = None) -> Any:
    return next(c for c in report.controls if c.control == name and subject in {None, c.subject})


def run(features: Path, folder: Path, *args: str, label: str = "label") -> Ran:
    return extembed("evaluate", features, "--label", label, "-o", folder / "report", *QUICK, *args)


def written(features: Path, folder: Path, threads: int = 1) -> dict[str, bytes]:
    """Evaluate in this process and return both files of the report."""
    roles = Roles("label", baseline=("popularity",))
    report_job(str(features), roles, FAST, folder / "report", Resources(threads), Watch())
    return {path.name: path.read_bytes() for path in (folder / "report").iterdir()}


def altered(features: Path, folder: Path, **columns: pl.Series) -> Path:
    """Copy the file with other or more columns and the same metadata."""
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
    """Declare a column as a feature in the metadata of the file."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"extembed"])
    about["columns"].append({"meaning": "", "dtype": "Float32", **column})
    pq.write_table(table.replace_schema_metadata({b"extembed": json.dumps(about)}), path)


def with_rows(features: Path, folder: Path, rows: pl.Expr) -> Path:
    """Copy the file with some of its rows."""
    table = pq.read_table(features)
    kept = pl.read_parquet(features).select(rows).to_series().to_arrow()
    path = folder / "features.parquet"
    pq.write_table(table.filter(kept), path)
    return path
