"""Time technique 1 as whole processes, Parquet to Parquet, against DuckDB, polars and the lower bound of any program.

    python benchmarks/aggregate.py [peers|grid|scale|large|sides|start ...] [--runs 3]

Runs all sides of a comparison in turn, prints medians and ratios, and writes them to benchmarks/results/aggregate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import Cost, in_turn, measure, median, ratio
from world import SIZES, START_US, YEAR_US, Size

HERE = Path(__file__).parent
BIG = SIZES["big"]
Results = dict[str, dict[str, Any]]


def ours(folder: Path, *more: str) -> list[str]:
    """Return the command of the job: one half-life, three percentiles, two thresholds."""
    command = [sys.executable, "-m", "extembed_cli", "aggregate", "-q", "--half-life", "7d"]
    command += ["-i", f"{folder}/interactions.parquet", "-c", f"{folder}/candidates.parquet"]
    command += ["-e", f"text={folder}/items.parquet", "-o", f"{folder}/features.parquet"]
    command += [f"--percentile={p}" for p in (10, 50, 90)] + [f"--threshold={t}" for t in (0.2, 0.5)]
    return [*command, *more]


def peer(name: str, folder: Path, threads: int = 2) -> list[str]:
    """Return the command of another program for the job, or of the lower bound."""
    return [sys.executable, str(HERE / "aggregate_peers.py"), name, str(folder), str(threads)]


def show(results: Results, title: str, costs: dict[str, list[Cost]]) -> None:
    """Print the medians of one comparison and add them to the results."""
    print(f"\n{title}", flush=True)
    for name, side in costs.items():
        base = costs["extembed"]
        times = "" if name == "extembed" else f"  {ratio(side, base):.2f}x"
        print(f"  {name:12} {median(side)}{times}", flush=True)
        results.setdefault(title, {})[name] = {
            **{figure: round(value, 3) for figure, value in median(side)._asdict().items()},
            **({} if name == "extembed" else {"times_extembed": round(ratio(side, base), 3)}),
        }


def peers(results: Results, runs: int) -> None:
    """Compare one and two workers, the lower bound and DuckDB on several logs, and polars on a small one."""
    for size in SIZES.values():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size.write(folder)
            commands = {"extembed": ours(folder, "--workers", "2"), "one worker": ours(folder, "--workers", "1")}
            commands |= {"floor": peer("floor", folder), "floor, one": peer("floor", folder, threads=1)}
            commands |= {"duckdb": peer("duckdb", folder)}
            show(results, size.name, in_turn(commands, runs))
            stages = [(compute_seconds(folder, 1), compute_seconds(folder, 2)) for _ in range(max(3, runs))]
            both = statistics.median(two / one for one, two in stages)
            two = statistics.median(two for _, two in stages)
            print(f"  stage compute: {two:.2f} s, {both:.2f} times that of one worker")
            results[size.name]["compute, 2 workers against 1"] = {"ratio": round(both, 3)}
    small = replace(BIG, users=400)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small.write(folder)
        commands = {"extembed": ours(folder), "polars": peer("polars", folder), "duckdb": peer("duckdb", folder)}
        show(results, small.name, in_turn(commands, runs))


def compute_seconds(folder: Path, workers: int) -> float:
    """Return the seconds of the stage `compute` in one run."""
    measure(ours(folder, "--workers", str(workers)))
    report = json.loads((folder / "features.parquet.run.json").read_text())
    return float(report["stages"]["compute"]["seconds"])


def grid(results: Results, runs: int) -> None:
    """Time vectors of different lengths."""
    for size in (replace(BIG, dim=dim) for dim in (64, 384, 768)):
        with tempfile.TemporaryDirectory() as name:
            size.write(Path(name))
            show(results, size.name, in_turn({"extembed": ours(Path(name))}, runs))


def scale(results: Results, runs: int) -> None:
    """Time four times the work."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as four:
        BIG.write(Path(one))
        replace(BIG, users=4 * BIG.users).write(Path(four))
        costs = in_turn({"extembed": ours(Path(one)), "four times": ours(Path(four))}, runs)
    show(results, "four times the work", costs)


