"""Signs in what was computed that it may be worthless."""

from __future__ import annotations

from collections.abc import Iterator

from extembed_cli.engines.base import Job, Results
from extembed_cli.features.registry import techniques_of
from extembed_cli.spec.durations import time_text


def doubts(job: Job, results: Results) -> Iterator[str]:
    """Warnings about the results of a run."""
    candidates = results.coverage.candidates
    yield from repeated_items(results.repeats, candidates)
    for technique in techniques_of(job.spec):
        yield from technique.warnings(results.tally, results.flagged, candidates)
    for path, parts in zip(job.shared.vector_files, results.vectors, strict=True):
        if not any(len(part.users) for part in parts):
            moment = time_text(job.vectors_as_of)
            yield f"{path}: no user has an event to fit before {moment}, so it is empty. Are as_of and lag right?"


def repeated_items(repeats: int, candidates: int) -> Iterator[str]:
    """A warning where most candidates stand among the events that their user has in view."""
    if repeats > candidates / 2:
        yield (
            f"{repeats:,} of {candidates:,} candidates stand in their own visible history: the log "
            "repeats items, or times are wrong (time_unit?) and the features see what they should predict"
        )
