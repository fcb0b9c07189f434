"""Measure what the other sides add on two real logs: counters of items, audiences, and one model of all users.

Usage: python benchmarks/sides.py FOLDER OUT [LOG ...], with the logs of benchmarks/targets.py. All columns are computed
once; a LightGBM ranker gets one set of columns after the other on top of its own, those of users' histories and the
per-user fits. It is trained on the stretch from 45 % to 80 % of the candidates by time, with five seeds whose chances
are averaged, and tested on the last fifth. Prints AUCs and gains with intervals over users, for all test rows and by
how often the item was seen before.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
from dual_defaults import split
from sklearn.metrics import roc_auc_score
from targets import COUNTERS, DUAL_OF_RESIDUALS, INPUTS, KERNELS, LOGS, OWN, PLAIN, Log, prepare

SEEDS, RESAMPLES = range(5), 500
ITEM_COUNTERS = """
[[counters]]
name       = "seen"
side       = "item"
own        = true
histories  = ["rated", "all"]
half_lives = ["{half_life}", "none"]
target     = "{target}"
"""
AUDIENCE = """
[user_embeddings.taste]
center = true
from   = {{embedding = "text", history = "liked", half_life = "{half_life}"}}

[user_embeddings.said]
center = true
from   = {{embedding = "text", history = "rated", target = "{target}", residual = "item", half_life = "{half_life}"}}

[[aggregate]]
side        = "item"
histories   = ["liked", "disliked"]
half_lives  = ["none"]
percentiles = []

[[aggregate]]
name        = "res"
side        = "item"
histories   = ["rated"]
half_lives  = ["none"]
percentiles = []
target      = "{target}"
residual    = "item"
"""
EVERYBODY = """
[[dual]]
name        = "raw"
side        = "all"
histories   = ["rated"]
target      = "{target}"
bias        = true
refit_every = "7d"

[[dual]]
name        = "res"
side        = "all"
histories   = ["rated"]
target      = "{target}"
residual    = "item"
bias        = true
refit_every = "7d"
"""
SEEN = {"all": (0, 10**9), "0": (0, 0), "1-4": (1, 4), "5-20": (5, 20), "> 20": (21, 10**9)}


def column_sets(names: list[str]) -> dict[str, list[str]]:
    """Return the columns by set, each with those of the sets before."""
    features = [name for name in names if "__" in name]
    everybody = [name for name in features if "all_dual" in name]
    counters = [name for name in features if name.startswith("item_")]
    audience = [name for name in features if "item_" in name and name not in counters]
    users = [name for name in features if name not in {*everybody, *counters, *audience}]
    sets = {"users": users, "counters of items": counters, "audience": audience, "everybody": everybody}
    columns, out = list(OWN), {}
    for name, more in sets.items():
        columns = [*columns, *more]
        out[name] = columns
    return out


def chances(train: pl.DataFrame, test: pl.DataFrame, columns: list[str]) -> np.ndarray:
    """Return the chances of the test rows, averaged over seeds."""
    total = np.zeros(len(test))
    for seed in SEEDS:
        model = lightgbm.LGBMClassifier(
            n_estimators=200, learning_rate=0.05, num_leaves=31, min_child_samples=50, subsample=0.8, subsample_freq=1,
            colsample_bytree=0.8, random_state=seed, n_jobs=2, verbose=-1,
        )  # fmt: skip
        model.fit(train.select(columns).to_numpy(), train["label"].to_numpy())
        total += np.asarray(model.predict_proba(test.select(columns).to_numpy()))[:, 1]
    return total / len(SEEDS)


def gain(labels: np.ndarray, users: np.ndarray, before: np.ndarray, after: np.ndarray) -> str:
    """Return the gain in AUC with its interval over users."""

    def difference(weights: np.ndarray | None) -> float:
        return float(
            roc_auc_score(labels, after, sample_weight=weights) - roc_auc_score(labels, before, sample_weight=weights)
        )

    rng, number = np.random.default_rng(0), np.unique(users, return_inverse=True)[1]
    draws: list[float] = []
    while len(draws) < RESAMPLES:
        weights = np.bincount(rng.integers(0, number.max() + 1, number.max() + 1), minlength=number.max() + 1)[number]
        if len(np.unique(labels[weights > 0])) == 2:
            draws.append(difference(weights))
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{difference(None):+.4f} ({low:+.4f} to {high:+.4f})"


def measure(folder: Path, out: Path, log: Log) -> None:
    """Compute the columns of a log, and print what each set adds."""
    prepare(folder, out, log)
    spec = INPUTS + PLAIN + KERNELS + COUNTERS + DUAL_OF_RESIDUALS + ITEM_COUNTERS + AUDIENCE + EVERYBODY
    text = spec.format(**log.words).replace("item_minilm.parquet", str(folder / "item_minilm.parquet"))
    (out / "spec.toml").write_text(text)
    subprocess.run([sys.executable, "-m", "extembed_cli", "run", "spec.toml"], cwd=out, check=True)
    train, test = split(pl.read_parquet(out / "features.parquet"))
    sets = column_sets(test.columns)
    scores = {name: chances(train, test, columns) for name, columns in sets.items()}
    labels, users, seen = (test[name].to_numpy() for name in ("label", "user_id", "item_all__seen_count"))
    names = list(sets)
    print("| item seen | rows | " + " | ".join([f"AUC with {names[0]}", *(f"+ {name}" for name in names[1:])]) + " |")
    print("|---" * (len(names) + 2) + "|")
    for label, (low, high) in SEEN.items():
        at = (seen >= low) & (seen <= high)
        cells = [f"{roc_auc_score(labels[at], scores[names[0]][at]):.4f}"]
        cells += [gain(labels[at], users[at], scores[a][at], scores[b][at]) for a, b in pairwise(names)]
        print(f"| {label} | {at.sum():,} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    folder, out, chosen = Path(sys.argv[1]).absolute(), Path(sys.argv[2]), sys.argv[3:]
    for name, log in LOGS.items():
        if not chosen or name in chosen:
            print(f"\n{name}\n", flush=True)
            measure(folder / name, out / name, log)


if __name__ == "__main__":
    main()
