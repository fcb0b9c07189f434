"""The stages that a job runs in a Spark session, with their progress and their errors as ours."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as waited
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from extembed_cli.data.shards.scratch import make_folder
from extembed_cli.engines.spark import packets, shipping
from extembed_cli.engines.spark.failures import as_ours
from extembed_cli.engines.spark.packets import Packet, packets_in
from extembed_cli.engines.spark.session import without_warnings
from extembed_cli.engines.spark.tasks import PROBLEM, Grouped, Numbered, raise_problems
from extembed_cli.errors import SpecError
from extembed_cli.system.progress import Watch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Result = TypeVar("Result")

_SECONDS = 0.2  # between two looks at the progress
_PATIENCE = 30  # seconds without an executor, after which a warning comes
_NO_EXECUTOR = (
    "Spark has granted no executor yet: the cluster may be busy, or have no machine with the memory and cores that an "
    "executor is to have (spark.executor.memory, spark.executor.cores)"
)


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
        for key in ("enabled", "enableFullRetryOnMismatch"):
            # A task that runs again may get its packets in another order, and make others of the same rows. Since 4.2
            # Spark would end the job then; the results of a bucket depend on its rows alone.
            self.set(f"spark.sql.shuffle.orderIndependentChecksum.{key}", "false")
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
        with without_warnings():
            return self.session.range(0, numbers, 1, max(1, numbers)).mapInArrow(task, packets.SCHEMA)

    def grouped(self, table: DataFrame, task: Grouped) -> DataFrame:
        """Return the packets of a task for each key of a table."""

        def of_group(key: Any, group: Any) -> Any:
            return task(key, group)

        with without_warnings():
            return table.groupBy("key").applyInArrow(of_group, packets.SCHEMA)

    def cogrouped(self, one: DataFrame, other: DataFrame, task: Grouped) -> DataFrame:
        """Return the packets of a task for each key of two tables."""

        def of_groups(key: Any, group: Any, of_other: Any) -> Any:
            return task(key, group, of_other)

        with without_warnings():
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

    def write(self, name: str, table: DataFrame, folder: str) -> int:
        """Write a table of Spark to Parquet files in a folder; return how many rows its tasks have written."""
        from pyspark.sql import Observation, functions

        rows = Observation()
        observed = table.observe(rows, functions.count(functions.lit(1)).alias("rows"))
        self.run(name, lambda: observed.write.parquet(f"file://{folder}"))
        return int(rows.get["rows"])

    def run(self, name: str, action: Callable[[], Result]) -> Result:
        """Return the result of an action, and show how many of its tasks are done."""
        group = f"extembed-{uuid4().hex}"

        def in_group() -> Result:
            self.context.setJobGroup(group, f"extembed: {name}", interruptOnCancel=True)
            return action()

        with ThreadPoolExecutor(1, "spark") as thread:
            running = thread.submit(in_group)
            began = time.monotonic()
            try:
                while not waited([running], _SECONDS).done:
                    self.watch.moved(0, 0)  # raises if a signal has come
                    self.watch.detail(f"{name} {self._progress(group)}")
                    if time.monotonic() > began + _PATIENCE and not self._has_executors():
                        self.watch.warning(_NO_EXECUTOR)
                result = running.result()
            except BaseException as error:
                while not waited([running], _SECONDS).done:  # Spark may not have got the job yet
                    with suppress(Exception):  # Java may be gone
                        self.context.cancelJobGroup(group)
                ours = as_ours(error)
                if ours is error:
                    raise
                raise ours from error
        self.tasks += self._counts(group)[0]
        return result

    def _has_executors(self) -> bool:
        """Whether there is a process besides the driver's to run tasks, or the driver runs them itself."""
        processes: int = self.context._jsc.sc().getExecutorMemoryStatus().size()
        return processes > 1 or re.fullmatch(r"local(\[.*\])?", self.context.master or "") is not None

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
def temporary_folder(parent: Path | None) -> Iterator[Path]:
    """Yield a new folder of the driver, which is removed at the end."""
    if parent is not None:
        make_folder(parent, "data of a run on Spark", "--scratch")
    with tempfile.TemporaryDirectory(prefix="extembed-spark-", dir=parent) as name:
        yield Path(name).absolute()
