"""Time the scoring of each neural encoder: 1 M candidates of 20,000 users with 50 events each, 128 dimensions.

    python benchmarks/neural_speed.py [ENCODER ...] [--dim N]

Each model is trained for one epoch on a sample of the candidates; then the run that scores all candidates is timed, a
whole process from Parquet to Parquet. All candidates of a user have one as-of time, so encoders that do not read the
candidate compute one state for all of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
from processes import measure
from world import Size

SPEC = """
interactions = "interactions.parquet"
candidates = "{candidates}.parquet"
output = "scored.parquet"
[embeddings.text]
path = "items.parquet"
[[neural]]
model = "model"
"""
TRAINED_ON = 20_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("encoders", nargs="*", default=["mean", "gru", "attention", "transformer"])
    parser.add_argument("--dim", default="32")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Size().write(folder)
        sample = pl.read_parquet(folder / "candidates.parquet").sample(TRAINED_ON, seed=0).with_row_index()
        earlier = pl.col("timestamp") - pl.duration(seconds=pl.col("index"))  # the newest are for early stopping
        sample.with_columns(timestamp=earlier).drop("index").write_parquet(folder / "sample.parquet")
        for candidates in ("sample", "candidates"):
            (folder / f"{candidates}.toml").write_text(SPEC.format(candidates=candidates))
        for encoder in chosen.encoders:
            program = [sys.executable, "-m", "extembed_cli"]
            learn = ["neural", "train", f"{folder}/sample.toml", "--label", "label", "--model", f"{folder}/model"]
            how = ["--encoder", encoder, "--dim", chosen.dim, "--epochs", "1", "--device", "cpu", "-q"]
            subprocess.run([*program, *learn, *how], check=True)
            print(
                f"{encoder}, dim {chosen.dim}: {measure([*program, 'run', f'{folder}/candidates.toml', '-q'])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
