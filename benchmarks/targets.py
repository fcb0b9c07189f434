"""Evaluate what feedback adds: columns with a target and residuals, on two real logs, step by step.

Usage: python benchmarks/targets.py FOLDER OUT [LOG ...] [VARIANT ...], with the logs FOLDER/ml100k (MovieLens 100K) and
FOLDER/ifdb (plays of interactive fiction), each with interactions.parquet and item_minilm.parquet. Candidates are the
events with feedback after the first tenth by time, the ranker's own columns are count and mean feedback of user and
item over strictly earlier events. Every variant is a spec; its ladder is that of `extembed evaluate` (LightGBM, three
seeds, test on the last fifth). Prints a Markdown table for each log, and keeps everything in OUT.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

OWN = ("user_count", "user_mean", "item_count", "item_mean")
INPUTS = """
interactions = "interactions.parquet"
candidates   = "candidates.parquet"
output       = "features.parquet"

[embeddings.text]
path = "item_minilm.parquet"

[histories.liked]
where = "{liked}"

[histories.disliked]
where = "{disliked}"

[histories.rated]
where = "{rated}"
"""
PLAIN = """
[[aggregate]]
histories   = ["liked", "disliked"]
half_lives  = ["{half_life}", "none"]
percentiles = [10, 50, 90]
thresholds  = [0.3, 0.5]
"""
COUNTERS = """
[[counters]]
name       = "res"
histories  = ["rated"]
half_lives = ["{half_life}", "none"]
target     = "{target}"
residual   = "{residual}"
"""
KERNELS = """
[[aggregate]]
name        = "res"
histories   = ["rated"]
center      = true
half_lives  = ["{half_life}", "none"]
percentiles = []
target      = "{target}"
residual    = "{residual}"
"""
DUAL = """
[[dual]]
histories = ["rated"]
target    = "{signs}"
half_life = "{half_life}"
"""
DUAL_OF_RESIDUALS = """
[[dual]]
name      = "res"
histories = ["rated"]
target    = "{target}"
residual  = "{residual}"
half_life = "{half_life}"
"""
BOTH = KERNELS + KERNELS.replace('"res"', '"own"').replace("{residual}", "item+user")
NEURAL = """
[[neural]]
model = "model"
"""
NEURAL_OF_VALUES = (
    NEURAL
    + """values   = ["{target}"]
residual = "{residual}"
"""
)
ENCODERS = ("attention", "transformer", "gru", "mean")


class Training(NamedTuple):
    """How the model of a variant is trained."""

    encoder: str
    values: bool
    """Whether it reads what the events say"""
    single: bool
    """Whether it is one model of the first 45 % of the candidates, whose rows the ranker loses; else there are five"""


TRAIN = {
    f"neural, {encoder}{', values' if values else ''}{', one model' if single else ''}": Training(
        encoder, values, single
    )
    for single in (False, True)
    for values in (False, True)
    for encoder in ENCODERS
}
VARIANTS = {
    "aggregate, dual (signs)": PLAIN + DUAL,
    "aggregate, dual (residual)": PLAIN + DUAL_OF_RESIDUALS,
    "user's mean residual, aggregate": PLAIN + COUNTERS,
    "kernel means of raw feedback": PLAIN + KERNELS.replace('residual    = "{residual}"\n', ""),
    "kernel means of residuals": PLAIN + KERNELS,
    "kernel means of both residuals": PLAIN + BOTH,
    "kernel means of residuals, dual (signs)": PLAIN + KERNELS + DUAL,
    "kernel means of residuals, dual (residual)": PLAIN + KERNELS + DUAL_OF_RESIDUALS,
    "kernel means of both residuals, dual (both)": PLAIN + BOTH + DUAL + DUAL_OF_RESIDUALS,
    **{
        variant: PLAIN + BOTH + DUAL + DUAL_OF_RESIDUALS + (NEURAL_OF_VALUES if training.values else NEURAL)
        for variant, training in TRAIN.items()
    },
}


@dataclass(frozen=True)
class Log:
    """A log with feedback."""

    feedback: str
    words: dict[str, str]
    """Expressions of the specs"""
    positive: pl.Expr


LOGS = {
    "ml100k": Log(
        "rating",
        {
            "liked": "rating >= 4",
            "disliked": "rating <= 3",
            "rated": "rating > 0",
            "target": "rating",
            "signs": "CASE WHEN rating >= 4 THEN 1.0 ELSE -1.0 END",
            "residual": "item",
            "half_life": "30d",
        },
        pl.col("rating") >= 4,
    ),
    "ifdb": Log(
        "label",
        {
            "liked": "label = 1",
            "disliked": "label = 0",
            "rated": "label >= 0",
            "target": "2 * label - 1",
            "signs": "2 * label - 1",
            "residual": "item",
            "half_life": "365d",
        },
        pl.col("label") == 1,
    ),
}


def with_own_columns(log: pl.DataFrame, feedback: str) -> pl.DataFrame:
    """Add count and mean feedback of each row's user and item over strictly earlier rows."""
    frame = log.with_row_index("row")
    for owner in ("user", "item"):
        keys = [f"{owner}_id", "timestamp"]
        by_time = frame.group_by(keys).agg(n=pl.col(feedback).count(), sum=pl.col(feedback).sum()).sort(keys)
        before = {name: (pl.col(name).cum_sum().over(keys[0]) - pl.col(name)).alias(name) for name in ("n", "sum")}
        by_time = by_time.with_columns(before.values()).select(
            *keys,
            pl.col("n").alias(f"{owner}_count"),
            pl.when(pl.col("n") > 0).then(pl.col("sum") / pl.col("n")).alias(f"{owner}_mean"),
        )
        frame = frame.join(by_time, on=keys, how="left", maintain_order="left")
    return frame.drop("row")