def large(results: Results, runs: int) -> None:
    """Time a log that is far larger than the memory of the run."""
    size = Size(users=600_000, items=40_000, candidates=5, even=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size.write(folder)
        digests = set()
        for memory in ("300MiB", "1GiB", "8GiB"):
            cost = measure(ours(folder, "--memory", memory))
            report = json.loads((folder / "features.parquet.run.json").read_text())
            digests.add(report["output_sha256"])
            show(results, f"{size.name}, --memory {memory}: {report['shards']} shards", {"extembed": [cost]})
        print(f"  the same bytes: {len(digests) == 1}")


def start(results: Results, runs: int) -> None:
    """Time `--help` and a small job."""
    help_ = [sys.executable, "-c", "import sys; sys.argv[1:] = ['--help']; sys.stdout = open('/dev/null', 'w'); "
             "from extembed_cli.__main__ import main; main()"]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        sample = str(HERE.parent / "sample_data" / "spec.toml")
        job = [sys.executable, "-m", "extembed_cli", "run", sample, "-q", "-o", f"{name}/features.parquet"]
        show(results, "--help", in_turn({"extembed": help_}, runs))
        show(results, "the job of sample_data", in_turn({"extembed": job}, runs))


def sides(results: Results, runs: int) -> None:
    """Compare a cosine on the side of items, one of which has a tenth of the events, with one on that of users."""
    rng, n, m, owners, dim = np.random.default_rng(0), 400_000, 60_000, 8_000, 64
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for table, rows, hot in (("interactions", n, 0.1), ("candidates", m, 0.005)):
            items = np.where(rng.random(rows) < hot, 7, rng.integers(0, owners, rows))
            times = pa.array(START_US + rng.integers(0, YEAR_US, rows), pa.timestamp("us"))
            columns = {"user_id": rng.integers(0, owners, rows), "item_id": items, "timestamp": times}
            pq.write_table(pa.table(columns), folder / f"{table}.parquet")
        for side in ("user", "item"):
            vectors = rng.standard_normal(owners * dim, dtype=np.float32)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim)
            pq.write_table(
                pa.table({f"{side}_id": np.arange(owners), "embedding": column}), folder / f"{side}s.parquet"
            )
        command = [sys.executable, "-m", "extembed_cli", "aggregate", "-q", "--workers", "1", "--threshold", "0.2"]
        command += ["-i", f"{folder}/interactions.parquet", "-c", f"{folder}/candidates.parquet"]
        command += ["-o", f"{folder}/features.parquet"]
        flags = {
            "user": ["-e", f"v={folder}/items.parquet"],
            "item": ["--side", "item", "--own", "--user-embedding", f"v={folder}/users.parquet"],
        }
        each: dict[str, list[float]] = {side: [] for side in flags}
        for _ in range(runs):
            for side, more in flags.items():
                measure([*command, *more])
                report = json.loads((folder / "features.parquet.run.json").read_text())
                each[side].append(report["seconds_by_technique"]["aggregate"] / report["cosines"])
    of_user, of_item = (statistics.median(each[side]) for side in ("user", "item"))
    print(f"\ncosines: {1e9 * of_user:.1f} ns on the side of users, {1e9 * of_item:.1f} on that of items", flush=True)
    results["cosines of a popular item"] = {"item against user": {"ratio": round(of_item / of_user, 3)}}


PARTS: dict[str, Callable[[Results, int], None]] = {
    "peers": peers, "grid": grid, "scale": scale, "large": large, "sides": sides, "start": start
}  # fmt: skip


def machine() -> str:
    """Return the number of cores and the type of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        wide = "with AVX-512" if "avx512f" in " ".join(lines) else "without AVX-512"
    except (OSError, StopIteration):
        model, wide = platform.processor(), ""
    return f"{os.cpu_count()} x {model} {wide}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="all of them unless named")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(machine())
    results: Results = {}
    for part in args.parts or PARTS:
        PARTS[part](results, args.runs)
    path = HERE / "results" / "aggregate.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**known, "machine": machine(), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
