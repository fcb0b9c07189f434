"""CSV and TSV: a column of ids, and a column with lists of numbers or several with one number each."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from extembed_cli.data.foreign.batches import Batch, from_batches
from extembed_cli.data.foreign.columns import choose_columns
from extembed_cli.data.foreign.lines import first_line
from extembed_cli.data.foreign.source import Choices, VectorFile, is_compressed, opened, reading
from extembed_cli.data.foreign.words import is_number

_BLOCK_BYTES = 2**22
"""Read at a time, of several blocks ahead; no row may be longer"""
_EMPTY = pa.array(sorted({*arrow_csv.ConvertOptions().null_values, "None"}))
"""Cells that stand for nothing"""
_PUNCTUATION = "[][(),;]"
"""What may stand around and between the numbers of a list, besides spaces; as characters, and as a pattern of one"""


def read_csv(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a table with commas, semicolons or tabs."""
    return _read(path, "csv", choices)


def read_tsv(path: Path, choices: Choices) -> VectorFile:
    """Return the vectors of a table with tabs."""
    return _read(path, "tsv", choices)


def _read(path: Path, kind: str, choices: Choices) -> VectorFile:
    with reading(path, kind), opened(path) as file:
        line = first_line(file).decode("utf-8")
        delimiter = "\t" if kind == "tsv" or "\t" in line else max(",;", key=line.count)
        names = next(csv.reader([line], delimiter=delimiter), [])
        has_names = _has_names(names, choices)
    if not has_names:
        names = [f"f{place}" for place in range(len(names))]  # as pyarrow names them
        choices = replace(choices, id_column=choices.id_column or "f0", vector_columns=choices.vector_columns or "f*")
    id_column, vectors = choose_columns(path, names, choices)
    table = _Table(path, delimiter, has_names, id_column, vectors)
    return from_batches(path, kind, table.batches)


def _has_names(cells: list[str], choices: Choices) -> bool:
    """Whether a first line has names; beside that of the ids the others may be numbers, as in a pivot of pandas."""
    if choices.ids:
        return not _is_data(cells)
    if choices.id_column in cells or cells[:1] in ([choices.id_name], ["id"], [""]):
        return True
    return not _is_data(cells[1:])


def _is_data(cells: list[str]) -> bool:
    """Whether the cells of a first line are numbers, or lists of them, but not those by which pandas names columns."""
    counted = any(cells == [str(place) for place in range(first, first + len(cells))] for first in (0, 1))
    numbers = [
        part for cell in cells for part in cell.translate(str.maketrans(_PUNCTUATION, " " * len(_PUNCTUATION))).split()
    ]
    return bool(numbers) and all(map(is_number, numbers)) and not counted


@dataclass(frozen=True)
class _Table:
    """A table as text, and its columns to read."""

    path: Path
    delimiter: str
    has_names: bool
    id_column: str | None
    vectors: list[str]

    def batches(self) -> Iterator[Batch]:
        """Read the table from its beginning."""
        ids = [] if self.id_column is None else [self.id_column]
        columns = [*ids, *self.vectors]
        # A stream of Arrow's own: it may be freed in a thread of Arrow after the interpreter has ended, and then one of
        # Python aborts the process. One thread for the parsing: only then does an error name its row.
        with (
            pa.input_stream(str(self.path), compression="gzip" if is_compressed(self.path) else None) as file,
            arrow_csv.open_csv(
                file,
                arrow_csv.ReadOptions(
                    block_size=_BLOCK_BYTES, autogenerate_column_names=not self.has_names, use_threads=False
                ),
                arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                arrow_csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string())),
            ) as reader,
        ):
            for batch in reader:
                cells = batch.columns[len(ids) :]
                yield Batch(batch.column(0) if ids else None, _lists(cells[0]) if len(cells) == 1 else _wide(cells))


def _lists(cells: pa.Array) -> pa.Array:
    """Return lists of numbers as text, from cells such as `[0.1, 0.2]`; null for a cell without numbers."""
    return pc.ascii_split_whitespace(_filled(pc.replace_substring_regex(cells, _PUNCTUATION, " ")))


def _wide(columns: list[pa.Array]) -> pa.Array:
    """Return the numbers of several columns as lists, NaN for an empty cell; all as text if one is not a number."""
    cells = [_filled(column) for column in columns]
    try:
        numbers = np.column_stack([cell.cast(pa.float64()).to_numpy(zero_copy_only=False) for cell in cells])
    except pa.ArrowInvalid:
        return pa.array(list(zip(*(cell.to_pylist() for cell in cells), strict=True)), pa.list_(pa.string()))
    return pa.FixedSizeListArray.from_arrays(numbers.ravel(), len(columns))


def _filled(cells: pa.Array) -> pa.Array:
    """Return the text of cells without spaces around it; null for an empty cell."""
    text = pc.ascii_trim_whitespace(cells)
    return pc.if_else(pc.is_in(text, _EMPTY), pa.scalar(None, pa.string()), text)
