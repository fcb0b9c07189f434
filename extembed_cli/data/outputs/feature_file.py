"""Candidates with their features as Parquet: one file, or a directory of parts that a manifest lists."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.arrays import Bools, Values
from extembed_cli.data.files.commit import Staged, file_digest, real, write_json
from extembed_cli.data.files.footer import METADATA_KEY, carried_over, json_bytes, read_about
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.outputs.shard_results import FeaturePart, block_of, known_in
from extembed_cli.data.outputs.uploads import check_bucket
from extembed_cli.data.paths.directories import MANIFEST, PART
from extembed_cli.data.stores.filesystems import is_url
from extembed_cli.errors import NOT_UTF8, DataError, SpecError, counted
from extembed_cli.system.threads import prefetched

ROW_GROUP = 131_072
PART_ROWS = 2**20
_OURS = re.compile(rf"{PART}|{MANIFEST}|\.(part-\d{{5}}\.parquet|{MANIFEST})\.[0-9a-f]+\.tmp")
_OTHER_FILES = {".csv", ".tsv", ".json", ".jsonl", ".parq", ".pq", ".arrow", ".feather", ".gz", ".zip"}
_CHANGED = "did the candidates change during the run? Run again; the old output is untouched"


def check_target(path: str) -> None:
    """Raise if the output would overwrite something that is not ours."""
    if is_url(path):
        check_bucket(path)
        return
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SpecError(f"{path}: its name {NOT_UTF8}") from None
    output = real(Path(path))
    if (output.parent / MANIFEST).exists():
        raise SpecError(
            f"{output}: is inside a directory of parts, whose readers would read it too; name another place"
        )
    if output.suffix in _OTHER_FILES:
        raise SpecError(
            f"{output}: only Parquet is written; end in .parquet, or name a directory without {output.suffix}"
        )
    if output.suffix == ".parquet":
        if output.is_dir():
            raise SpecError(f"{output}: is a directory; an output that ends in .parquet is one file")
    elif output.exists():
        if not output.is_dir():
            raise SpecError(f"{output}: is a file; an output that does not end in .parquet is a directory of parts")
        if output.is_mount():
            raise SpecError(f"{output}: is a mount point, which cannot be replaced as a whole; name a directory in it")
        if not (output / MANIFEST).exists() and not all(_OURS.fullmatch(path.name) for path in output.iterdir()):
            raise SpecError(
                f"{output}: this directory holds something else; name a new one, or end in .parquet for one file"
            )


def check_not_an_input(output: Path | str, tables: Iterable[Table]) -> None:
    """Raise if the output would overwrite an input; each can be a URL."""
    if is_url(str(output)):
        names = [part.name for table in tables for part in table.parts]
        same = next((name for name in names if name == output or name.startswith(f"{output}/")), None)
        if same is not None:
            raise SpecError(f"{output}: the output would overwrite an input ({same}); name another")
        return
    target = real(Path(output))
    for table in tables:
        for part in table.parts:
            path = real(part.path)
            if path == target or target in path.parents:
                raise SpecError(
                    f"{output}: the output would overwrite an input, {table.label} ({part.name}); name another"
                )


def check_names(candidates: Table, features: list[str]) -> None:
    """Raise if a feature has the name of a candidate column."""
    taken = [name for name in features if name in candidates.schema.names]
    if taken:
        raise DataError(
            f"candidates: {candidates.parts[0].name}: already has the column `{taken[0]}`, which the job would add "
            f"({counted(len(taken), 'such column')}). Drop it there, or give the group a `name`"
        )


def write_features(
    stage: Staged,
    output: Path,
    candidates: Table,
    columns: dict[str, str],
    sources: Sequence[Sequence[FeaturePart]],
    metadata: dict[str, Any],
    progress: Callable[[int], None] = lambda rows: None,
) -> str:
    """Write all candidate columns and the features in candidate order; return the SHA-256 of the output.

    `columns` has the features' types by name. A source has parts with the values of some of them; a row in none of its
    parts is null. The files wait in `stage` to be committed; `progress` is called with the number of rows after each
    batch.
    """
    features = [pa.field(n, pa.uint32() if dtype == "UInt32" else pa.float32()) for n, dtype in columns.items()]
    metadata = {**metadata, "columns": [*_earlier_columns(candidates), *metadata["columns"]]}
    kept = carried_over(candidates.schema, features)
    schema = pa.schema([*candidates.schema, *features], metadata={**kept, METADATA_KEY: json_bytes(metadata)})

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        for batch in candidate_rows(candidates):
            arrays = {}
            for parts in sources:
                known = known_in(parts, row, row + len(batch))
                for name in parts[0].columns:
                    arrays[name] = _array(block_of(parts, name, row, row + len(batch)), known)
            yield pa.RecordBatch.from_arrays([*batch.columns, *(arrays[name] for name in columns)], schema=schema)
            row += len(batch)
            progress(len(batch))
        if row != candidates.rows:
            raise DataError(f"{output}: {row:,} rows to write for {candidates.rows:,} candidates: {_CHANGED}")

    if output.suffix == ".parquet":
        path = stage.temporary(output)
        with prefetched(batches()) as ready:
            _write(path, schema, ready, candidates.schema.names)
        return file_digest(path)
    with prefetched(batches()) as ready:
        return _write_directory(stage, output, schema, ready, candidates.schema.names)


def _earlier_columns(candidates: Table) -> list[dict[str, Any]]:
    """Return the columns of earlier runs: the output of one technique can be the candidates of the next."""
    try:
        about = read_about(candidates.schema) or {}
        return [column for column in about["columns"] if column["name"] in candidates.schema.names]
    except (KeyError, TypeError):
        return []


@dataclass(frozen=True)
class VectorTable:
    """A table with one vector per id."""

    key: str
    """The column of the ids"""
    ids: pa.Array
    """(n)"""
    blocks: Iterable[Values]
    """The vectors (n, dim), or (n, dim + 1) with a bias, in blocks of rows"""
    dim: int
    with_bias: bool = False


def write_vectors(stage: Staged, output: Path, table: VectorTable, metadata: dict[str, Any]) -> str:
    """Write a table of vectors; return the SHA-256 of the file."""
    dim, key = table.dim, table.key
    fields = [pa.field(key, table.ids.type), pa.field("embedding", pa.list_(pa.float32(), dim))]
    fields += [pa.field("bias", pa.float32())] if table.with_bias else []
    schema = pa.schema(fields, metadata={METADATA_KEY: json_bytes(metadata)})
    path = stage.temporary(output)

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        for block in table.blocks:
            single = block.astype(np.float32)
            vectors = pa.FixedSizeListArray.from_arrays(single[:, :dim].ravel(), dim)
            arrays = [table.ids[row : row + len(block)], vectors]
            arrays += [pa.array(single[:, dim])] if table.with_bias else []
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            row += len(block)

    _write(path, schema, batches(), [key])
    return file_digest(path)


def candidate_rows(candidates: Table) -> Iterator[pa.RecordBatch]:
    """Yield all columns of all files, in one schema."""
    schema = candidates.schema
    for part in candidates.parts:
        missing = [name for name in schema.names if name not in part.schema.names]
        for batch in part.batches(None, ROW_GROUP):
            arrays = [
                pa.nulls(len(batch), f.type) if f.name in missing else _as(batch.column(f.name), f, part.name)
                for f in schema
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as(array: pa.Array, field: pa.Field, name: str) -> pa.Array:
    """Return a column of one file in the type that all files share."""
    if array.type == field.type:
        return array
    try:
        return array.cast(field.type)
    except pa.ArrowException as error:
        raise DataError(
            f"{name}: column `{field.name}` is {array.type} and cannot become {field.type}, which the "
            f"other files need: {error}. Write the files with one schema"
        ) from None


def _array(values: Values, known: Bools) -> pa.Array:
    """Return a feature with nulls: for NaN in floats, for candidates without user or time in counts."""
    if values.dtype == np.uint32:
        return pa.array(values, mask=None if known.all() else ~known)
    return pa.array(values, from_pandas=True)


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], dictionaries: list[str]) -> int:
    """Write one file, read its row count back, and return it."""
    rows = 0
    with pq.ParquetWriter(path, schema, use_dictionary=dictionaries, write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=ROW_GROUP)
            rows += len(batch)
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows != rows:
            raise OSError(f"{path}: {file.metadata.num_rows:,} of {rows:,} rows can be read back: the disk lost some")
    return rows


def _write_directory(
    stage: Staged, output: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], dictionaries: list[str]
) -> str:
    """Write parts named by their content, and the manifest that readers trust; return the SHA-256 of the manifest."""
    folder = stage.new_folder(output)
    parts: list[dict[str, Any]] = []
    for index, chunk in enumerate(_chunks(batches)):
        path = folder / f"part-{index:05d}.parquet"
        rows = _write(path, schema, chunk(), dictionaries)
        digest = file_digest(path)
        parts.append({"file": f"part-{index:05d}-{digest[:12]}.parquet", "rows": rows, "sha256": digest})
        path.rename(folder / parts[-1]["file"])
    write_json(folder / MANIFEST, {"rows": sum(part["rows"] for part in parts), "parts": parts})
    if output.exists():
        _keep_others(output, folder)
    return file_digest(folder / MANIFEST)


def _keep_others(old: Path, new: Path) -> None:
    """Link or copy what somebody has put beside the parts of an old directory."""

    def link(source: str, target: str) -> str:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return target

    for path in old.iterdir():
        if _OURS.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=link)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[Callable[[], Iterator[pa.RecordBatch]]]:
    """Yield at least one chunk of at most PART_ROWS rows; use up each one before taking the next."""
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