def prepare(folder: Path, out: Path, log: Log) -> None:
    """Write the log and its candidates."""
    out.mkdir(parents=True, exist_ok=True)
    events = pl.read_parquet(folder / "interactions.parquet").sort("timestamp", maintain_order=True)
    events = with_own_columns(events, log.feedback)
    events.write_parquet(out / "interactions.parquet")
    late = events[len(events) // 10 :].filter(pl.col(log.feedback).is_not_null())
    feedback = {log.feedback, "label"} & set(late.columns)
    labelled = late.with_columns(relevant=log.positive.cast(pl.Int8)).drop(feedback)
    labelled.rename({"relevant": "label"}).write_parquet(out / "candidates.parquet")


def ladder(
    folder: Path, out: Path, log: Log, variant: str
) -> dict[str, tuple[float, float | None, list[float] | None]]:
    """Return for each step its AUC, and its gain with an interval."""
    spec = (
        (INPUTS + VARIANTS[variant])
        .format(**log.words)
        .replace("item_minilm.parquet", str(folder / "item_minilm.parquet"))
    )
    (out / "spec.toml").write_text(spec)
    command = [sys.executable, "-m", "extembed_cli"]
    if variant in TRAIN:
        train = ["neural", "train", "spec.toml", "--label", "label", "--model", "model", "-q"]
        train += ["--encoder", TRAIN[variant].encoder]
        if TRAIN[variant].single:
            times = pl.read_parquet(out / "candidates.parquet")["timestamp"].sort()
            train += ["--folds", "1", "--until", times[int(len(times) * 0.45)].isoformat()]
        subprocess.run([*command, *train], cwd=out, check=True)
    subprocess.run([*command, "run", "spec.toml", "-q"], cwd=out, check=True)
    own = [flag for name in OWN for flag in ("--baseline", name)]
    evaluate = [*command, "evaluate", "features.parquet", "--label", "label", *own, "-o", "report", "--json", "-q"]
    shown = subprocess.run(evaluate, cwd=out, check=True, capture_output=True, text=True)
    return {
        step["step"]: (step["value"], step["delta"], step["delta_ci"]) for step in json.loads(shown.stdout)["ladder"]
    }


def main() -> None:
    folder, out, chosen = Path(sys.argv[1]).absolute(), Path(sys.argv[2]), sys.argv[3:]
    for name, log in LOGS.items():
        if LOGS.keys() & set(chosen) and name not in chosen:
            continue
        prepare(folder / name, out / name, log)
        print(f"\n{name}\n\n| variant | step | AUC | gain | interval |\n|---|---|---|---|---|", flush=True)
        for variant in VARIANTS:
            if VARIANTS.keys() & set(chosen) and variant not in chosen:
                continue
            for step, (value, delta, interval) in ladder(folder / name, out / name, log, variant).items():
                gain = "" if delta is None else f"{delta:+.4f}"
                bounds = "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
                print(f"| {variant} | {step} | {value:.4f} | {gain} | {bounds} |", flush=True)


if __name__ == "__main__":
    main()
