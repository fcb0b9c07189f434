"""Measure dual scores on MovieLens 100K: the tables in docs/decisions/0007-dual-defaults.md.

Usage: python benchmarks/dual_defaults.py FOLDER, with interactions.parquet (user_id, item_id, rating, timestamp) and
item_minilm.parquet (item_id, embedding) in it. Predicts rating >= 4 for all ratings except the first tenth by time. A
LightGBM ranker is trained on those from 45 % to 80 % of them and tested on the last fifth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.defaults import REGULARIZATION, UNOBSERVED_WEIGHT
from extembed_cli.spec.loading import build_spec
from extembed_cli.system.progress import Watch

SEEDS = (0, 1, 2)
TARGETS = {
    "1 (liked)": None,
    "±1": "CASE WHEN rating >= 4 THEN 1.0 ELSE -1.0 END",
    "rating − 3": "rating - 3",
    "rating − item mean": "rating - item_mean",
}


def as_of_means(log: pl.DataFrame) -> pl.DataFrame:
    """Add count and mean rating of each row's user and item over strictly earlier rows; 3.5 without any."""
    frame = log.with_row_index("row")
    for owner in ("user", "item"):
        by_time = (
            frame.group_by(f"{owner}_id", "timestamp")
            .agg(pl.len().alias("n"), pl.col("rating").sum().alias("sum"))
            .sort(f"{owner}_id", "timestamp")
            .with_columns(
                (pl.col("n").cum_sum().over(f"{owner}_id") - pl.col("n")).alias(f"{owner}_count"),
                (pl.col("sum").cum_sum().over(f"{owner}_id") - pl.col("sum")).alias("before"),
            )
            .with_columns((pl.col("before") / pl.col(f"{owner}_count")).fill_nan(None).alias(f"{owner}_mean"))
        )
        frame = frame.join(
            by_time.select(f"{owner}_id", "timestamp", f"{owner}_count", f"{owner}_mean"),
            on=[f"{owner}_id", "timestamp"],
            how="left",
            maintain_order="left",
        )
    return frame.drop("row").with_columns(pl.col("item_mean").fill_null(3.5), pl.col("user_mean").fill_null(3.5))


def dual_scores(folder: Path, scratch: Path, groups: list[dict[str, object]], center: bool = False) -> pl.DataFrame:
    """Return the scores of several groups from one run, one column each."""
    spec = build_spec(
        {
            "interactions": str(scratch / "log.parquet"),
            "candidates": str(scratch / "candidates.parquet"),
            "output": str(scratch / "features.parquet"),
            "embeddings": {"text": {"path": str(folder / "item_minilm.parquet"), "center": center}},
            "histories": {"liked": {"where": "rating >= 4"}, "disliked": {"where": "rating <= 3"}},
            "aggregate": [{"half_lives": ["30d"], "percentiles": []}],
            "dual": [{"name": f"g{index}", **group} for index, group in enumerate(groups)],
        },
        "benchmark",
    )
    run_job(spec, RunOptions(workers=2), Watch())
    return pl.read_parquet(str(spec.output))


def ranker_auc(frame: pl.DataFrame, columns: list[str]) -> float:
    """Return the mean test AUC of LightGBM over the seeds."""
    train, test = split(frame)
    aucs = []
    for seed in SEEDS:
        model = lightgbm.LGBMClassifier(
            n_estimators=200, learning_rate=0.05, num_leaves=31, min_child_samples=50, subsample=0.8, subsample_freq=1,
            colsample_bytree=0.8, random_state=seed, n_jobs=2, verbose=-1,
        )  # fmt: skip
        model.fit(train.select(columns).to_numpy(), train["label"].to_numpy())
        chances = np.asarray(model.predict_proba(test.select(columns).to_numpy()))[:, 1]
        aucs.append(roc_auc_score(test["label"].to_numpy(), chances))
    return float(np.mean(aucs))


