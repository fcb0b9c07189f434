"""`extembed evaluate`: are these embeddings worth it?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extembed_cli.cli import console, options

if TYPE_CHECKING:
    from extembed_cli.evaluate.schema import Report, Rung

_COLUMNS = "Columns"
_HOW = "How to evaluate"
_PIPED = 160  # columns: what reads a pipe has no width, and a row is a line


def evaluate(
    features: Annotated[str, typer.Argument(metavar="FEATURES.parquet", help="What `extembed run` wrote.")],
    label: Annotated[
        str,
        typer.Option("--label", metavar="COL", help="What to predict: 0 or 1; grades with --group."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write report.json and report.html in."),
    ],
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="COL", help="Time of a row.  [default: the spec's]", rich_help_panel=_COLUMNS),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="COL", help="User of a row.  [default: the spec's]", rich_help_panel=_COLUMNS),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="COL",
            help="What the rows of one request share: rank inside requests (lambdarank, nDCG@10).",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    time_unit: options.TimeUnit = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="GLOB",
            help="Columns that your ranker has already, such as 'item_*'. Repeats.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            "--test-fraction",
            metavar="SHARE",
            help="The last of all rows by time, to test on.  [default: 0.2]",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = 0.2,
    gap: Annotated[
        str,
        typer.Option(
            "--gap",
            metavar="DURATION",
            help="Leave out rows so shortly before the test rows, such as `1d`.  [default: none]",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = "0s",
    from_time: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Leave out rows before this time.", rich_help_panel=_HOW),
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(
            "--max-rows", min=1, metavar="N", help="A sample of the users, up to so many rows.", rich_help_panel=_HOW
        ),
    ] = None,
    ranker: Annotated[
        str, typer.Option("--ranker", metavar="lightgbm", help="What to train.", rich_help_panel=_HOW)
    ] = "lightgbm",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="The first seed.", rich_help_panel=_HOW)] = 0,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, metavar="N", help="Rankers to train per step.", rich_help_panel=_HOW)
    ] = 3,
    resamples: Annotated[
        int,
        typer.Option(
            "--resamples", min=100, metavar="N", help="Of the users, for the intervals.", rich_help_panel=_HOW
        ),
    ] = 1000,
    min_gain: Annotated[
        float,
        typer.Option(
            "--min-gain", min=0, max=1, metavar="X", help="A smaller gain is not worth it.", rich_help_panel=_HOW
        ),
    ] = 0.001,
    workers: options.Workers = None,
    memory: options.MemoryAlone = None,
    wait: options.Wait = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Measure what the embeddings bring to a ranker, technique by technique.

    Example:  extembed evaluate features.parquet --label clicked --baseline 'item_*' --baseline popularity -o report
    """
    from extembed_cli.evaluate.columns import Roles
    from extembed_cli.evaluate.evaluate import report_job
    from extembed_cli.evaluate.settings import Settings

    roles = Roles(label, time, user, group, tuple(baseline or ()), time_unit)
    settings = Settings(
        test_fraction=test_fraction,
        gap=gap,
        from_time=from_time,
        max_rows=max_rows,
        ranker=ranker,
        seeds=tuple(range(seed, seed + seeds)),
        resamples=resamples,
        min_gain=min_gain,
    )
    how = console.run_options(workers, memory, wait, None, None, False)
    with console.watching(quiet, verbose) as watch:
        report = report_job(features, roles, settings, output, how.workers, how.memory, wait, watch)
    if json:
        console.result(report.model_dump_json(indent=2))
    elif not quiet:
        _show(report)
    if verbose and not quiet:
        console.costs(watch)
    if not quiet:
        for message in report.warnings:
            console.say(f"warning: {message}")
        console.say(f"{report.summary} Look at {output / 'report.html'}")


def _show(report: Report) -> None:
    """The ladder as a table."""
    from rich.console import Console
    from rich.table import Table

    from extembed_cli.evaluate.schema import TITLES

    metric = report.ladder[0].metric
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True, min_width=9)
    for heading in (TITLES[metric], "gain", "95 % interval", "permuted", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    permuted = report.permuted()
    for rung in report.ladder:
        table.add_row(
            rung.step,
            _number(rung.value),
            _number(rung.delta, "+.4f"),
            _interval(rung),
            _number(permuted[rung.step].value if rung.step in permuted else None, "+.4f"),
            _number(rung.seconds, ",.1f"),
            rung.verdict or "",
        )
    out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_PIPED)
    out.print(table, markup=False)
    for rung in report.ladder:
        if rung.more_rows is not None:
            out.print(f"{rung.step}: {rung.reason}", markup=False)


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)


def _interval(rung: Rung) -> str:
    if rung.delta_ci is None or None in rung.delta_ci:
        return ""
    low, high = rung.delta_ci
    return f"{low:+.4f} to {high:+.4f}"
