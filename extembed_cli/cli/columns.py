"""`extembed columns`: the feature columns of a spec, without reading any data, or of an output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import Json, Set, option
from extembed_cli.errors import SpecError
from extembed_cli.printable import printable

if TYPE_CHECKING:
    from extembed_cli.data.outputs.feature_columns import FeatureColumn

_CATBOOST = "Description for CatBoost"


@expand
def columns(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPEC.toml|FEATURES.parquet", help="A spec, or an output of `extembed run`: file or directory."
        ),
    ],
    overrides: Set = None,
    techniques: Annotated[
        list[str] | None,
        option("--technique", metavar="NAME", help="List only columns of this technique, such as `dual`. Repeatable."),
    ] = None,
    names: Annotated[bool, option("--names", help="Print the names alone, for scripts.")] = False,
    catboost: Annotated[
        str | None,
        option(
            "--catboost",
            metavar="PATH",
            help="Write a column description of FEATURES.parquet for CatBoost; `-` prints it.",
            panel=_CATBOOST,
        ),
    ] = None,
    label: Annotated[
        str | None, option("--label", metavar="COL", help="Column to predict: `Label`.", panel=_CATBOOST)
    ] = None,
    group: Annotated[
        str | None,
        option("--group", metavar="COL", help="Column that the rows of one request share: `GroupId`.", panel=_CATBOOST),
    ] = None,
    json: Json = False,
) -> None:
    """List the feature columns of a spec or an output.

    Shows the type, the technique and the formula of each; tab-separated in a pipe.

    Example:  extembed columns sample_data/spec.toml
    """
    from dataclasses import asdict

    from extembed_cli.jobs.columns import describe_for_catboost, list_columns, write_rows

    if catboost is not None:
        rows = describe_for_catboost(source, techniques, label, group)
        if catboost == "-":
            console.result_table(rows)
        else:
            write_rows(Path(catboost), rows, source)
        return
    if label is not None or group is not None:
        raise SpecError("--label, --group: are of a description for CatBoost; add --catboost PATH")
    listed = list_columns(source, overrides or (), techniques)
    if json:
        console.result_json({"columns": [asdict(column) for column in listed]})
    elif names:
        console.result(*(column.name for column in listed))
    elif sys.stdout.isatty():
        _show(listed)
    else:
        console.result_table((column.name, column.dtype, column.technique, column.meaning) for column in listed)


def _show(listed: list[FeatureColumn]) -> None:
    """Show the columns as a table on a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("column", "dtype", "technique", "formula", box=None)
    for column in listed:
        table.add_row(*map(printable, (column.name, column.dtype, column.technique, column.meaning)))
    Console().print(table, markup=False)
