"""`extembed import`: make an embedding table of a file that another tool wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import ShowFlags, Wait, option
from extembed_cli.spec.defaults import IdKind, ImportFormat
from extembed_cli.spec.paths import expanded


@expand
def import_(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="File of vectors: .npy, .npz, safetensors, a faiss flat index, word2vec, GloVe, CSV, TSV or JSON "
            "Lines; as text also .gz.",
            parser=expanded,
        ),
    ],
    output: Annotated[Path, option("--output", "-o", metavar="OUT", help="The .parquet file to write.")],
    ids: Annotated[
        str | None,
        option(
            "--ids",
            metavar="PATH",
            help="Ids of the vectors, in their order: a text file with one a line, an .npy file, the name of an array "
            "in SOURCE, or `rows` for the row numbers from 0.",
            parser=expanded,
        ),
    ] = None,
    key: Annotated[
        str | None, option("--key", metavar="NAME", help="Array of an .npz or safetensors file with the vectors.")
    ] = None,
    id_column: Annotated[
        str | None,
        option("--id-column", metavar="NAME", help="Column of a table with the ids.  [default: item_id or id]"),
    ] = None,
    vector_columns: Annotated[
        str | None,
        option(
            "--vector-columns",
            metavar="PATTERN",
            help="Column of a table with lists of numbers, or columns with one number each, such as 'd*'.  "
            "[default: embedding, vector, or the numbered columns]",
        ),
    ] = None,
    users: Annotated[bool, option("--users", help="The vectors are of users: the ids become `user_id`.")] = False,
    ids_as: Annotated[
        IdKind | None,
        option("--ids-as", help="Type of the ids, as in your log.  [default: integer if all of them are]"),
    ] = None,
    format_: Annotated[
        ImportFormat | None, option("--format", help="Format of SOURCE.  [default: by its content and name]")
    ] = None,
    wait: Wait = 0,
    show: ShowFlags,
) -> None:
    """Make an embedding table of what another tool wrote.

    The table has `item_id` and `embedding` (float32). Nothing that is a pickle is ever loaded.

    Example:  extembed import vectors.npy --ids ids.txt -o item_text.parquet
    """
    from extembed_cli.data.foreign.source import Choices
    from extembed_cli.jobs.import_table import import_table

    choices = Choices(
        id_name="user_id" if users else "item_id",
        format=format_,
        ids=ids,
        ids_as=ids_as,
        key=key,
        id_column=id_column,
        vector_columns=vector_columns,
    )
    with console.watching(show.quiet, show.verbose) as watch:
        report = import_table(source, output, choices, wait, watch)
    if show.json:
        console.result_json(report)
    if show.verbose and not show.quiet:
        console.costs(watch)
    if not show.quiet:
        console.say(
            f"{output}: {report['rows']:,} vectors of {report['dim']:,} numbers, {report['id_column']} as "
            f"{report['id_type']}, of {report['format']} in {report['seconds']:.1f} s"
        )
