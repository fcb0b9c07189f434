"""Options of several commands, each with one spelling, type and help text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from extembed_cli.errors import SpecError

if TYPE_CHECKING:
    from extembed_cli.jobs.options import RunOptions

RUN, WHAT, TIME = "How to run", "What to compute", "Time"


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:  # noqa: A002
    """Return an option of a command; `panel` is the section of the help that lists it."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


# --- what to read and write --------------------------------------------------------------------------

SpecPath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="SPEC.toml", help="The spec; `extembed sample DIR` writes one to start from."),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, such as `aggregate.0.half_lives='[\"7d\"]'`. Repeatable.",
    ),
]
Output: TypeAlias = Annotated[
    str | None,
    option(
        "--output", "-o", metavar="OUT", help="The .parquet file to write; without that ending, a directory of parts."
    ),
]
CandidatePaths: TypeAlias = Annotated[
    list[str],
    option("--candidates", "-c", metavar="PATH", help="Rows that get features: file, glob or directory. Repeatable."),
]
OptionalCandidatePaths: TypeAlias = Annotated[
    list[str] | None,
    option(
        "--candidates",
        "-c",
        metavar="PATH",
        help="Rows that get features: file, glob or directory. Repeatable. Not needed to write vectors alone.",
    ),
]
TimeUnit: TypeAlias = Annotated[
    str | None,
    option("--time-unit", metavar="s|ms|us|ns", help="Unit of integer timestamps, which count from 1970.", panel=TIME),
]


@dataclass(kw_only=True)
class InputFlags:
    """The inputs of a spec without its candidates, and the selection of their events, as flags."""

    interactions: Annotated[
        list[str],
        option(
            "--interactions",
            "-i",
            metavar="PATH",
            help="Interactions: file, glob or directory of Parquet. Repeatable.",
        ),
    ]
    embeddings: Annotated[
        list[str] | None,
        option("--embedding", "-e", metavar="NAME=PATH", help="Name and path of an embedding table. Repeatable."),
    ] = None
    user_embeddings: Annotated[
        list[str] | None,
        option(
            "--user-embedding",
            metavar="NAME=PATH",
            help="Name and path of a table of users' own vectors, for --side item. Repeatable.",
        ),
    ] = None
    histories: Annotated[
        list[str] | None,
        option(
            "--history",
            metavar="NAME=WHERE",
            help="A named history, such as `liked='rating >= 4'`. Repeatable.",
            panel=WHAT,
        ),
    ] = None
    center: Annotated[
        bool, option("--center/--no-center", help="Subtract each table's mean vector first.", panel=WHAT)
    ] = False
    weight: Annotated[
        str | None,
        option(
            "--weight",
            metavar="EXPR",
            help="Weight of an interaction: a column or a row-wise SQL expression.",
            panel=WHAT,
        ),
    ] = None
    as_of: Annotated[
        str | None,
        option(
            "--as-of", metavar="TIME", help="One as-of time for all candidates, ISO 8601 (naive = UTC).", panel=TIME
        ),
    ] = None
    lag: Annotated[
        str | None,
        option("--lag", metavar="DURATION", help="Events of at most this age are not visible yet.", panel=TIME),
    ] = None
    window: Annotated[
        str | None, option("--window", metavar="DURATION", help="Use only events of at most this age.", panel=TIME)
    ] = None
    max_events: Annotated[
        int | None,
        option("--max-events", metavar="N", help="Use only the newest N visible events of each history.", panel=TIME),
    ] = None
    time_unit: TimeUnit = None

    def data(self, candidates: list[str] | None, output: str | None) -> dict[str, Any]:
        """Return the inputs, the output and the histories of a spec."""
        where = named("--history", self.histories or (), "NAME=WHERE, such as liked='rating >= 4'")
        tables = named("-e", self.embeddings or (), "NAME=PATH")
        of_users = named("--user-embedding", self.user_embeddings or (), "NAME=PATH")
        limits = {"window": self.window, "max_events": self.max_events}
        histories: dict[str, Any] = {name: {"where": text, **limits} for name, text in where.items()}
        if not histories and any(limit is not None for limit in limits.values()):
            histories = {"all": limits}
        return {
            "interactions": self.interactions,
            "candidates": candidates,
            "output": output,
            "embeddings": {name: {"path": path, "center": self.center} for name, path in tables.items()},
            "user_embeddings": {name: {"path": path, "center": self.center} for name, path in of_users.items()},
            "histories": histories,
            "weight": self.weight,
            "as_of": self.as_of,
            "lag": self.lag,
            "time_unit": self.time_unit,
        }


@dataclass(kw_only=True)
class ResidualFlags:
    """The keys of a residual target as flags."""

    residual: Annotated[
        str | None,
        option(
            "--residual",
            metavar="item|user|item+user",
            help="Take the mean of earlier events of the same item or user off the target.",
            panel=WHAT,
        ),
    ] = None
    prior_events: Annotated[
        float | None,
        option(
            "--prior-events",
            metavar="N",
            help="Events with the mean of all earlier ones that are added to those of the item or user.  [default: 5]",
            panel=WHAT,
        ),
    ] = None
    residual_half_life: Annotated[
        str | None,
        option(
            "--residual-half-life",
            metavar="DURATION",
            help="Age at which an event has half its weight in that mean.  [default: none]",
            panel=WHAT,
        ),
    ] = None


