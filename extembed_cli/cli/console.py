"""Output for users: messages to stderr, results to stdout, a progress bar on a terminal only.

Whatever is in the ids, paths and names of columns in a line, it stays one line and does nothing to the terminal.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from extembed_cli.errors import counted
from extembed_cli.printable import printable, printable_json
from extembed_cli.system import signals

if TYPE_CHECKING:
    from rich.progress import Progress

    from extembed_cli.system.progress import Watch

_NO_READER = 128 + signal.SIGPIPE
VECTORS = {"user_vectors": "user vectors", "item_vectors": "item vectors", "all_vectors": "vectors of all users"}
"""The words for each kind of written vectors, by the key in a report"""


def say(*lines: str) -> None:
    """Write lines for a person to stderr."""
    _write(sys.stderr, map(printable, lines))


def result(*lines: str) -> None:
    """Write the lines of a result to stdout."""
    _write(sys.stdout, map(printable, lines))


def result_table(rows: Iterable[Sequence[str]]) -> None:
    """Write rows to stdout, with tabs between their cells."""
    _write(sys.stdout, ("\t".join(map(printable, row)) for row in rows))


def result_json(data: dict[str, Any]) -> None:
    """Write a result as JSON to stdout."""
    _write(sys.stdout, [printable_json(data)])


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    """Write lines; exit if the stream is a pipe that nobody reads any more, as after `| head`."""
    try:
        print(*lines, sep="\n", file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes it once more when it ends
        sys.exit(_NO_READER)


@contextmanager
def watching(quiet: int, verbose: int) -> Iterator[Watch]:
    """Yield a watch that shows warnings (-qq: none), notes, a bar on a terminal (-q: none), and stages (with -v)."""
    from extembed_cli.system.progress import Watch

    watch = Watch(stage=lambda name: signals.exit_if_received(), moved=lambda rows, work: signals.exit_if_received())
    if quiet < 2:
        watch.warn = lambda message: say(f"warning: {message}")
    if quiet:
        yield watch
        return
    watch.note = say
    if not sys.stderr.isatty() or os.environ.get("TERM") in {"dumb", "unknown"}:
        if verbose:
            announced: set[str] = set()

            def stage(name: str) -> None:
                signals.exit_if_received()
                if name not in announced:
                    announced.add(name)
                    say(f"{name} ...")

            watch.stage = stage
        yield watch
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        bar = _Bar(progress)
        watch.note = lambda message: console.print(printable(message), highlight=False, markup=False, soft_wrap=True)
        watch.warn = lambda message: watch.note(f"warning: {message}")
        watch.stage, watch.total, watch.expect, watch.moved = bar.stage, bar.total, bar.expect, bar.moved
        watch.detail = bar.detail
        yield watch


class _Bar:
    """The progress bar of a whole run, with the rows of the present stage as its text."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=None, rows="")
        self.rows, self.expected, self.since = 0.0, 0, time.monotonic()

    def stage(self, name: str) -> None:
        signals.exit_if_received()
        self.progress.update(self.task, description=name)

    def detail(self, text: str) -> None:
        self.progress.update(self.task, description=text)

    def total(self, work: float) -> None:
        self.progress.update(self.task, total=work)

    def expect(self, rows: int) -> None:
        self.rows, self.expected, self.since = 0.0, rows, time.monotonic()
        self.progress.update(self.task, rows="")

    def moved(self, rows: float, work: float) -> None:
        signals.exit_if_received()
        self.rows += rows
        rate = self.rows / max(1e-6, time.monotonic() - self.since)
        self.progress.update(self.task, advance=work, rows=f"{self.rows:,.0f}/{self.expected:,} rows, {rate:,.0f}/s")


def used_text(events: dict[str, Any]) -> str:
    """Return how many of the interactions are used, and why not all of them."""
    owners = "users" if "of_users_without_candidates" in events else "items"
    unused = events[f"of_{owners}_without_candidates"]
    reason = f" ({unused:,} of {owners} without candidates)" if unused else ""
    return f"{counted(events['rows'], 'row')}, {events['used']:,} used{reason}"


def candidates_text(candidates: dict[str, Any]) -> str:
    """Return how many candidates there are, and of how many users; in a spec of item histories alone, of items."""
    owner = "user" if "users" in candidates else "item"
    return f"{counted(candidates['rows'], 'row')}, {counted(candidates[f'{owner}s'], owner)}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table. A column whose head ends in a space has numbers, which are aligned to the right."""
    right = [name.endswith(" ") for name in head]
    lines = [[name.rstrip() for name in head], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            f"{cell:{'>' if last else '<'}{width}}" for cell, width, last in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def costs(watch: Watch) -> None:
    """Show the cost of each stage."""
    _stages({name: cost.report() for name, cost in watch.costs.items()})


def _stages(stages: dict[str, Any]) -> None:
    """Show a table of the costs of stages."""
    rows = [
        [
            stage,
            f"{cost['seconds']:.3f}",
            f"{cost['rows']:,}" if cost["rows"] else "",
            f"{cost['rows_per_second']:,}" if cost["rows_per_second"] else "",
            f"{cost['bytes'] / 2**20:,.1f}" if cost["bytes"] else "",
        ]
        for stage, cost in stages.items()
    ]
    for line in aligned(["stage", "seconds ", "rows ", "rows/s ", "MiB "], rows):
        say(f"  {line}")


def summary(report: dict[str, Any], verbose: int) -> None:
    """Show the last lines of a run."""
    inputs = report["inputs"]
    for reason, count in inputs["interactions"]["dropped"].items():
        say(f"dropped {counted(count, 'interaction')}: {reason}")
    if verbose:
        _stages(report["stages"])
        for technique, seconds in report["seconds_by_technique"].items():
            say(f"  of which {technique:10} {seconds:8.3f} s per worker")
    for kind, label in VECTORS.items():
        for vectors in report[kind]:
            say(f"{vectors['path']}: {vectors['rows']:,} {label}")
    say(_from_here(report["summary"]))


def _from_here(text: str) -> str:
    """Return a text that begins with a path, without the working directory before it."""
    try:
        return text.removeprefix(f"{Path.cwd()}/")
    except OSError:  # it was removed meanwhile
        return text
