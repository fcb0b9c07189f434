"""`extembed check`: read all inputs of a spec and write nothing."""

from __future__ import annotations

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import ShowFlags, SpecFlags, SpecPath
from extembed_cli.errors import counted


@expand
def check(*, spec: SpecPath, changes: SpecFlags, show: ShowFlags) -> None:
    """Read all inputs and show all problems.

    Writes nothing.

    Example:  extembed check sample_data/spec.toml
    """
    from extembed_cli.jobs.check import check_file
    from extembed_cli.jobs.report import coverage_text

    with console.watching(show.quiet, show.verbose) as watch:
        report = check_file(spec, changes.settings(), watch)
    if show.json:
        console.result_json(report)
        return
    events, candidates = report["inputs"]["interactions"], report["inputs"]["candidates"]
    lines = [f"interactions: {console.used_text(events)}"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in events["dropped"].items()]
    lines += [f"  {count:,} without target `{target}`" for target, count in events["null_targets"].items() if count]
    lines.append(f"candidates: {console.candidates_text(candidates)}")
    for kind in ("embeddings", "user_embeddings"):
        for name, table in report["inputs"].get(kind, {}).items():
            lines.append(
                f"{kind} {name}: {counted(table['rows'], 'row')} of {counted(table['dim'], 'dimension')}, "
                f"vectors for {coverage_text(table['coverage'])}"
            )
    found = counted(len(report["warnings"]), "warning") if report["warnings"] else "no problems found"
    lines.append(f"{counted(report['columns'], 'feature')}; {found}")
    if not show.quiet:
        console.result(*lines)
