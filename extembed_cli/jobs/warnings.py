"""Warnings about results that may be worthless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extembed_cli.engines.base import Job, Results
from extembed_cli.errors import counted
from extembed_cli.features.registry import techniques_of, whole_tables
from extembed_cli.jobs.report import report_path
from extembed_cli.json_files import parsed
from extembed_cli.spec.durations import time_text
from extembed_cli.spec.model import Spec


def result_warnings(job: Job, results: Results) -> Iterator[str]:
    """Yield warnings about the results of a run."""
    candidates = results.coverage.candidates
    yield from repeated_items(results.repeats, candidates)
    for technique in techniques_of(job.spec):
        yield from technique.warnings(job.spec, results.tally, results.flagged, candidates)
    for path, parts in zip(job.shared.vector_files, results.vectors, strict=True):
        if not any(len(part.owners) for part in parts):
            as_of = time_text(job.vectors_as_of)
            side = job.spec.side
            yield (
                f"{path}: no {side.owner} has an event before {as_of} whose {side.partner} has a vector and whose "
                "target is known, so the file is empty"
            )


def grown_tables(spec: Spec, output: Path, digests: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for each table that changed since the last run of an output, if this moves all rows' features.

    The mean of a table (`center`) and its Gramian (`unobserved_weight`) are over all its items.
    """
    try:
        earlier = parsed(report_path(output).read_bytes())["digests"]
    except (OSError, ValueError, KeyError):
        return
    for name, keys in whole_tables(spec).items():
        now = digests[spec.kind_of(name)][name]
        try:
            before = earlier[spec.kind_of(name)][name]
            changed, rows = before["sha256"] != now["sha256"], int(before["rows"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if changed:
            yield (
                f"{spec.table_label(name)}: has changed since the last run of {output} ({counted(rows, 'row')} then, "
                f"{now['rows']:,} now), which moves the features of all rows by {' and '.join(keys)}. "
                "`extembed center` keeps these sums as they are"
            )


def repeated_items(repeats: int, candidates: int) -> Iterator[str]:
    """Yield a warning if most candidates are in their user's visible history."""
    if repeats > candidates / 2:
        yield (
            f"{repeats:,} of {candidates:,} candidates are in their own visible history. Either the log repeats items, "
            "or times are wrong (time_unit? local times without a zone, which count as UTC?) and the features see what "
            "they should predict"
        )
