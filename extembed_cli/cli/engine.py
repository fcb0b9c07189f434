"""The options of `extembed run` that choose its engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from extembed_cli.cli.options import RUN, bytes_of, option
from extembed_cli.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from extembed_cli.jobs.options import RunOptions
    from extembed_cli.spec.model import Spec
    from extembed_cli.system.progress import Watch

    Job: TypeAlias = Callable[[Spec, RunOptions, Watch], dict[str, Any]]


@dataclass(kw_only=True)
class EngineFlags:
    """Where a job runs, as flags."""

    engine: Annotated[
        str,
        option(
            "--engine",
            metavar="local|spark",
            help="Where to run: in this process, or on Spark (extra `spark`, Java 17).",
            panel=RUN,
        ),
    ] = "local"
    master: Annotated[
        str | None,
        option(
            "--master",
            metavar="URL",
            help="Spark: its master, such as `yarn` or `local-cluster[2,1,1024]`.  [default: Spark's own settings]",
            panel=RUN,
        ),
    ] = None
    conf: Annotated[
        list[str] | None,
        option("--conf", metavar="KEY=VALUE", help="Spark: a setting of the session. Repeatable.", panel=RUN),
    ] = None
    buckets: Annotated[
        int | None,
        option("--buckets", min=1, metavar="N", help="Spark: parts of the owners.  [default: by the rows]", panel=RUN),
    ] = None

    ship: Annotated[
        str | None,
        option(
            "--ship",
            metavar="SIZE",
            help="Spark: send vectors of up to this size to each executor; join larger ones to the rows that need "
            "them.  [default: 4GiB]",
            panel=RUN,
        ),
    ] = None

    def job(self, *, loud: bool, dry_run: bool) -> Job:
        """Return the function that runs a job; raise if flags do not fit the engine."""
        from extembed_cli.jobs.run import run_job

        of_spark = {"--master": self.master, "--conf": self.conf, "--buckets": self.buckets, "--ship": self.ship}
        if self.engine == "local":
            for flag, value in of_spark.items():
                if value is not None:
                    raise SpecError(f"{flag}: is for --engine spark")
            return run_job
        if self.engine != "spark":
            raise SpecError(f"--engine {self.engine}: no such engine{did_you_mean(self.engine, ['local', 'spark'])}")
        if dry_run:
            raise SpecError("--dry-run: plans a local run; leave out --engine spark")
        from extembed_cli.jobs.spark_passes import SparkOptions, run_on_spark

        conf = dict(pair.partition("=")[::2] for pair in self.conf or ())
        for key, value in conf.items():
            if not key.startswith("spark.") or not value:
                raise SpecError(f"--conf {key}: write KEY=VALUE, such as spark.executor.memory=8g")
        options = SparkOptions(self.master, conf, buckets=self.buckets, loud=loud)
        if self.ship is not None:
            options = replace(options, ship_bytes=bytes_of("--ship", self.ship))
        return functools.partial(run_on_spark, spark=options)
