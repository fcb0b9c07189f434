"""A Parquet file read as a whole: its digest, its rows, and what its footer says of the run that wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extembed_cli.data.files.commit import file_digest
from extembed_cli.data.files.footer import read_about
from extembed_cli.data.files.parquet import open_parquet, reading
from extembed_cli.errors import InputError


@dataclass(frozen=True)
class WholeFile:
    """A file that was read to its end."""

    sha256: str
    rows: int = 0
    """Of all pages, whose checksums are right"""
    about: dict[str, Any] | None = None
    """The metadata of the run that wrote it"""
    damage: str | None = None
    """Why its pages cannot be read; None = they can"""


def read_whole(path: Path, progress: Callable[[int], None]) -> WholeFile:
    """Read all bytes of a file, then all its pages; `progress` is called with the rows of each batch."""
    with reading(path):
        sha256 = file_digest(path)
    rows = 0
    try:
        with reading(path), open_parquet(path) as file:
            about = read_about(file.schema_arrow)
            for batch in file.iter_batches():
                rows += len(batch)
                progress(len(batch))
    except InputError as error:
        return WholeFile(sha256, damage=str(error))
    except MemoryError:  # a damaged page may claim to have terabytes
        return WholeFile(sha256, damage=f"{path}: has pages that do not fit into memory. Write it again")
    return WholeFile(sha256, rows, about)
