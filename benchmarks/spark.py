"""Time a job on Spark against the local engine, by executors and by size, as whole processes.

    python benchmarks/spark.py sizes|shuffle|packets [--runs 3]

`sizes`: the local engine with one worker, and Spark with one and two executors of one core, on logs of three sizes.
`shuffle`: bytes that Spark shuffles, from its own events, of one run.
`packets`: what rows between tasks cost in this process, by the number of buckets.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from processes import in_turn, median, ratio
from world import SIZES

from extembed_cli.engines.spark.packets import frames_in, packets_by, table_of

BIG = SIZES["big"]
_EXECUTORS = "local-cluster[{},1,3072]"


def local(folder: Path) -> list[str]:
    """Return the command of the job on one worker: one half-life, three percentiles, two thresholds."""
    groups = 'half_lives = ["7d"]\npercentiles = [10, 50, 90]\nthresholds = [0.2, 0.5]\n'
    tables = "".join(f'{name} = "{name}.parquet"\n' for name in ("interactions", "candidates"))
    spec = folder / "spec.toml"
    spec.write_text(f'{tables}[embeddings.text]\npath = "items.parquet"\n[[aggregate]]\n{groups}')
    return [sys.executable, "-m", "extembed_cli", "run", str(spec), "-o", f"{folder}/local", "-q", "--workers", "1"]


def on_spark(folder: Path, executors: int, *more: str) -> list[str]:
    """Return the command of the same job on Spark."""
    settings = ["--conf", "spark.ui.enabled=false", "--conf", "spark.executor.memory=2g", "--buckets", "8", *more]
    command = [*local(folder)[:-2], "--engine", "spark", "--master", _EXECUTORS.format(executors), *settings]
    return [f"{folder}/spark" if argument == f"{folder}/local" else argument for argument in command]


def check_same(folder: Path) -> None:
    """Raise unless the local output and the one of Spark have the same bytes."""
    one, other = ((folder / name / "_extembed_manifest.json").read_bytes() for name in ("local", "spark"))
    assert one == other, "the outputs differ"


def sizes(runs: int) -> None:
    """Print seconds by size: of both engines, and of one and two executors."""
    for users in (BIG.users // 4, BIG.users, 4 * BIG.users):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            replace(BIG, users=users).write(folder)
            commands = {"local": local(folder)}
            commands |= {f"{n} executor{'s' * (n > 1)}": on_spark(folder, n) for n in (1, 2)}
            costs = in_turn(commands, runs)
            check_same(folder)
            print(f"\n{users:,} users, about {users * 50:,} events and candidates", flush=True)
            for label, cost in costs.items():
                print(f"  {label:12} {median(cost)}  {ratio(cost, costs['local']):.2f}x", flush=True)
            report = json.loads((folder / "spark.run.json").read_text())
            stages = {name: stage["seconds"] for name, stage in report["stages"].items()}
            print(f"  stages of the last run: {stages}", flush=True)


def shuffle(_: int) -> None:
    """Print what tasks of each kind have read, written, shuffled and spilled, from Spark's log of events."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        BIG.write(folder)
        for mode, ship in (("shipped", "4GiB"), ("joined", "1KB")):
            log = folder / f"log-{mode}"
            log.mkdir()
            events = ["--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir={log}"]
            plain = ["--conf", "spark.eventLog.compress=false", "--conf", "spark.eventLog.rolling.enabled=false"]
            in_turn({"local": local(folder), mode: on_spark(folder, 2, *events, *plain, "--ship", ship)}, 1)
            check_same(folder)
            totals = {"shuffle MiB": 0.0, "executor seconds": 0.0, "tasks": 0.0}
            files = [path for path in log.iterdir() if path.suffix != ".crc"]
            for line in (line for file in files for line in file.read_text().splitlines()):
                event = json.loads(line)
                if event["Event"] == "SparkListenerTaskEnd" and event.get("Task Metrics"):
                    metrics = event["Task Metrics"]
                    totals["shuffle MiB"] += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"] / 2**20
                    totals["executor seconds"] += metrics["Executor Run Time"] / 1000
                    totals["tasks"] += 1
            print(mode, {key: round(value, 1) for key, value in totals.items()}, flush=True)


def packets(runs: int) -> None:
    """Print microseconds and bytes a row, of cutting a million events into packets by bucket and reading them again."""
    rng = np.random.default_rng(0)
    rows = 2**20
    events = pl.DataFrame({name: rng.integers(0, 2**40, rows) for name in ("user", "item", "time")})
    for buckets in (8, 1_000, 11_000):
        keys = rng.integers(0, buckets, rows)
        cut, read = [], []
        for _ in range(runs):
            start = time.perf_counter()
            table = table_of(packets_by(keys, "events", events))
            middle = time.perf_counter()
            frames_in(table, "events")
            cut.append(middle - start)
            read.append(time.perf_counter() - middle)
        costs = [f"{1e6 * min(seconds) / rows:.2f}" for seconds in (cut, read)]
        print(
            f"{buckets:6,} buckets: cut {costs[0]} us, read {costs[1]} us, {table.nbytes / rows:.1f} bytes a row",
            flush=True,
        )


def main() -> None:
    """Run the part that the command line names."""
    parts = {"sizes": sizes, "shuffle": shuffle, "packets": packets}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    parts[arguments.part](arguments.runs)


if __name__ == "__main__":
    main()
