"""Open the vectors of a file of another tool, with their ids, and check that the flags fit its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Values
from extembed_cli.data.files.commit import file_digest
from extembed_cli.data.foreign.formats import FORMATS, detect
from extembed_cli.data.foreign.ids import ROWS, read_ids, row_numbers, typed
from extembed_cli.data.foreign.source import MAX_DIM, Choices, VectorFile, reading
from extembed_cli.data.paths.resolving import file_state
from extembed_cli.errors import DataError, InputError, SpecError, counted, listing
from extembed_cli.spec.defaults import ImportFormat

_FLAGS = ("ids", "key", "id_column", "vector_columns")


@dataclass(frozen=True)
class ForeignTable:
    """Vectors with their ids; the vectors are not read yet."""

    path: Path
    format: ImportFormat
    ids: pl.Series
    dim: int
    blocks: Callable[[], Iterator[Values]]
    """Read the vectors in order, as blocks (n, dim) of any kind of real numbers"""
    digests: list[str]
    """SHA-256 of the file, and of that of the ids if it is another one"""
    state: tuple[int, int, int]

    def check_unchanged(self) -> None:
        """Raise if the file was replaced or written to since it was opened."""
        with reading(self.path, self.format):
            if file_state(self.path) != self.state:
                raise self.changed()

    def changed(self) -> DataError:
        """Return the error for a file that is not what it was when it was opened."""
        return DataError(f"{self.path}: changed while it was read. Import it again; the old output is untouched")


def open_vectors(path: Path, choices: Choices) -> ForeignTable:
    """Read the ids of a file, and check its sizes, before any vector is read."""
    state = _file_state(path)
    name = choices.format or detect(path)
    for flag in _FLAGS:
        if getattr(choices, flag) is not None and flag not in FORMATS[name].flags:
            raise SpecError(f"--{flag.replace('_', '-')}: {path} is {name}, which has no such choice. Leave it out")
    file = FORMATS[name].read(path, choices)
    if not file.rows or not file.dim:
        raise DataError(f"{path}: there is no vector in it ({file.rows:,} vectors of {file.dim:,} numbers)")
    if file.dim > MAX_DIM:
        raise DataError(f"{path}: its vectors have {file.dim:,} numbers; at most {MAX_DIM:,} are read")
    ids, where = _ids(path, file, choices)
    if len(ids) != file.rows:
        raise DataError(
            f"{where}: has {counted(len(ids), 'id')} ({listing((f'`{each}`' for each in ids[:3]), 2)}) for "
            f"{counted(file.rows, 'vector')}; it needs one for each, in the same order"
        )
    with reading(path, name):
        digests = [file_digest(each) for each in dict.fromkeys((path, where))]
    return ForeignTable(path, name, typed(ids, choices.ids_as, where), file.dim, file.blocks, digests, state)


def _ids(path: Path, file: VectorFile, choices: Choices) -> tuple[pa.Array, Path]:
    """Return the ids of a file, and the path of the file that has them."""
    if file.ids is not None:
        return file.ids, path
    if choices.ids is None:
        raise SpecError(
            f"{path}: has no ids; name them with --ids: a file with one for each vector (text, one a line, or .npy), "
            f"an array of it, or `--ids {ROWS}` for the numbers of the rows from 0"
        )
    if choices.ids == ROWS:
        return row_numbers(file.rows), path
    where = Path(choices.ids)
    _file_state(where)
    return read_ids(where), where


def _file_state(path: Path) -> tuple[int, int, int]:
    """Return the state of a file; raise if it is none, such as a pipe or a folder."""
    with reading(path, "a file"):
        state = file_state(path)
        if not path.is_file():
            raise InputError(f"{path}: is not a file; name one file, which is read twice")
    return state
