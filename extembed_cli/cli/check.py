"""`extembed check`: read everything, write nothing."""

from __future__ import annotations

from extembed_cli.cli import console, options


def check(
    spec: options.SpecPath,
    overrides: options.Set = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Read all inputs of a spec, write nothing, and tell every problem found.

    Example:  extembed check sample_data/spec.toml
    """
    from extembed_cli.jobs.check import check_job
    from extembed_cli.jobs.report import coverage_text
    from extembed_cli.spec.loading import load_spec

    loaded = load_spec(spec, overrides or ())
    with console.watching(quiet, verbose) as watch:
        report = check_job(loaded, watch)
    if json:
        console.result_json(report)
        return
    events, asked = report["inputs"]["interactions"], report["inputs"]["candidates"]
    lines = [f"interactions: {console.used_text(events)}"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in events["dropped"].items()]
    lines.append(f"candidates: {asked['rows']:,} rows, {asked['users']:,} users")
    for name, table in report["inputs"]["embeddings"].items():
        lines.append(
            f"embeddings {name}: {table['rows']:,} rows of {table['dim']} dimensions, "
            f"vectors for {coverage_text(table['coverage'])}"
        )
    lines.append(f"{report['columns']} features; no problems found")
    if not quiet:
        console.result("\n".join(lines))
