"""Evaluate text vectors on MovieLens 100K: features of all three techniques, and their ladder.

Usage: python benchmarks/evaluate.py FOLDER OUT, with interactions.parquet (user_id, item_id, rating, timestamp) and
item_minilm.parquet (item_id, embedding) in FOLDER. Candidates are all ratings except the first tenth by time, the
label is rating >= 4, and the ranker's own columns are count and mean rating of user and item over earlier ratings.
Writes OUT/candidates.parquet, spec.toml, model/, features.parquet and report/. Training takes minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
from dual_defaults import as_of_means

SPEC = """
interactions = "interactions.parquet"
candidates   = "candidates.parquet"
output       = "features.parquet"

[embeddings.text]
path = "item_minilm.parquet"

[histories.liked]
where = "rating >= 4"

[histories.disliked]
where = "rating <= 3"

[[aggregate]]
half_lives  = ["30d", "none"]
percentiles = [10, 50, 90]
thresholds  = [0.3, 0.5]

[[aggregate]]
name        = "res"
histories   = ["all"]
center      = true
half_lives  = ["30d", "none"]
percentiles = []
target      = "rating"
residual    = "item"

[[dual]]
histories = ["all"]
target    = "rating"
residual  = "item"
half_life = "30d"
"""
NEURAL = """
[[neural]]
model    = "model"
values   = ["rating"]
residual = "item"
"""


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    log = as_of_means(pl.read_parquet(folder / "interactions.parquet").sort("timestamp", maintain_order=True))
    log.write_parquet(out / "interactions.parquet")
    candidates = log[len(log) // 10 :].with_columns(label=(pl.col("rating") >= 4).cast(pl.Int8))
    candidates.drop("rating").write_parquet(out / "candidates.parquet")
    vectors = (folder / "item_minilm.parquet").absolute()
    (out / "spec.toml").write_text((SPEC + NEURAL).strip().replace("item_minilm.parquet", str(vectors)) + "\n")
    extembed = [sys.executable, "-m", "extembed_cli"]
    train = [*extembed, "neural", "train", "spec.toml", "--label", "label", "--model", "model", "--resume"]
    subprocess.run(train, cwd=out, check=True)
    subprocess.run([*extembed, "run", "spec.toml"], cwd=out, check=True)
    baseline = [
        flag for name in ("user_count", "user_mean", "item_count", "item_mean") for flag in ("--baseline", name)
    ]
    evaluate = [*extembed, "evaluate", "features.parquet", "--label", "label", *baseline, "-o", "report"]
    subprocess.run([*evaluate, *sys.argv[3:]], cwd=out, check=True)


if __name__ == "__main__":
    main()