@dataclass(kw_only=True)
class SideFlags:
    """Whose histories are read, as flags."""

    side: Annotated[
        str | None,
        option(
            "--side",
            metavar="user|item",
            help="Whose history a candidate sees: that of its user, or of its item, compared with tables of users.  "
            "[default: user]",
            panel=WHAT,
        ),
    ] = None
    own: Annotated[
        bool | None,
        option("--own", help="With --side item: do not leave out the events of the candidate's own user.", panel=WHAT),
    ] = None


def named(flag: str, texts: Iterable[str], form: str) -> dict[str, str]:
    """Return the values of `NAME=VALUE` flags by name."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            short, colon, path = text.partition(":")
            likely = f"{short}={path}" if colon and not path.startswith("//") else f"{Path(text).stem}={text}"
            hint = f". Did you mean {flag} {likely}?" if flag == "-e" and "=" not in text else ""
            raise SpecError(f"{flag} {text}: write {form}{hint}")
        if name in values:
            raise SpecError(f"{flag} {text}: `{name}` is given twice; give each name once")
        values[name] = value
    return values


# --- how to run --------------------------------------------------------------------------------------

Scratch: TypeAlias = Annotated[
    Path | None,
    option(
        "--scratch",
        metavar="DIR",
        file_okay=False,
        help="Folder on a local disk for data that does not fit into memory; for tables of Spark one that all machines "
        "share.  [default: beside the output; on Spark TMPDIR]",
        panel=RUN,
    ),
]
Cache: TypeAlias = Annotated[
    Path | None,
    option(
        "--cache",
        metavar="DIR",
        file_okay=False,
        help="Folder that keeps embedding tables as matrices, so that later runs need not read the tables.",
        panel=RUN,
    ),
]
Wait: TypeAlias = Annotated[
    float,
    option("--wait", min=0, metavar="SECONDS", help="Wait this long for another run that uses the output.", panel=RUN),
]
Json: TypeAlias = Annotated[bool, option("--json", help="Print the result as JSON on stdout.", panel=RUN)]


@dataclass(kw_only=True)
class ShowFlags:
    """The options for the output of a command."""

    json: Json = False
    quiet: Annotated[
        int,
        option("--quiet", "-q", count=True, help="Show only warnings and errors; given twice, only errors.", panel=RUN),
    ] = 0
    verbose: Annotated[
        int,
        option("--verbose", "-v", count=True, help="Show stages and seconds; given twice, also tracebacks.", panel=RUN),
    ] = 0


@dataclass(kw_only=True)
class MachineFlags:
    """The options for what a command may use of the machine."""

    workers: Annotated[
        int | None, option("--workers", min=1, metavar="N", help="Number of threads.  [default: cores]", panel=RUN)
    ] = None
    memory: Annotated[
        str | None,
        option(
            "--memory",
            metavar="SIZE",
            help="Memory limit: `4GiB` and `4G` count in 1024s, `4GB` in 1000s.  [default: 75 % of free]",
            panel=RUN,
        ),
    ] = None

    def run_options(self, **more: Any) -> RunOptions:
        """Return options of a job, by default with the cores and the free memory that this process may use."""
        from extembed_cli.jobs.options import RunOptions
        from extembed_cli.system.memory import free

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        allowed = free() if self.memory is None else bytes_of("--memory", self.memory)
        return RunOptions(self.workers or cores, allowed, **more)


@dataclass(kw_only=True)
class ResourceFlags(MachineFlags):
    """The same, with the time to wait for an output."""

    wait: Wait = 0

    def run_options(self, **more: Any) -> RunOptions:
        """Return options of a job."""
        return super().run_options(wait=self.wait, **more)


@dataclass(kw_only=True)
class SpecFlags:
    """Changes to a spec, and what its data must reach, as flags."""

    overrides: Set = None
    require: Annotated[
        list[str] | None,
        option(
            "--require",
            metavar="KEY=SHARE",
            help="Least share that the data must reach, else exit 1: `coverage=0.5`, `coverage.TABLE=0.9`, "
            "`users_met=0.5`, `non_null=0.1`, `non_null.PATTERN=0.5`. Repeatable.",
        ),
    ] = None
    allow_empty: Annotated[
        bool, option("--allow-empty", help="Accept inputs that do not match at all, with a warning.")
    ] = False

    def settings(self) -> list[str]:
        """Return all of it as overrides of a spec."""
        required = [f"require.{each}" for each in self.require or ()]
        return [*(self.overrides or ()), *required, *["require.allow_empty=true"] * self.allow_empty]


@dataclass(kw_only=True)
class RunFlags(ResourceFlags, SpecFlags):
    """The options for how a job runs."""

    dry_run: Annotated[
        bool,
        option("--dry-run", help="Print the plan and stop: rows, memory, seconds, inputs, coverage, columns."),
    ] = False
    scratch: Scratch = None
    cache: Cache = None
    fresh: Annotated[bool, option("--fresh", help="Start over: do not resume a killed run.", panel=RUN)] = False

    def options(self) -> RunOptions:
        """Return the options of the job."""
        return self.run_options(scratch=self.scratch, cache=self.cache, fresh=self.fresh)


def bytes_of(flag: str, text: str) -> int:
    """Return the size that a flag gives; raise if it is none."""
    from extembed_cli.system.memory import size

    number = size(text)
    if number is None:
        raise SpecError(f"{flag} {text}: not a size; write a number and a unit, such as `4GiB`, `4G` or `500MB`")
    return number
