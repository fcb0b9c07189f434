"""`extembed columns`: what a spec makes, without reading any data."""

from __future__ import annotations

import sys

from extembed_cli.cli import console
from extembed_cli.cli.options import Json, Set, SpecPath


def columns(spec: SpecPath, overrides: Set = None, json: Json = False) -> None:
    """List every output column of a spec with its type and formula; tab-separated in a pipe.

    Example:  extembed columns sample_data/spec.toml
    """
    from dataclasses import asdict

    from extembed_cli.features.registry import output_columns
    from extembed_cli.spec.loading import load_spec

    found = output_columns(load_spec(spec, overrides or ()))
    if json:
        console.result_json({"columns": [{k: v for k, v in asdict(c).items() if k != "statistic"} for c in found]})
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("column", "dtype", "formula", box=None)
        for c in found:
            table.add_row(c.name, c.dtype, c.meaning)
        Console().print(table, markup=False)
    else:
        console.result("\n".join(f"{c.name}\t{c.dtype}\t{c.meaning}" for c in found))
