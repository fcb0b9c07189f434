"""The run report, and its summary line."""

from __future__ import annotations

from typing import Any

from extembed_cli.data.inputs import Loaded
from extembed_cli.engines.base import Job, Results
from extembed_cli.features import registry
from extembed_cli.features.registry import techniques_of
from extembed_cli.spec.model import Spec
from extembed_cli.system import memory
from extembed_cli.system.progress import Cost


def computed(job: Job, loaded: Loaded, results: Results, costs: dict[str, Cost], workers: int) -> dict[str, Any]:
    """Return the part of the run report about inputs, features and seconds.

    The stages inside `compute` run on all workers; their seconds are per worker.
    """
    spec, tally = job.spec, results.tally
    report = {
        "inputs": results.coverage.report(spec, loaded, job.shared.by_table),
        "candidates_in_own_history": results.repeats,
    }
    for technique in registry.TECHNIQUES:
        report |= technique.report(spec, tally, results.flagged)
    stages = {name: cost.report() for name, cost in costs.items()}
    return {
        **report,
        "stages": {**stages, **{name: cost.report(workers) for name, cost in tally.stages.items()}},
        "seconds_by_technique": {step: round(seconds / workers, 3) for step, seconds in tally.seconds.items()},
        "peak_memory_bytes": memory.peak(),
    }


def closing(spec: Spec, report: dict[str, Any]) -> str:
    """Return the summary, which is the last line of the log."""
    tables = report["inputs"]["embeddings"]
    shares = {name: table["coverage"] for name, table in tables.items() if set(table["coverage"].values()) != {None}}
    parts = [", ".join(f"{name} has vectors for {coverage_text(share)}" for name, share in shares.items())]
    for technique in techniques_of(spec):
        parts += technique.closing(report)
    output = report["output"]
    if output:
        parts.append(f"{report['candidates_in_own_history']:,} candidates in their own history")
    parts.append(f"at most {report['peak_memory_bytes'] / 2**20:,.0f} MiB resident")
    written = f"{output}: {report['rows_out']:,} rows, {report['columns']} features" if output else "done"
    return f"{written} in {report['seconds']:.1f} s; {'; '.join(part for part in parts if part)}"


def coverage_text(share: dict[str, float | None]) -> str:
    """Return `95.0% of candidates and 97.1% of events`; a job may lack candidates, and a log events."""
    shares = ((share[rows], rows) for rows in ("candidates", "events"))
    return " and ".join(f"{value:.1%} of {rows}" for value, rows in shares if value is not None) or "nothing"
