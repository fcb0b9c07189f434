"""Measure a whole run with its inputs in an S3 endpoint on loopback (moto), relative to local files.

    python benchmarks/object_store.py [ROWS]

Prints the median seconds of five processes of each kind, in turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.stores import Endpoint, serving  # type: ignore[import-not-found]

_ITEMS, _DIM = 20_000, 64


def write_tables(folder: Path, rows: int) -> None:
    """Write so many events and as many candidates, and a table of vectors."""
    rng = np.random.default_rng(0)
    for name in ("interactions", "candidates"):
        columns = {
            "user_id": rng.integers(0, rows // 20, rows),
            "item_id": rng.integers(0, _ITEMS, rows),
            "timestamp": pa.array(rng.integers(1_700_000_000, 1_710_000_000, rows), pa.timestamp("s")),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    values = pa.array(rng.standard_normal(_ITEMS * _DIM).astype(np.float32))
    vectors = pa.FixedSizeListArray.from_arrays(values, _DIM)
    pq.write_table(pa.table({"item_id": np.arange(_ITEMS), "embedding": vectors}), folder / "text.parquet")


def seconds(folder: Path, at: str, output: str, endpoint: Endpoint) -> float:
    """Return the seconds of one run whose inputs begin with `at`."""
    command = [sys.executable, "-m", "extembed_cli", "aggregate", "-q", "-o", output]
    command += ["-i", f"{at}interactions.parquet", "-c", f"{at}candidates.parquet", "-e", f"text={at}text.parquet"]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, **endpoint.env})
    return time.perf_counter() - began


def main(rows: int) -> None:
    """Print the seconds of local runs, of runs that read from the store, and of runs that write to it too."""
    with tempfile.TemporaryDirectory() as name, serving() as endpoint:
        folder = Path(name)
        write_tables(folder, rows)
        for table in ("interactions", "candidates", "text"):
            endpoint.put(f"{table}.parquet", folder / f"{table}.parquet")
        kinds = {
            "local": ("", "out.parquet"),
            "reads from the store": ("s3://bucket/", "out.parquet"),
            "reads and writes there": ("s3://bucket/", "s3://bucket/out.parquet"),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(5):
            for kind, (at, output) in kinds.items():
                times[kind].append(seconds(folder, at, output, endpoint))
        for kind, measured in times.items():
            print(f"{kind:24} {median(measured):6.2f} s  {median(measured) / median(times['local']):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
