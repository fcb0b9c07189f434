"""Candidates with their features as Parquet: one file, or a directory of parts that a manifest lists."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class FeatureTable:
    """The table that a run writes: all candidate columns, then the features."""

    candidates: Table
    columns: list[str]
    """Names of the features"""
    schema: pa.Schema
    part_rows: int
    """Of a part of a directory, at most"""

    @classmethod
    def of(cls, candidates: Table, columns: Mapping[str, str], metadata: dict[str, Any]) -> FeatureTable:
        """Return the table with features of these types by name."""
        features = [pa.field(n, pa.uint32() if dtype == "UInt32" else pa.float32()) for n, dtype in columns.items()]
        metadata = {**metadata, "columns": [*_earlier_columns(candidates), *metadata["columns"]]}
        kept = carried_over(candidates.schema, features)
        schema = pa.schema([*candidates.schema, *features], metadata={**kept, METADATA_KEY: json_bytes(metadata)})
        return cls(candidates, list(columns), schema, PART_ROWS)

    @property
    def rows(self) -> int:
        return self.candidates.rows

    def parts(self) -> list[tuple[int, int]]:
        """Return the rows [low, high) of each part of a directory: at least one."""
        starts = range(0, max(1, self.rows), self.part_rows)
        return [(low, min(low + self.part_rows, self.rows)) for low in starts]

    def batches(self, low: int, high: int, sources: Sequence[Sequence[FeaturePart]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows [low, high) in row groups.

        A source has parts with the values of some features; a row in none of its parts is null.
        """
        row = low
        for batch in candidate_rows(self.candidates, low, high):
            arrays = {}
            for parts in sources:
                known = known_in(parts, row, row + len(batch))
                for name in parts[0].columns:
                    arrays[name] = _array(block_of(parts, name, row, row + len(batch)), known)
            yield pa.RecordBatch.from_arrays(
                [*batch.columns, *(arrays[name] for name in self.columns)], schema=self.schema
            )
            row += len(batch)
        if row != high:
            raise DataError(f"candidates: {row:,} rows where there were {high:,}: {_CHANGED}")

    def write(self, path: Path, batches: Iterator[pa.RecordBatch]) -> int:
        """Write a file of the table, read its row count back, and return it."""
        return _write(path, self.schema, batches, self.candidates.schema.names)

    def write_part(self, folder: Path, index: int, batches: Iterator[pa.RecordBatch]) -> dict[str, Any]:
        """Write a part of a directory, which is named by its content; return its entry in the manifest."""
        path = folder / f".part-{index:05d}.parquet.{secrets.token_hex(8)}.tmp"
        rows = self.write(path, batches)
        digest = file_digest(path)
        name = f"part-{index:05d}-{digest[:12]}.parquet"
        path.rename(folder / name)
        return {"file": name, "rows": rows, "sha256": digest}


def write_features(
    stage: Staged,
    output: Path,
    table: FeatureTable,
    sources: Sequence[Sequence[FeaturePart]],
    progress: Callable[[int], None] = lambda rows: None,
) -> str:
    """Write a file, or a directory of parts, from the features of all candidates; return its SHA-256.

    The files wait in `stage` to be committed; `progress` is called with the number of rows after each batch.
    """

    def rows(low: int, high: int) -> Iterator[pa.RecordBatch]:
        for batch in table.batches(low, high, sources):
            yield batch
            progress(len(batch))

    if output.suffix == ".parquet":
        path = stage.temporary(output)
        with prefetched(rows(0, table.rows)) as ready:
            table.write(path, ready)
        return file_digest(path)
    folder, parts = stage.new_folder(output), []
    for index, (low, high) in enumerate(table.parts()):
        with prefetched(rows(low, high)) as ready:
            parts.append(table.write_part(folder, index, ready))
    return finish_directory(output, folder, parts)


def finish_directory(output: Path, folder: Path, parts: Sequence[dict[str, Any]]) -> str:
    """Write the manifest that readers trust beside all parts in the new folder of an output; return its SHA-256."""
    write_json(folder / MANIFEST, {"rows": sum(part["rows"] for part in parts), "parts": parts})
    if output.exists():
        _keep_others(output, folder)
    return file_digest(folder / MANIFEST)


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


def candidate_rows(candidates: Table, low: int = 0, high: int | None = None) -> Iterator[pa.RecordBatch]:
    """Yield all columns of the rows [low, high) in one schema, and in batches of `ROW_GROUP` rows.

    So the row groups of an output do not depend on how the candidates are cut into files, nor on who writes them.
    """
    waiting: list[pa.RecordBatch] = []
    for batch in _rows_between(candidates, low, candidates.rows if high is None else high):
        rest = batch
        while len(rest):
            taken = rest.slice(0, ROW_GROUP - sum(map(len, waiting)))
            rest = rest.slice(len(taken))
            waiting.append(taken)
            if sum(map(len, waiting)) == ROW_GROUP:
                yield _one_batch(waiting)
                waiting = []
    if waiting:
        yield _one_batch(waiting)


def _one_batch(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()[0]


def _rows_between(candidates: Table, low: int, high: int) -> Iterator[pa.RecordBatch]:
    schema = candidates.schema
    for part, rows in candidates.between(low, high):
        missing = [name for name in schema.names if name not in part.schema.names]
        begin = 0
        for batch in part.batches(None, ROW_GROUP):
            wanted = batch.slice(
                max(0, rows.start - begin), max(0, min(rows.stop, begin + len(batch)) - max(rows.start, begin))
            )
            begin += len(batch)
            arrays = [
                pa.nulls(len(wanted), f.type) if f.name in missing else _as(wanted.column(f.name), f, part.name)
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
