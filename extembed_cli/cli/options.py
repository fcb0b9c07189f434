"""Options that commands share. Type aliases, so that a flag has one spelling, type and help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from extembed_cli.spec.defaults import REGULARIZATION, UNOBSERVED_WEIGHT

_RUN = "How to run"
_WHAT = "What to compute"
_TIME = "Time"

SpecPath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="SPEC.toml", help="The spec; `extembed sample DIR` writes one to start from."),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, such as `aggregate.0.half_lives='[\"7d\"]'`. Repeats.",
    ),
]
Output: TypeAlias = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="OUT", help="The file to write (.parquet), or else a directory of parts."),
]
DryRun: TypeAlias = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan and stop: inputs, coverage, columns, memory, seconds."),
]

Engine: TypeAlias = Annotated[
    str, typer.Option("--engine", metavar="local", help="Where to run; this version has `local`.", rich_help_panel=_RUN)
]

Interactions: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--interactions",
        "-i",
        metavar="PATH",
        help="Interactions: file, glob or directory of Parquet. Repeats.",
    ),
]
Candidates: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--candidates", "-c", metavar="PATH", help="Rows that get features: file, glob or directory. Repeats."
    ),
]
OptionalCandidates: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--candidates",
        "-c",
        metavar="PATH",
        help="Rows that get features: file, glob or directory. Repeats. Not needed for --user-vectors.",
    ),
]
Embeddings: TypeAlias = Annotated[
    list[str],
    typer.Option("--embedding", "-e", metavar="NAME=PATH", help="An embedding table and the name it gets. Repeats."),
]
Histories: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--history",
        metavar="NAME=WHERE",
        help="A named history, such as `liked='rating >= 4'`. Repeats.",
        rich_help_panel=_WHAT,
    ),
]
HalfLives: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--half-life",
        metavar="DURATION",
        help="Half-life of the weights, such as `30d`, or `none`. Repeats.  [default: 30d]",
        rich_help_panel=_WHAT,
    ),
]
Percentiles: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(
        "--percentile",
        metavar="1..99",
        help="Weighted percentile of the cosines. Repeats.  [default: 10, 50, 90]",
        rich_help_panel=_WHAT,
    ),
]
Thresholds: TypeAlias = Annotated[
    list[float] | None,
    typer.Option(
        "--threshold",
        metavar="-1..1",
        help="Share of cosines at or above this. Repeats.",
        rich_help_panel=_WHAT,
    ),
]
UserVectors: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--user-vectors",
        metavar="PATH",
        help="Also write one vector per user (.parquet): user vector · item vector = score. One table, one history.",
    ),
]
Regularization: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--regularization",
        metavar="X",
        help=f"L2 strength λ.  [default: {REGULARIZATION:g}]",
        rich_help_panel=_WHAT,
    ),
]
UnobservedWeight: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--unobserved-weight",
        metavar="X",
        help=f"Weight of every item of the table as one of target 0.  [default: {UNOBSERVED_WEIGHT:g}]",
        rich_help_panel=_WHAT,
    ),
]
Scaling: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--scaling",
        metavar="NU",
        help="λ grows with (events + unobserved weight · items)^NU.  [default: 0]",
        rich_help_panel=_WHAT,
    ),
]
DualHalfLife: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--half-life",
        metavar="DURATION",
        help="Age at which the confidence of an event has halved, such as `90d`.  [default: none]",
        rich_help_panel=_WHAT,
    ),
]
Target: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="EXPR",
        help="What the score of an event's item should be: a column or a row-wise SQL expression.  [default: 1]",
        rich_help_panel=_WHAT,
    ),
]
Loss: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="squared|logistic",
        help="Fit the target, or with `logistic` its sign.  [default: squared]",
        rich_help_panel=_WHAT,
    ),
]
Bias: TypeAlias = Annotated[
    bool, typer.Option("--bias", help="Append a constant 1 to every vector.", rich_help_panel=_WHAT)
]
Sd: TypeAlias = Annotated[
    bool, typer.Option("--sd", help="Also write the score's posterior standard deviation.", rich_help_panel=_WHAT)
]
RefitEvery: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--refit-every",
        metavar="DURATION",
        help="Fit as of the time floored to this step, as a nightly batch (`1d`) would.",
        rich_help_panel=_TIME,
    ),
]
Center: TypeAlias = Annotated[
    bool,
    typer.Option("--center/--no-center", help="Subtract each table's mean vector first.", rich_help_panel=_WHAT),
]
Weight: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--weight",
        metavar="EXPR",
        help="Weight of an interaction: a column or a row-wise SQL expression.",
        rich_help_panel=_WHAT,
    ),
]
AsOf: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="One as-of time for all candidates, ISO 8601 (naive = UTC).",
        rich_help_panel=_TIME,
    ),
]
Lag: TypeAlias = Annotated[
    str | None,
    typer.Option("--lag", metavar="DURATION", help="Events this young are not visible yet.", rich_help_panel=_TIME),
]
Window: TypeAlias = Annotated[
    str | None,
    typer.Option("--window", metavar="DURATION", help="Only events at most this old.", rich_help_panel=_TIME),
]
MaxEvents: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-events",
        metavar="N",
        help="Only the newest N visible events of each history.",
        rich_help_panel=_TIME,
    ),
]
TimeUnit: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--time-unit",
        metavar="s|ms|us|ns",
        help="What integer timestamps count since 1970.",
        rich_help_panel=_TIME,
    ),
]

Workers: TypeAlias = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Threads.  [default: cores]", rich_help_panel=_RUN),
]
Memory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Keep to this much: `4GiB` and `4G` count in 1024s, `4GB` in 1000s; what does not fit waits on disk.  "
        "[default: 75 % of free]",
        rich_help_panel=_RUN,
    ),
]
MemoryAlone: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Keep to this much: `4GiB` and `4G` count in 1024s, `4GB` in 1000s.  [default: 75 % of free]",
        rich_help_panel=_RUN,
    ),
]
Scratch: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--scratch",
        metavar="DIR",
        file_okay=False,
        help="Where what does not fit into memory waits: a local disk.  [default: beside the output]",
        rich_help_panel=_RUN,
    ),
]
Cache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        file_okay=False,
        help="Keep embedding tables there as matrices; the next run on the same tables does not read them.",
        rich_help_panel=_RUN,
    ),
]
Fresh: TypeAlias = Annotated[
    bool,
    typer.Option("--fresh", help="Start over, whatever shards a killed run has finished.", rich_help_panel=_RUN),
]
Wait: TypeAlias = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0,
        metavar="SECONDS",
        help="Wait this long for another run that holds the output.",
        rich_help_panel=_RUN,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Machine-readable result on stdout.", rich_help_panel=_RUN)
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=_RUN)]
Verbose: TypeAlias = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Stages and seconds; twice: tracebacks.", rich_help_panel=_RUN),
]
