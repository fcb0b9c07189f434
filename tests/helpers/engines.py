"""The engines that tests of the job run on: with one body, in this process, in shards, and on a real Spark cluster."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from typing import Any

import pytest

from extembed_cli.jobs import local_passes
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.run import run_job

_SETTINGS = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "OFF"}
LOCAL, SHARDS, SPARK = "local", "shards", "spark"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that use `engine` on each; `make test` on the first."""
    if "engine" in metafunc.fixturenames:
        long = [pytest.param(name, marks=pytest.mark.soak) for name in (SHARDS, SPARK)]
        metafunc.parametrize("engine", [LOCAL, *long], indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Provides the name of the engine that runs all jobs of a test."""
    name: str = request.param
    if name == SHARDS:
        monkeypatch.setattr(local_passes, "layout_of", lambda *args, **named: Layout(shards=3, rows=200, mapped=True))
    if name == SPARK:
        start = on_spark()
        monkeypatch.setattr(local_passes, "local_passes", start)
        monkeypatch.setattr(run_job, "__defaults__", (start,))
    return name


@functools.cache
def spark_session() -> Any:
    """Start Spark with two executors in processes of their own, until the tests end; it is the active session."""
    need_spark()
    from pyspark.sql import SparkSession

    folder = tempfile.mkdtemp()
    os.environ["SPARK_WORKER_DIR"] = folder  # else the executors' logs are among the installed packages
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.local.dir", folder)
    for key, value in _SETTINGS.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(session.stop)
    return session


def need_spark() -> None:
    """Skip a test where Spark cannot run; where `.ci/run` has installed it, it must."""
    lacking = [name for name in ("pyspark", "pandas") if importlib.util.find_spec(name) is None]
    lacking += ["java"] if shutil.which("java") is None else []
    if lacking:
        assert "EXTEMBED_NEEDS_SPARK" not in os.environ, f"{lacking} must be here"
        pytest.skip(f"Spark needs {' and '.join(lacking)}")


def on_spark(**options: Any) -> Any:
    """Return what starts a job in the session of the tests."""
    spark_session()
    from extembed_cli.jobs.spark_passes import SparkOptions, spark_passes

    return functools.partial(spark_passes, SparkOptions(**options))