def split(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the training rows, from 45 % to 80 % of the candidates by time, and the test rows, the last fifth."""
    ordered = frame.sort("timestamp", maintain_order=True)
    n = len(ordered)
    return ordered[int(0.45 * n) : int(0.8 * n)], ordered[int(0.8 * n) :]


def alone(frame: pl.DataFrame, column: str) -> float:
    """Return the AUC of a column alone on the training and test rows; null counts as 0."""
    rows = pl.concat(split(frame))
    return float(roc_auc_score(rows["label"], rows[column].fill_null(0)))


COUNTERS = ["user_mean", "user_count", "item_mean", "item_count"]
HISTORY = [f"{h}__{c}" for h in ("liked", "disliked") for c in ("count", "decayed_count__hl30d", "age_last_s")]
STRENGTHS = (0.3, 1.0, 2.0, 3.0, 5.0, 10.0)
UNOBSERVED = (0.0, 0.01, 0.1)
CHANGES: dict[str, dict[str, object]] = {
    "as it is": {},
    "bias": {"bias": True},
    "half_life 365d": {"half_life": "365d"},
    "half_life 90d": {"half_life": "90d"},
    "half_life 30d": {"half_life": "30d"},
    "scaling 1, regularization 0.03": {"scaling": 1.0, "regularization": 0.03},
    "unobserved_weight 0.01": {"unobserved_weight": 0.01},
    "loss logistic, regularization 1": {"loss": "logistic", "regularization": 1.0},
    "refit_every 1d": {"refit_every": "1d"},
}


def group_of(target: str, strength: float = REGULARIZATION, w0: float = UNOBSERVED_WEIGHT) -> dict[str, Any]:
    """Return one [[dual]] group; without an expression, the target is 1 on liked events."""
    text = TARGETS[target]
    history = "liked" if text is None else "all"
    group: dict[str, Any] = {"histories": [history], "regularization": strength, "unobserved_weight": w0}
    return group if text is None else {**group, "target": text}


def column_of(index: int, group: dict[str, Any]) -> str:
    """Return the column of the score."""
    (history,) = group["histories"]
    return f"text__{history}__dual_g{index}_score"


def strengths(run: Callable[..., pl.DataFrame]) -> None:
    """Print AUCs by regularization and unobserved weight for each target: of the score alone / in the ranker."""
    print("\n| target | unobserved_weight |", *(f"λ = {s:g} |" for s in STRENGTHS), flush=True)
    print("|---|---|" + "---|" * len(STRENGTHS))
    for target, w0 in product(TARGETS, UNOBSERVED):
        groups = [group_of(target, strength, w0) for strength in STRENGTHS]
        scores = run(groups)
        columns = [column_of(index, group) for index, group in enumerate(groups)]
        cells = (f"{alone(scores, c):.3f} / {ranker_auc(scores, [*COUNTERS, *HISTORY, c]):.4f} |" for c in columns)
        print(f"| {target} | {w0:g} |", *cells, flush=True)


def changes(run: Callable[..., pl.DataFrame]) -> None:
    """Print AUCs with one option changed at a time."""
    print("\n| change |", *(f"{target} |" for target in TARGETS), flush=True)
    print("|---|" + "---|" * len(TARGETS))
    for center in (False, True):
        for name, change in CHANGES.items():
            if center and change:
                continue
            groups = [{**group_of(target), **change} for target in TARGETS]
            scores = run(groups, center=center)
            columns = [column_of(index, group) for index, group in enumerate(groups)]
            cells = (f"{alone(scores, c):.3f} / {ranker_auc(scores, [*COUNTERS, *HISTORY, c]):.4f} |" for c in columns)
            print(f"| {'center' if center else name} |", *cells, flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    log = as_of_means(pl.read_parquet(folder / "interactions.parquet").sort("timestamp", maintain_order=True))
    with TemporaryDirectory() as scratch:
        log.write_parquet(Path(scratch) / "log.parquet")
        candidates = log[len(log) // 10 :].with_columns(label=(pl.col("rating") >= 4).cast(pl.Int8))
        candidates.write_parquet(Path(scratch) / "candidates.parquet")
        run = partial(dual_scores, folder, Path(scratch))
        scores = run([group_of("±1")])
        print(f"counters {ranker_auc(scores, COUNTERS):.4f}", flush=True)
        print(f"counters and history counters {ranker_auc(scores, COUNTERS + HISTORY):.4f}", flush=True)
        changes(run)
        strengths(run)


if __name__ == "__main__":
    main()
