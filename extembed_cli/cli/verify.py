"""`extembed verify`: are the outputs of a run as it wrote them?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import ShowFlags, option
from extembed_cli.errors import counted


@expand
def verify(
    *,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="An output of a run: a feature file, a directory, a file of vectors.")
    ],
    report: Annotated[
        Path | None, option("--report", metavar="PATH", help="The run report.  [default: beside OUT]")
    ] = None,
    inputs: Annotated[
        Literal["warn", "error", "skip"],
        option("--inputs", help="What to do about an input that has changed since; `skip` does not read the inputs."),
    ] = "warn",
    show: ShowFlags,
) -> None:
    """Check that outputs are as their run wrote them.

    Reads all files of the run and compares them with its report. Exits with 1 if any is damaged, missing or of another
    run.

    Example:  extembed verify features.parquet
    """
    from extembed_cli.jobs.verify import verify_run

    with console.watching(show.quiet, show.verbose) as watch:
        verified = verify_run(output, report, inputs, watch)
    if show.json:
        console.result_json(verified)
    elif not show.quiet:
        console.result(*_lines(verified))


def _lines(verified: dict[str, Any]) -> list[str]:
    """Return a line for each file, and one for the inputs; warnings tell which have changed."""
    from extembed_cli.jobs.sources import NOT_COMPARED

    lines = [f"{file['path']}: {counted(file['rows'], 'row')}, as its run wrote it" for file in verified["files"]]
    if verified["inputs"]:
        states = list(verified["inputs"].values())
        same = states.count("unchanged")
        all_of = "" if same == len(states) else f"{same} of {len(states)} "
        skipped = counted(states.count(NOT_COMPARED), "table")
        rest = f", {skipped} of Spark not compared" if NOT_COMPARED in states else ""
        lines.append(f"inputs since {verified['started']}: {all_of}unchanged{rest}")
    return lines
