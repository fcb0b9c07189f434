"""Columns in scratch files: uncompressed Arrow IPC, read through a memory map, whose pages can be released."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table to a file that gets its name only once it is complete."""
    temporary = path.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)


def map_table(path: Path) -> pa.Table:
    """Return the table that `write_table` wrote, mapped and not yet read."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of a mapped file as one array; a single chunk is not copied, as `combine_chunks` would."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """Return a frame as Arrow, with 128-bit integers, which Arrow does not have, as decimals."""
    wide = [name for name, dtype in frame.schema.items() if dtype == pl.Int128()]
    return frame.with_columns(pl.col(wide).cast(pl.Decimal(38, 0))).to_arrow(compat_level=pl.CompatLevel.oldest())


def from_arrow(table: pa.Table) -> pl.DataFrame:
    """Return the frame of a table from `to_arrow`."""
    frame = pl.from_arrow(table, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    wide = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Decimal)]
    return frame.with_columns(pl.col(wide).cast(pl.Int128))
