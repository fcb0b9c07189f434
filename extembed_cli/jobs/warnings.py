"""Warnings about results that may be worthless."""

from __future__ import annotations

from collections.abc import Iterator

from extembed_cli.engines.base import Job, Results
from extembed_cli.features.registry import techniques_of
from extembed_cli.spec.durations import time_text


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


def repeated_items(repeats: int, candidates: int) -> Iterator[str]:
    """Yield a warning if most candidates are in their user's visible history."""
    if repeats > candidates / 2:
        yield (
            f"{repeats:,} of {candidates:,} candidates are in their own visible history. Either the log repeats items, "
            "or times are wrong (time_unit?) and the features see what they should predict"
        )
