"""`extembed run`: everything a spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from extembed_cli.cli import console, options
from extembed_cli.errors import SpecError

if TYPE_CHECKING:
    from extembed_cli.jobs.options import RunOptions
    from extembed_cli.spec.model import Spec


def run(
    spec: options.SpecPath,
    output: options.Output = None,
    overrides: options.Set = None,
    dry_run: options.DryRun = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    memory: options.Memory = None,
    scratch: options.Scratch = None,
    cache: options.Cache = None,
    fresh: options.Fresh = False,
    wait: options.Wait = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Compute all features of a spec.

    Example:  extembed run sample_data/spec.toml -o features.parquet --set 'aggregate.0.half_lives=["7d"]'
    """
    from extembed_cli.spec.loading import load_spec

    if engine != "local":
        raise SpecError(f"--engine {engine}: this version runs on `local` only")
    loaded = load_spec(spec, overrides or (), output)
    execute(loaded, console.run_options(workers, memory, wait, scratch, cache, fresh), dry_run, json, quiet, verbose)


def execute(spec: Spec, how: RunOptions, dry_run: bool, json: bool, quiet: bool, verbose: int) -> None:
    """Run or plan a spec and show the result: what `run` and the commands of single techniques share."""
    from extembed_cli.jobs.plan import plan_job
    from extembed_cli.jobs.run import run_job

    with console.watching(quiet, verbose) as watch:
        report = (plan_job if dry_run else run_job)(spec, how, watch)
    if json:
        console.result_json(report)
    elif dry_run:
        console.result(_plan(report))
    if not dry_run and not quiet:
        console.summary(report, verbose)


def _plan(plan: dict[str, Any]) -> str:
    from extembed_cli.jobs.report import coverage_text

    inputs = plan["inputs"]
    lines = [
        f"interactions  {console.used_text(inputs['interactions'])}",
        f"candidates    {inputs['candidates']['rows']:,} rows, {inputs['candidates']['users']:,} users",
    ]
    for name, table in inputs["embeddings"].items():
        coverage = coverage_text(table["coverage"])
        lines.append(f"embeddings    {name}: {table['rows']:,} rows; vectors for {coverage}")
    if inputs["candidates"]["rows"] or not plan["user_vectors"]:
        lines.append(f"output        {plan['output'] or '(none yet: give -o OUT)'}: {plan['rows_out']:,} rows")
    lines += [
        *(f"user vectors  {path}" for path in plan["user_vectors"]),
        *([f"columns       {len(plan['columns'])} features"] if plan["columns"] else []),
        *(f"              {name}" for name in plan["columns"]),
        f"work          {plan['cosines']:,} cosines, {plan['systems']:,} dual fits, {plan['shards']} shard(s), "
        f"{plan['workers']} workers",
        f"estimates     {plan['estimated_memory_bytes'] / 2**20:,.0f} MiB, {plan['estimated_seconds']:.0f} s",
    ]
    return "\n".join(lines)
