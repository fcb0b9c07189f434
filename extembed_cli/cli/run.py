"""`extembed run`: compute everything in a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from extembed_cli.cli import console
from extembed_cli.cli.engine import EngineFlags
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import Output, RunFlags, ShowFlags, SpecPath
from extembed_cli.errors import counted

if TYPE_CHECKING:
    from extembed_cli.spec.model import Spec


@expand
def run(
    *,
    spec: SpecPath,
    output: Output = None,
    on: EngineFlags,
    how: RunFlags,
    show: ShowFlags,
) -> None:
    """Compute all features of a spec.

    Example:  extembed run sample_data/spec.toml -o features.parquet --set 'aggregate.0.half_lives=["7d"]'
    """
    from extembed_cli.jobs.specs import load_spec

    execute(load_spec(spec, how.settings(), output), how, show, on)


def execute(spec: Spec, how: RunFlags, show: ShowFlags, on: EngineFlags | None = None) -> None:
    """Run or plan a spec and show the result, for `run` and for the commands of single techniques."""
    from extembed_cli.jobs.plan import plan_job

    run_job = (on or EngineFlags()).job(loud=show.verbose > 1, dry_run=how.dry_run)
    with console.watching(show.quiet, show.verbose) as watch:
        report = (plan_job if how.dry_run else run_job)(spec, how.options(), watch)
    if show.json:
        console.result_json(report)
    elif how.dry_run:
        console.result(*_plan(report))
    if not how.dry_run and not show.quiet:
        console.summary(report, show.verbose)


def _plan(plan: dict[str, Any]) -> list[str]:
    """Return the lines of a plan."""
    from extembed_cli.jobs.patterns import patterns
    from extembed_cli.jobs.report import coverage_text

    inputs = plan["inputs"]
    vectors = [(label, path) for kind, label in console.VECTORS.items() for path in plan[kind]]
    writes_rows = inputs["candidates"]["rows"] or not vectors
    work = ", ".join(counted(count, name.removesuffix("s")) for name, count in plan["counts"].items())
    lines = [
        *([f"rows          {plan['rows_out']:,}"] if writes_rows else []),
        f"memory        about {plan['estimated_memory_bytes'] / 2**20:,.0f} MiB",
        f"seconds       about {plan['estimated_seconds']:,.0f}",
        f"interactions  {console.used_text(inputs['interactions'])}",
        f"candidates    {console.candidates_text(inputs['candidates'])}",
    ]
    for kind in ("embeddings", "user_embeddings"):
        for name, table in inputs.get(kind, {}).items():
            coverage = coverage_text(table["coverage"])
            lines.append(f"{kind:13} {name}: {counted(table['rows'], 'row')}; vectors for {coverage}")
    return [
        *lines,
        *([f"output        {plan['output'] or '(none yet: give -o OUT)'}"] if writes_rows else []),
        *(f"{label}  {path}" for label, path in vectors),
        *([f"work          {work}"] if work else []),
        f"layout        {counted(plan['shards'], 'shard')}, {counted(plan['workers'], 'worker')}",
        *([f"columns       {counted(len(plan['columns']), 'feature')}"] if plan["columns"] else []),
        *(f"              {pattern}" for pattern in patterns(plan["columns"])),
    ]
