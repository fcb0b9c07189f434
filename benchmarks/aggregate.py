"""Technique 1 as a whole process, Parquet to Parquet: 1 M interactions x 1 M candidates, 50 M cosines, d = 128.

    python benchmarks/aggregate.py [--users 20000] [--events 50] [--candidates 50] [--dim 128] [--runs 5]

Prints the median of wall and CPU seconds and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import measure, median

ITEMS = 40_000
YEAR_US = 365 * 86_400_000_000
START_US = 1_700_000_000_000_000


def write_inputs(folder: Path, users: int, events: int, candidates: int, dim: int) -> None:
    """Random events over a year, and candidates at its end."""
    rng = np.random.default_rng(0)
    n = users * events
    times = pa.array(START_US + rng.integers(0, YEAR_US, n), pa.timestamp("us"))
    log = {"user_id": rng.integers(0, users, n), "item_id": rng.integers(0, ITEMS, n), "timestamp": times}
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    n = users * candidates
    asked = {
        "user_id": np.repeat(np.arange(users), candidates),
        "item_id": rng.integers(0, ITEMS, n),
        "timestamp": pa.array(np.full(n, START_US + YEAR_US), pa.timestamp("us")),
        "label": rng.integers(0, 2, n).astype(np.int8),
    }
    pq.write_table(pa.table(asked), folder / "candidates.parquet")
    vectors = rng.standard_normal((ITEMS, dim)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    pq.write_table(pa.table({"item_id": np.arange(ITEMS), "embedding": column}), folder / "items.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("users", 20_000), ("events", 50), ("candidates", 50), ("dim", 128), ("runs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, args.users, args.events, args.candidates, args.dim)
        command = [sys.executable, "-m", "extembed_cli", "aggregate", "-q", "--half-life", "30d"]
        command += ["-i", f"{folder}/interactions.parquet", "-c", f"{folder}/candidates.parquet"]
        command += ["-e", f"text={folder}/items.parquet", "-o", f"{folder}/features.parquet"]
        command += [f"--percentile={p}" for p in (10, 50, 90)] + [f"--threshold={t}" for t in (0.3, 0.5)]
        measure(command)
        runs = [measure(command) for _ in range(args.runs)]
    print(
        f"{args.users * args.events:,} interactions x {args.users * args.candidates:,} candidates, d = {args.dim}, "
        f"{os.cpu_count()} cores: median of {args.runs} runs {median(runs)}"
    )


if __name__ == "__main__":
    main()
