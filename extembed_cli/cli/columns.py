"""`extembed columns`: the output columns of a spec, without reading any data."""

from __future__ import annotations

import sys

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import Json, Set, SpecPath


@expand
def columns(spec: SpecPath, overrides: Set = None, json: Json = False) -> None:
    """List the output columns of a spec.

    Shows the type and the formula of each; tab-separated in a pipe.

    Example:  extembed columns sample_data/spec.toml
    """
    from dataclasses import asdict

    from extembed_cli.features.registry import output_columns
    from extembed_cli.jobs.specs import load_spec

    output = output_columns(load_spec(spec, overrides or ()))
    if json:
        console.result_json({"columns": [{k: v for k, v in asdict(c).items() if k != "statistic"} for c in output]})
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("column", "dtype", "formula", box=None)
        for c in output:
            table.add_row(c.name, c.dtype, c.meaning)
        Console().print(table, markup=False)
    else:
        console.result("\n".join(f"{c.name}\t{c.dtype}\t{c.meaning}" for c in output))
