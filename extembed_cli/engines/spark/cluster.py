"""A Spark session, and the stages that a job runs in it, with their progress and their errors as ours."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as waited
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from extembed_cli.engines.spark import packets, shipping
from extembed_cli.engines.spark.packets import Packet, packets_in
from extembed_cli.engines.spark.tasks import PROBLEM, Grouped, Numbered, raise_problems
from extembed_cli.errors import ExtembedError, InternalError, ResourceError, SpecError, first_line, to_install
from extembed_cli.system.progress import Watch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Result = TypeVar("Result")

_SECONDS = 0.2  # between two looks at the progress
_DEFAULTS = {
    "spark.app.name": "extembed",
    "spark.driver.maxResultSize": "0",  # ids of all items come to the driver
    "spark.executorEnv.POLARS_MAX_THREADS": "1",
    "spark.ui.showConsoleProgress": "false",
}
"""Of a session that this program starts"""
_LOST = ("OutOfMemory", "exit code 137", "ExecutorLostFailure", "SIGKILL", "crashed", "worker exited", "No space left")


class Cluster:
    """A session with settings of its own, in a Spark application that may have others."""

    def __init__(self, session: SparkSession, watch: Watch, buckets: int) -> None:
        try:
            self.context = session.sparkContext
        except Exception as error:
            raise SpecError(
                "--engine spark: this session is one of Spark Connect, which cannot send files to executors. Run in a "
                "classic session (Databricks: a cluster of the access mode `dedicated`)"
            ) from error
        self.session, self.watch, self.buckets = session.newSession(), watch, buckets
        self.tasks = 0
        """Tasks that have been run"""
        self._kept: list[DataFrame] = []
        self._shipped: list[str] = []
        settings = {
            "spark.sql.execution.arrow.maxRecordsPerBatch": packets.IN_A_BATCH,
            "spark.sql.shuffle.partitions": buckets,
            "spark.sql.adaptive.enabled": "false",  # buckets are what it would make, and it cannot cut a group
        }
        for key, value in settings.items():
            self.session.conf.set(key, str(value))

    # --- tables of packets ---

    def numbered(self, task: Numbered, numbers: int) -> DataFrame:
        """Return the packets of a task for each number below `numbers`."""
        with _without_warnings():
            return self.session.range(0, numbers, 1, max(1, numbers)).mapInArrow(task, packets.SCHEMA)

    def grouped(self, table: DataFrame, task: Grouped) -> DataFrame:
        """Return the packets of a task for each key of a table."""

        def of_group(key: Any, group: Any) -> Any:
            return task(key, group)

        with _without_warnings():
            return table.groupBy("key").applyInArrow(of_group, packets.SCHEMA)

    def cogrouped(self, one: DataFrame, other: DataFrame, task: Grouped) -> DataFrame:
        """Return the packets of a task for each key of two tables."""

        def of_groups(key: Any, group: Any, of_other: Any) -> Any:
            return task(key, group, of_other)

        with _without_warnings():
            return one.groupBy("key").cogroup(other.groupBy("key")).applyInArrow(of_groups, packets.SCHEMA)

    def keep(self, table: DataFrame) -> DataFrame:
        """Return the table, which is computed once and then kept on the executors' disks."""
        from pyspark import StorageLevel  # noqa: PLC0415

        kept = table.persist(StorageLevel.DISK_ONLY)
        self._kept.append(kept)
        return kept

    def ship(self, folder: Path) -> str:
        """Send a folder to all executors, and remove it here; return the name that `shipped` takes."""
        name = self.run("ship", lambda: shipping.ship(self.context, folder))
        self._shipped.append(name)
        return name

    def release(self) -> None:
        """Drop all that is kept."""
        for name in self._shipped:
            shipping.empty(name)
        for table in self._kept:
            with suppress(Exception):  # the session may be gone
                table.unpersist()

    def collect(self, name: str, table: DataFrame, *kinds: str) -> list[Packet]:
        """Run a stage; return the packets of some kinds. Raises all problems of its tasks together."""
        chosen = table.filter(table.kind.isin(PROBLEM, *kinds))
        results = list(packets_in(self.run(name, chosen.toArrow)))
        raise_problems(results)
        return results

    def run(self, name: str, action: Callable[[], Result]) -> Result:
        """Return the result of an action, and show how many of its tasks are done."""
        group = f"extembed-{uuid4().hex}"

        def in_group() -> Result:
            self.context.setJobGroup(group, f"extembed: {name}", interruptOnCancel=True)
            return action()

        with ThreadPoolExecutor(1, "spark") as thread:
            running = thread.submit(in_group)
            try:
                while not waited([running], _SECONDS).done:
                    self.watch.moved(0, 0)  # raises if a signal has come
                    self.watch.detail(f"{name} {self._progress(group)}")
                result = running.result()
            except BaseException as error:
                self.context.cancelJobGroup(group)
                raise _as_ours(error) from error
        self.tasks += self._counts(group)[0]
        return result

    def _progress(self, group: str) -> str:
        done, tasks = self._counts(group)
        return f"{done:,}/{tasks:,} tasks" if tasks else ""

    def _counts(self, group: str) -> tuple[int, int]:
        """Return how many tasks of a group are done, and how many there are, as far as Spark remembers."""
        tracker = self.context.statusTracker()
        done = tasks = 0
        for job in tracker.getJobIdsForGroup(group):
            info = tracker.getJobInfo(job)
            for stage in info.stageIds if info else ():
                about = tracker.getStageInfo(stage)
                if about is not None:
                    done, tasks = done + about.numCompletedTasks, tasks + about.numTasks
        return done, tasks


