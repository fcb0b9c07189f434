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

from extembed_cli.data.shards.scratch import make_folder
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
    """A session in which a job runs, with settings for it until it is released."""

    def __init__(self, session: SparkSession, watch: Watch, buckets: int, scratch: Path | None = None) -> None:
        try:
            self.context = session.sparkContext
        except Exception as error:
            raise SpecError(
                "--engine spark: this session is one of Spark Connect, which cannot send files to executors. Run in a "
                "classic session (Databricks: a cluster of the access mode `dedicated`)"
            ) from error
        self.session, self.watch = session, watch
        self.scratch = scratch
        self.tasks = 0
        """Tasks that have been run"""
        self._kept: list[DataFrame] = []
        self._shipped: list[str] = []
        self._before: dict[str, str | None] = {}
        self.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(packets.IN_A_BATCH))
        self.set("spark.sql.adaptive.enabled", "false")  # buckets are what it would make, and it cannot cut a group
        self.cut(buckets)

    def cut(self, buckets: int) -> None:
        """Set the number of buckets, which is that of the tasks after a shuffle."""
        self.buckets = buckets
        self.set("spark.sql.shuffle.partitions", str(buckets))

    def set(self, key: str, value: str) -> None:
        """Change a setting of the session, which `release` takes back."""
        self._before.setdefault(key, self.session.conf.get(key, None))
        self.session.conf.set(key, value)

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
        from pyspark import StorageLevel

        kept = table.persist(StorageLevel.DISK_ONLY)
        self._kept.append(kept)
        return kept

    def ship(self, folder: Path) -> str:
        """Send a folder to all executors, and remove it here; return the name that `shipped` takes."""
        name = self.run("ship", lambda: shipping.ship(self.context, folder, self.scratch))
        self._shipped.append(name)
        return name

    def release(self) -> None:
        """Drop all that is kept, and give the session its settings back."""
        with suppress(Exception):  # the session may be gone
            for key, value in self._before.items():
                if value is None:
                    self.session.conf.unset(key)
                else:
                    self.session.conf.set(key, value)
        for name in self._shipped:
            shipping.empty(name)
        for table in self._kept:
            with suppress(Exception):  # the session may be gone
                table.unpersist()

    def collect(self, name: str, table: DataFrame, *kinds: str) -> list[Packet]:
        """Run a stage; return the packets of some kinds. Raises all problems of its tasks together."""
        results = list(packets_in(self.run(name, only(table, *kinds).toArrow)))
        raise_problems(results)
        return results

    def stream(self, name: str, table: DataFrame, kind: str, take: Callable[[Packet], None]) -> None:
        """Run a stage, and take the packets of one kind one by one, without holding all of them."""

        def rows() -> None:
            for row in only(table, kind).toLocalIterator():
                packet = Packet(row.key, row.kind, bytes(row.data))
                raise_problems([packet])
                take(packet)

        self.run(name, rows)

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
                while not waited([running], _SECONDS).done:  # Spark may not have got the job yet
                    with suppress(Exception):  # Java may be gone
                        self.context.cancelJobGroup(group)
                ours = _as_ours(error)
                if ours is error:
                    raise
                raise ours from error
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


def only(table: DataFrame, *kinds: str) -> DataFrame:
    """Return the packets of some kinds, and the problems of earlier stages, which end the job."""
    return table.filter(table.kind.isin(PROBLEM, *kinds))


@contextmanager
def spark_session(master: str | None, conf: Mapping[str, str], *, loud: bool) -> Iterator[SparkSession]:
    """Yield the running session, or a new one with a master and settings, which is stopped at the end.

    Spark's own messages are dropped unless `loud`: those of a run come through `Cluster`.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SpecError(f"--engine spark needs {to_install(['pyspark'], 'spark')}") from None
    running = SparkSession.getActiveSession()
    if running is not None:
        if master is not None or conf:
            raise SpecError("--master and --conf are for a session that extembed starts, and one is there already")
        yield running
        return
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # by spark-submit, which has started Java
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in os.environ else "java"
    if not submitted and shutil.which(java) is None:
        raise SpecError("--engine spark needs Java 17: install it (Debian: openjdk-17-jre-headless), or set JAVA_HOME")
    os.environ.setdefault("PYSPARK_PYTHON", conf.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder
    for key, value in {**_defaults(master, submitted=submitted), **conf}.items():
        builder = builder.config(key, value)
    if master is not None:
        builder = builder.master(master)
    with _quiet(loud=loud or submitted):
        try:
            session = builder.getOrCreate()
        except Exception as error:
            raise SpecError(
                f"--engine spark: Spark does not start: {first_line(error)}; -v -v shows what it says"
            ) from error
        if not loud and not submitted:
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


def _defaults(master: str | None, *, submitted: bool) -> dict[str, str]:
    """Return the settings of a session that this program starts, without those that spark-submit has set."""
    from pyspark import SparkConf

    defaults = dict(_DEFAULTS)
    if master is not None and master.startswith("local"):  # else Spark makes a folder in the working directory
        defaults["spark.sql.warehouse.dir"] = str(Path(tempfile.gettempdir()) / "extembed-spark-warehouse")
    if submitted:
        known = SparkConf()
        defaults = {key: value for key, value in defaults.items() if not known.contains(key)}
    return defaults


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
    missing = next((line for line in lines if "ModuleNotFoundError" in line), None)
    if missing is not None:
        return SpecError(
            f"--engine spark: executors lack a library ({missing[:200]}). Ship the environment with the job "
            "(docs/how-to/spark.md, `On a cluster`), or set PYSPARK_PYTHON to a Python that has it"
        )
    if "maxResultSize" in text:
        return ResourceError("Spark gave up: the ids of a job come to the driver. Set spark.driver.maxResultSize=0")
    last = next((line for line in reversed(lines) if "Error" in line), first_line(error))
    return InternalError(f"a Spark task failed: {last[:300]}")


@contextmanager
def temporary_folder(parent: Path | None) -> Iterator[Path]:
    """Yield a new folder of the driver, which is removed at the end."""
    if parent is not None:
        make_folder(parent, "data of a run on Spark", "--scratch")
    with tempfile.TemporaryDirectory(prefix="extembed-spark-", dir=parent) as name:
        yield Path(name)
