"""`extembed center`: sums over a whole embedding table, kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import ResourceFlags, ShowFlags, option
from extembed_cli.errors import counted


@expand
def center(
    *,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Embedding table: file, glob or directory of Parquet.")],
    output: Annotated[Path, option("--output", "-o", metavar="MEAN.parquet", help="File of the mean to write.")],
    gramian: Annotated[
        Path | None,
        option(
            "--gramian",
            metavar="GRAMIAN.parquet",
            help="Also write the Gramians, for dual fits with unobserved_weight.",
        ),
    ] = None,
    item: Annotated[str | None, option("--item", metavar="COLUMN", help="Column of ids.  [default: item_id]")] = None,
    embedding: Annotated[
        str | None, option("--embedding", metavar="COLUMN", help="Column of vectors.  [default: embedding]")
    ] = None,
    bad_vectors: Annotated[
        str, option("--bad-vectors", metavar="error|missing", help="What to do with NaN, infinite and zero vectors.")
    ] = "error",
    duplicates: Annotated[
        str, option("--duplicates", metavar="error|last", help="What to do with an id that occurs twice.")
    ] = "error",
    how: ResourceFlags,
    show: ShowFlags,
) -> None:
    """Keep the mean of a table for `center`.

    With it, features do not depend on items that come later.

    Example:  extembed center item_text.parquet -o text_mean.parquet --gramian text_gramian.parquet
    """
    from extembed_cli.jobs.center import freeze_table

    columns = {key: name for key, name in (("item", item), ("embedding", embedding)) if name is not None}
    keys = {
        "path": table,
        "columns": columns,
        "bad_vectors": bad_vectors,
        "duplicates": duplicates,
    }
    options = how.run_options()
    with console.watching(show.quiet, show.verbose) as watch:
        report = freeze_table(keys, output, gramian, options.workers, options.wait, watch)
    if show.json:
        console.result_json(report)
    elif not show.quiet:
        console.say(f"{output}: mean of {counted(report['vectors'], 'vector')} of {report['dim']} dimensions")
