"""The Spark session that a job runs in: the one that is there, or a new one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extembed_cli.engines.spark.failures import does_not_start
from extembed_cli.errors import SpecError, to_install

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DEFAULTS = {
    "spark.app.name": "extembed",
    "spark.driver.maxResultSize": "0",  # ids of all items come to the driver
    "spark.executorEnv.POLARS_MAX_THREADS": "1",
    "spark.ui.showConsoleProgress": "false",
}
"""Of a session that this program starts"""


@contextmanager
def spark_session(master: str | None, conf: Mapping[str, str], *, loud: bool) -> Iterator[SparkSession]:
    """Yield the running session, or a new one with a master and settings, which is stopped at the end.

    Spark's own messages are dropped unless `loud`: those of a run come through `Cluster`.
    """
    try:
        from pyspark import SparkConf, SparkContext
        from pyspark.find_spark_home import _find_spark_home
        from pyspark.java_gateway import launch_gateway
        from pyspark.sql import SparkSession
    except ImportError:
        raise SpecError(f"--engine spark needs {to_install(['pyspark'], 'spark')}") from None
    running = SparkSession.getActiveSession()  # of this thread
    if running is not None or SparkContext._active_spark_context is not None:
        if master is not None or conf:
            raise SpecError("--master and --conf are for a session that extembed starts, and one is there already")
        yield running or SparkSession.builder.getOrCreate()
        return
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # by spark-submit, which has started Java
    if not submitted:
        _check_java()
    os.environ.setdefault("PYSPARK_PYTHON", conf.get("spark.pyspark.python", sys.executable))
    launched: Any = launch_gateway  # has no types
    with tempfile.TemporaryDirectory(prefix="extembed-spark-") as folder, tempfile.TemporaryFile() as said:
        settings = SparkConf().setAll([*{**_defaults(master, folder, submitted=submitted), **conf}.items()])
        if master is not None:
            settings.setMaster(master)

        def start() -> SparkContext:
            java_process = launched(settings, {} if loud else {"stderr": said})
            return SparkContext(conf=settings, gateway=java_process)

        try:
            # In the main thread, PySpark would replace our handler of SIGINT.
            with without_warnings(), ThreadPoolExecutor(1, "spark") as thread:
                thread.submit(start).result()
                session = SparkSession.builder.getOrCreate()
        except Exception as error:
            said.seek(0)
            raise does_not_start(error, said.read().decode(errors="replace")) from error
        if not loud and not submitted:
            session.sparkContext.setLogLevel("OFF")
        name = session.sparkContext.applicationId
        try:
            yield session
        finally:
            if not submitted:  # else it ends with the program, or belongs to a notebook
                session.stop()
                if (master or "").startswith("local-cluster"):  # whose folders are among the installed packages
                    shutil.rmtree(Path(_find_spark_home()) / "work" / name, ignore_errors=True)


def _check_java() -> None:
    """Raise if there is no Java to start."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which(Path(home) / "bin" / "java" if home else "java") is None:
        install = "install it (Debian: openjdk-17-jre-headless), or set JAVA_HOME"
        raise SpecError(f"--engine spark needs Java 17: {f'there is none in JAVA_HOME={home}' if home else install}")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop PySpark's warning about pandas 3, of which nothing is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _defaults(master: str | None, folder: str, *, submitted: bool) -> dict[str, str]:
    """Return the settings of a session that this program starts, without those that spark-submit has set."""
    from pyspark import SparkConf

    defaults = dict(_DEFAULTS)
    if (master or "").startswith(("local", "spark:")):  # else Spark makes a folder in the working directory
        defaults["spark.sql.warehouse.dir"] = folder
    if submitted:
        known = SparkConf()
        defaults = {key: value for key, value in defaults.items() if not known.contains(key)}
    return defaults
