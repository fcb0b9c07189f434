"""The engines that tests of the job run on: with one body, in this process, in shards, and on a real Spark cluster."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from extembed_cli.jobs import local_passes
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.run import run_job

EVERY_KEY_OF_A_FIT = """[[dual]]
histories = ["liked"]
target = "rating - 3"
unobserved_weight = 0.1
bias = true
sd = true
user_vectors = "users.parquet"
"""
"""A dual group whose state, scores, deviations and vectors have to be the same wherever it runs"""
LOCAL_CLUSTER = "local-cluster[2,1,1024]"
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # a short life is not worth more of a compiler
_SETTINGS = {
    "spark.driver.extraJavaOptions": _QUICK,
    "spark.executor.extraJavaOptions": _QUICK,
    "spark.sql.codegen.wholeStage": "false",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "OFF",
}
LOCAL, SHARDS, SPARK = "local", "shards", "spark"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that use `engine` on each, unless they are marked `local`; `make test` on the first."""
    if "engine" in metafunc.fixturenames:
        others = () if metafunc.definition.get_closest_marker("local") else (SHARDS, SPARK)
        long = [pytest.param(name, marks=pytest.mark.soak) for name in others]
        metafunc.parametrize("engine", [LOCAL, *long], indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Provides the name of the engine that runs all jobs of a test."""
    name: str = request.param
    if name == SHARDS:
        monkeypatch.setattr(local_passes, "layout_of", lambda *args, **named: Layout(shards=3, rows=200, mapped=True))
    if name == SPARK:
        monkeypatch.setattr(run_job, "__defaults__", (on_spark(), None))
    return name


def pytest_configure(config: pytest.Config) -> None:
    """Start less of Spark for the few tests of `make test`; their tasks are in processes of Python, too."""
    os.environ["EXTEMBED_TEST_MASTER"] = LOCAL_CLUSTER if config.getoption("--soak") else "local[1,4]"


@functools.cache
def spark_session() -> Any:
    """Start Spark until the tests end: by `make soak` with two executors in processes of their own."""
    need_spark()
    import pyspark
    from pyspark.sql import SparkSession

    folder = tempfile.mkdtemp()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = (
        SparkSession.builder.master(os.environ["EXTEMBED_TEST_MASTER"])
        .config("spark.local.dir", folder)
        .config("spark.sql.warehouse.dir", folder)
    )
    for key, value in _SETTINGS.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    work = Path(pyspark.__file__).parent / "work" / session.sparkContext.applicationId
    for leftover in (folder, work):
        atexit.register(shutil.rmtree, leftover, ignore_errors=True)
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
    """Return what starts the passes of a job in the session of the tests."""
    from extembed_cli.jobs.spark_passes import SparkOptions, passes_on_spark

    return functools.partial(passes_on_spark, spark_session(), SparkOptions(**options))