@contextmanager
def spark_session(master: str | None, conf: Mapping[str, str], *, loud: bool) -> Iterator[SparkSession]:
    """Yield the running session, or a new one with a master and settings, which is stopped at the end.

    Spark's own messages are dropped unless `loud`: those of a run come through `Cluster`.
    """
    try:
        from pyspark.sql import SparkSession  # noqa: PLC0415
    except ImportError:
        raise SpecError(f"--engine spark needs {to_install(['pyspark'], 'spark')}") from None
    running = SparkSession.getActiveSession()
    if running is not None:
        yield running
        return
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # by spark-submit, which has started Java
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in os.environ else "java"
    if not submitted and shutil.which(java) is None:
        raise SpecError("--engine spark needs Java 17: install it (Debian: openjdk-17-jre-headless), or set JAVA_HOME")
    os.environ.setdefault("PYSPARK_PYTHON", conf.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder
    for key, value in {**_DEFAULTS, **conf}.items():
        builder = builder.config(key, value)
    if master is not None:
        builder = builder.master(master)
    with _quiet(loud=loud or submitted):
        try:
            session = builder.getOrCreate()
        except Exception as error:
            raise SpecError(f"--engine spark: Spark does not start: {first_line(error)}") from error
        if not loud:
            session.sparkContext.setLogLevel("OFF")
    try:
        yield session
    finally:
        if not submitted:  # else it ends with the program, or belongs to a notebook
            session.stop()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Drop PySpark's warning about pandas 3, of which nothing is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def _quiet(*, loud: bool) -> Iterator[None]:
    """Send what Java writes to stderr, from its start on, to nowhere."""
    if loud:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _as_ours(error: BaseException) -> BaseException:
    """Return an error of Spark as one of ours: lost executors are a lack of memory, all else is a bug."""
    if isinstance(error, ExtembedError | KeyboardInterrupt | SystemExit) or not isinstance(error, Exception):
        return error
    text = str(error)
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("at ", "File "))
    ]
    reason = next((line for line in lines if any(word in line for word in _LOST)), None)
    if reason is not None:
        return ResourceError(
            f"Spark gave up: {reason[:300]}. Give executors more memory (--conf spark.executor.memory=..., "
            "--conf spark.executor.memoryOverhead=...), or use more --buckets"
        )
    last = next((line for line in reversed(lines) if "Error" in line), first_line(error))
    return InternalError(f"a Spark task failed: {last[:300]}")


@contextmanager
def temporary_folder(parent: Path | None) -> Iterator[Path]:
    """Yield a new folder of the driver, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="extembed-spark-", dir=parent) as name:
        yield Path(name)
