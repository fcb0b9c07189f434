"""Helpers of all tests: small input tables on disk, and ways to run the program."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import unittest.mock
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import threadpoolctl
import typer.main
from xdist.scheduler import LoadScopeScheduling

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

pytest_plugins = ["helpers.engines", "helpers.evaluation", "helpers.neural", "helpers.stores"]

typer.main.get_command = functools.cache(typer.main.get_command)  # Typer builds all commands anew for each call

ROOT = Path(__file__).parent.parent
EXTEMBED = [sys.executable, "-m", "extembed_cli"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long tests too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "few(n): `make test` runs n of the cases, spread over all of them")
    config.addinivalue_line("markers", "local: about what the local engine alone has, such as its cache")
    config.addinivalue_line("markers", "soak: slow, or one more case of its kind; run by `make soak`")
    for profile, examples in {"quick": 2, "soak": 60}.items():
        too_slow = [hypothesis.HealthCheck.too_slow]
        hypothesis.settings.register_profile(
            profile, max_examples=examples, deadline=None, suppress_health_check=too_slow
        )
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "quick")
    if not config.getoption("--soak"):
        _take_one_core(os.environ.get("PYTEST_XDIST_WORKER", ""))


def _take_one_core(worker: str) -> None:
    """Keep a worker of pytest-xdist on a core of its own: small jobs spend a third of their time in moving threads."""
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
        threadpoolctl.threadpool_limits(1, "blas")  # two BLAS threads on one core wait for each other


class _Scheduler(LoadScopeScheduling):
    """Keeps the tests of a file on one worker, and those of folders that share a slow fixture, which is made once."""

    def _split_scope(self, nodeid: str) -> str:
        folder, _, _ = nodeid.rpartition("/")
        return folder if folder in {"tests/evaluate", "tests/neural"} else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)  # there is none with `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduler:
    return _Scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_few(items)
    if config.getoption("--soak"):
        for item in items:
            if hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.soak)  # it has more examples then
    else:
        long = [item for item in items if "soak" in item.keywords]
        items[:] = [item for item in items if "soak" not in item.keywords]
        config.hook.pytest_deselected(items=long)


def _leave_few(items: Iterable[pytest.Item]) -> None:
    """Of the cases of each test with the marker `few`, leave all but n to `make soak`."""
    cases: dict[Any, list[pytest.Item]] = {}
    for item in items:
        if "few" in item.keywords and "soak" not in item.keywords:
            cases.setdefault(getattr(item, "obj", None), []).append(item)
    for test in cases.values():
        marker = test[0].get_closest_marker("few")
        assert marker is not None
        (few,) = marker.args
        kept = {number * len(test) // few for number in range(few)}
        for number, item in enumerate(test):
            if number not in kept:
                item.add_marker(pytest.mark.soak)


def soak(*values: Any, **options: Any) -> Any:
    """A case of a test that only `make soak` runs."""
    return pytest.param(*values, marks=pytest.mark.soak, **options)


def soak_except(often: Collection[str], cases: Iterable[str]) -> list[Any]:
    """Return the cases of a test, of which `make test` runs a few."""
    return [case if case in often else soak(case) for case in cases]


def extembed(*args: str | Path, cwd: Path | None = None) -> Ran:
    """Run the program in this process, and return its exit code and streams. This saves the start of a process."""
    from extembed_cli.cli.main import main

    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        contextlib.chdir(cwd or Path.cwd()),
        unittest.mock.patch.object(sys, "argv", ["extembed", *map(str, args)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


def extembed_process(*args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Ran:
    """Run the program in a process of its own, as a shell does: for tests of memory, imports or signals."""
    done = subprocess.run(
        [*EXTEMBED, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Ran:
    """The exit code and the streams of a finished run."""

    code: int
    out: str
    err: str

    def ok(self) -> Ran:
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self

    def failed(self, code: int, *parts: str) -> Ran:
        """Check the exit code, the parts of the message, and that there is no traceback."""
        assert self.code == code, f"exit {self.code} instead of {code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err, f"{part!r} is not in:\n{self.err}"
        return self

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_spec(path: Path, workers: int = 2) -> pl.DataFrame:
    """Run a spec in this process and read its output: the same job as the command, without its start-up."""
    spec = load_spec(path)
    run_job(spec, RunOptions(workers=workers), Watch())
    return pl.read_parquet(str(spec.output), glob=False)


def vectors(rows: np.ndarray, kind: str = "fixed", dtype: str = "float32") -> pa.Array:
    """Return (n, d) numbers as an Arrow column of vectors: `fixed`, `list` or `large` lists."""
    rows = np.asarray(rows).astype(dtype)
    values = pa.array(rows.ravel())
    offsets = np.arange(0, rows.size + 1, rows.shape[1])
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    if kind == "list":
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def timestamps(micros: Sequence[int] | np.ndarray, unit: str = "us", zone: str | None = None) -> pa.Array:
    divisor = {"s": 1_000_000, "ms": 1000, "us": 1}.get(unit)
    micros = np.asarray(micros, np.int64)
    counts = micros * 1000 if unit == "ns" else micros // divisor
    return pa.array(counts, pa.timestamp(unit, zone))


@dataclass
class World:
    """Small input tables on disk. A test overwrites the table that it is about."""

    folder: Path

    def write(self, name: str, columns: Mapping[str, Any] | pa.Table, **options: Any) -> Path:
        path = self.folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), path, **options)
        return path

    def table(self, name: str) -> pa.Table:
        return pq.read_table(self.folder / f"{name}.parquet")

    def spec(self, text: str = "", name: str = "spec.toml") -> Path:
        """Write a spec over the three tables. `text` is added to it, or replaces it if it has `interactions =`."""
        head = 'interactions = "interactions.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
        tail = '[embeddings.text]\npath = "text.parquet"\n'
        if "interactions =" in text:
            content = text
        else:
            top, mark, tables = text.partition("[")
            content = head + top + (tail if "embeddings.text]" not in text else "") + mark + tables
        if "[[aggregate]]" not in content and "[[dual]]" not in content:
            content += '\n[[aggregate]]\nhalf_lives = ["30d"]\n'
        path = self.folder / name
        path.write_text(content)
        return path

    def run(self, text: str = "", *args: str) -> pl.DataFrame:
        """Run a spec and read its output."""
        extembed("run", self.spec(text), *args).ok()
        return self.output()

    def output(self, name: str = "out.parquet") -> pl.DataFrame:
        return pl.read_parquet(self.folder / name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Provides a fresh copy of the small world, which the test may change."""
    return small_world(tmp_path)


def small_world(folder: Path) -> World:
    """Write 30 users, 40 items (5 without a vector), 600 events with ratings, 300 candidates at different times."""
    world = World(folder)
    rng = np.random.default_rng(7)
    day = 86_400_000_000
    start = 1_700_000_000_000_000
    # Whole hours make ties in time; seconds would not.
    world.write(
        "interactions",
        {
            "user_id": rng.integers(0, 30, 600),
            "item_id": rng.integers(0, 40, 600),
            "timestamp": timestamps(start + rng.integers(0, 60 * 24, 600) * (day // 24)),
            "rating": rng.integers(1, 6, 600),
        },
    )
    world.write(
        "candidates",
        {
            "user_id": rng.integers(0, 33, 300),
            "item_id": rng.integers(0, 40, 300),
            "timestamp": timestamps(start + rng.integers(0, 70 * 24, 300) * (day // 24)),
            "label": rng.integers(0, 2, 300),
        },
    )
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, 8)))})
    return world
