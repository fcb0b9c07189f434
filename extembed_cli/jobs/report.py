"""The run report, and its summary line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.inputs.inputs import Loaded
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.errors import counted
from extembed_cli.features import registry
from extembed_cli.features.registry import techniques_of
from extembed_cli.jobs.passes import Computed
from extembed_cli.spec.model import Spec
from extembed_cli.system import memory
from extembed_cli.system.progress import Cost


def report_path(output: Path) -> Path:
    """Return the path of the run report of an output."""
    return output.with_name(f"{output.name}.run.json")


def computed(spec: Spec, results: Computed, costs: dict[str, Cost], workers: int) -> dict[str, Any]:
    """Return the part of the run report about inputs, features and seconds.

    The stages inside `compute` run on all workers; their seconds are per worker.
    """
    tally, passes = Tally(), results.passes
    tally.add(results.surveyed)
    flagged: dict[str, list[str]] = {}
    for each in passes:
        tally.add(each.results.tally)
        flagged |= each.results.flagged
    report: dict[str, Any] = {
        "inputs": inputs_report(
            [(each.job.spec, each.loaded, each.results.coverage, each.job.shared.reports) for each in passes]
        ),
        "candidates_in_own_history": passes[0].results.repeats,
    }
    for technique in registry.TECHNIQUES:
        report |= technique.report(spec, tally, flagged)
    stages = {name: cost.report() for name, cost in costs.items()}
    return {
        **report,
        "stages": {**stages, **{name: cost.report(workers) for name, cost in tally.stages.items()}},
        "seconds_by_technique": {step: round(seconds / workers, 3) for step, seconds in tally.seconds.items()},
        "peak_memory_bytes": memory.peak(),
    }


def inputs_report(
    passes: Sequence[tuple[Spec, Loaded, Coverage, dict[str, dict[str, Any]] | None]],
) -> dict[str, Any]:
    """Return the report on the inputs of the first pass, with the tables of all."""
    reports = [coverage.report(spec, loaded, tables) for spec, loaded, coverage, tables in passes]
    for report in reports[1:]:
        for kind in ("embeddings", "user_embeddings"):
            reports[0].setdefault(kind, {}).update(report.get(kind, {}))
    return reports[0]


def closing(spec: Spec, report: dict[str, Any]) -> str:
    """Return the summary, which is the last line of the log."""
    tables = report["inputs"]["embeddings"] | report["inputs"].get("user_embeddings", {})
    shares = {name: table["coverage"] for name, table in tables.items() if set(table["coverage"].values()) != {None}}
    parts = [", ".join(f"{name} has vectors for {coverage_text(share)}" for name, share in shares.items())]
    for technique in techniques_of(spec):
        parts += technique.closing(report)
    written = "done"
    if report["output"]:
        written = f"{report['output']}: {counted(report['rows_out'], 'row')}, {counted(report['columns'], 'feature')}"
        parts.append(f"{counted(report['candidates_in_own_history'], 'candidate')} in their own history")
    parts.append(f"at most {report['peak_memory_bytes'] / 2**20:,.0f} MiB resident")
    return f"{written} in {report['seconds']:.1f} s; {'; '.join(part for part in parts if part)}"


def coverage_text(share: dict[str, float | None]) -> str:
    """Return `95.0% of candidates and 97.1% of events`; a job may lack candidates, and a log events."""
    shares = ((share[rows], rows) for rows in ("candidates", "events"))
    return " and ".join(f"{value:.1%} of {rows}" for value, rows in shares if value is not None) or "nothing"
