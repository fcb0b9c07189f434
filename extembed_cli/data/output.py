"""Candidates with their features as Parquet: one file, or a directory of parts that a manifest lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extembed_cli.data.commit import commit, file_digest, temporary, write_json
from extembed_cli.data.sources import MANIFEST
from extembed_cli.data.tables import Table
from extembed_cli.errors import DataError, SpecError

METADATA_KEY = b"extembed"
ROW_GROUP = 131_072
PART_ROWS = 2**20

Values = NDArray[Any]  # float32 or uint32


def check_target(output: Path) -> None:
    """Refuse outputs that would overwrite something that is not ours."""
    if output.suffix == ".parquet":
        if output.is_dir():
            raise SpecError(f"{output}: is a directory; an output that ends in .parquet is one file")
    elif output.exists():
        if not output.is_dir():
            raise SpecError(f"{output}: is a file; an output that does not end in .parquet is a directory of parts")
        if not (output / MANIFEST).exists() and any(output.iterdir()):
            raise SpecError(
                f"{output}: this directory holds something else; name a new one, or end in .parquet for one file"
            )


def check_names(candidates: Table, features: list[str]) -> None:
    """A feature must not have the name of a candidate column."""
    taken = [name for name in features if name in candidates.schema.names]
    if taken:
        raise DataError(
            f"{candidates.label}: already has the column `{taken[0]}` ({len(taken)} such). Drop it there, or give the "
            "group a `name`"
        )


def write_features(
    output: Path,
    candidates: Table,
    columns: dict[str, Values],
    known: NDArray[np.bool_],
    metadata: dict[str, Any],
) -> str:
    """Write all candidate columns and the features in candidate order, all or nothing; SHA-256 of what was written."""
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    features = [pa.field(n, pa.uint32() if v.dtype == np.uint32 else pa.float32()) for n, v in columns.items()]
    kept = candidates.schema.metadata or {}
    schema = pa.schema([*candidates.schema, *features], metadata={**kept, METADATA_KEY: text.encode()})

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        for batch in _rows_of(candidates):
            at = slice(row, row + len(batch))
            arrays = [_array(values[at], known[at]) for values in columns.values()]
            yield pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema)
            row += len(batch)

    dictionaries = [name for name in candidates.schema.names if name not in columns]
    if output.suffix == ".parquet":
        with temporary(output) as path:
            _write(path, schema, batches(), dictionaries)
            _check_rows(path, candidates.rows)
            digest = file_digest(path)
            commit(path, output)
        return digest
    return _write_directory(output, schema, batches(), dictionaries, candidates.rows)


def _rows_of(candidates: Table) -> Iterator[pa.RecordBatch]:
    """All columns of all files as one schema."""
    schema = candidates.schema
    for part in candidates.parts:
        missing = [name for name in schema.names if name not in part.schema.names]
        for batch in part.batches(None, ROW_GROUP):
            arrays = [
                pa.nulls(len(batch), f.type) if f.name in missing else _as(batch.column(f.name), f.type) for f in schema
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def _array(values: Values, known: NDArray[np.bool_]) -> pa.Array:
    """Features with nulls: NaN in floats, candidates without user or time in counts."""
    if values.dtype == np.uint32:
        return pa.array(values, mask=None if known.all() else ~known)
    return pa.array(values, from_pandas=True)


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], dictionaries: list[str]) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, use_dictionary=dictionaries, write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=ROW_GROUP)
            rows += len(batch)
    return rows


def _check_rows(path: Path, rows: int) -> None:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows != rows:
            raise DataError(
                f"{path.name}: {file.metadata.num_rows:,} rows written for {rows:,} candidates: did they change "
                "during the run? Run again; the old output is untouched"
            )


def _write_directory(
    output: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], dictionaries: list[str], rows: int
) -> str:
    """Parts named by their content, then the manifest, then what it no longer lists goes."""
    output.mkdir(exist_ok=True)
    parts: list[dict[str, Any]] = []
    for index, chunk in enumerate(_chunks(batches)):
        with temporary(output / f"part-{index:05d}.parquet") as path:
            written = _write(path, schema, chunk(), dictionaries)
            digest = file_digest(path)
            name = f"part-{index:05d}-{digest[:12]}.parquet"
            _check_rows(path, written)
            commit(path, output / name)
            parts.append({"file": name, "rows": written, "sha256": digest})
    total = sum(part["rows"] for part in parts)
    if total != rows:
        raise DataError(
            f"{output}: {total:,} rows written for {rows:,} candidates: did the candidates change during the run?"
        )
    write_json(output / MANIFEST, {"rows": rows, "parts": parts})
    for old in [*output.glob("part-*.parquet"), *output.glob(".part-*.tmp")]:
        if old.name not in {part["file"] for part in parts}:
            with suppress(OSError):
                old.unlink()
    return file_digest(output / MANIFEST)


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[Callable[[], Iterator[pa.RecordBatch]]]:
    """Runs of at most PART_ROWS rows, at least one; each has to be used up before the next is asked for."""
    rest = next(batches, None)
    first = True
    while rest is not None or first:
        first = False

        def chunk() -> Iterator[pa.RecordBatch]:
            nonlocal rest
            room = PART_ROWS
            while rest is not None and room:
                taken = rest.slice(0, room)
                room -= len(taken)
                rest = rest.slice(len(taken)) if len(taken) < len(rest) else next(batches, None)
                yield taken

        yield chunk
