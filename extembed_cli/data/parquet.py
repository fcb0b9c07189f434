"""Parquet inputs, checked before use. Every read goes through pyarrow, which rejects torn files cleanly."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.data.paths import SourceFile, resolve
from extembed_cli.errors import DataError, InputError, Problems, did_you_mean


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors about a file into an `InputError` that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: cannot be read as Parquet: {reason.rstrip('.')}. "
            "Is it complete and not still being written? Write it again"
        ) from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, with the options of every read.

    Page checksums are verified; a row group's columns are read a megabyte at a time instead of whole; Spark's INT96
    times are read as microseconds, because nanoseconds would wrap the year 9999 around to 1816.
    """
    return pq.ParquetFile(
        path,
        page_checksum_verification=True,
        pre_buffer=False,
        buffer_size=2**20,
        coerce_int96_timestamp_unit="us",
    )


def _state(path: Path) -> tuple[int, int, int]:
    """Return values that change when a file is replaced or written to."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Part:
    """One file of a table: its schema with the hive partition columns at the end."""

    path: Path
    rows: int
    schema: pa.Schema
    state: tuple[int, int, int]
    """Inode, size and time of change when it was opened."""
    row_bytes: int
    """Bytes of a decoded row, approximately."""
    partition: dict[str, Any] = field(default_factory=dict)

    def batches(self, columns: Sequence[str] | None = None, batch_size: int = 131_072) -> Iterator[pa.RecordBatch]:
        """Yield batches of the named columns (None = all), with page checksums verified and no read-ahead."""
        names = list(self.schema.names if columns is None else columns)
        stored = [name for name in names if name not in self.partition]
        schema = pa.schema([self.schema.field(name) for name in names])
        with reading(self.path), open_parquet(self.path) as file:
            for batch in file.iter_batches(batch_size=batch_size, columns=stored):
                arrays = [
                    pa.repeat(pa.scalar(self.partition[f.name], f.type), batch.num_rows)
                    if f.name in self.partition
                    else batch.column(f.name)
                    for f in schema
                ]
                if arrays:
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                else:
                    yield batch

    def extremes(self, column: str) -> pa.Array | None:
        """Return the least and the greatest value of a column of integers or times, if its footer has them."""
        with reading(self.path), open_parquet(self.path) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
            known = [chunk.statistics for chunk in chunks if chunk.path_in_schema == column]
            if not known or not all(each is not None and each.has_min_max for each in known):
                return None
            kind = self.schema.field(column).type
            values = [min(each.min_raw for each in known), max(each.max_raw for each in known)]
            return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind, safe=False)

    def tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Yield the named columns, `rows` at a time, with values checked: a damaged page can hold invalid text."""
        for batch in self.batches(columns, rows):
            table = pa.Table.from_batches([batch])
            with reading(self.path):
                table.validate(full=True)
            yield table


@dataclass(frozen=True)
class Table:
    """A checked input: all its files can be opened and their footers read."""

    label: str
    parts: tuple[Part, ...]

    @cached_property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @cached_property
    def bytes(self) -> int:
        """Total size of its files."""
        return sum(part.state[1] for part in self.parts)

    @cached_property
    def names(self) -> list[str]:
        """Columns that every file has, in the order of the first file."""
        later = [set(part.schema.names) for part in self.parts[1:]]
        return [name for name in self.parts[0].schema.names if all(name in names for names in later)]

    @cached_property
    def schema(self) -> pa.Schema:
        """The one schema for all files: the widest type of each column."""
        try:
            schema = pa.unify_schemas([part.schema for part in self.parts], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"{self.label}: the files have columns of types that do not fit together: {error}. "
                "Write them with one schema"
            ) from None
        # A column that one file lacks is null there, even where the others declare it as not null.
        return pa.schema([f if f.name in self.names else f.with_nullable(True) for f in schema], schema.metadata)

    def require(self, columns: dict[str, str]) -> None:
        """Check that each file has the columns; `columns` maps their names to hints on how to rename them."""
        problems = Problems()
        for part in self.parts:
            for name, fix in columns.items():
                with problems.collect():
                    if name not in part.schema.names:
                        hint = did_you_mean(name, part.schema.names)
                        raise DataError(f"{self.label}: {part.path}: no column `{name}`{hint}{fix}")
        problems.raise_any()

    def digest(self, stop: threading.Event) -> dict[str, Any]:
        """Return rows, bytes and SHA-256 of all files' content in order; paths and times of change do not count."""
        sha, size = hashlib.sha256(), 0
        for part in self.parts:
            each = hashlib.sha256()
            with reading(part.path), part.path.open("rb") as file:
                while (block := file.read(2**20)) and not stop.is_set():
                    each.update(block)
                    size += len(block)
            sha.update(each.digest())
        return {"files": len(self.parts), "rows": self.rows, "bytes": size, "sha256": sha.hexdigest()}

    def digest_now(self) -> dict[str, Any]:
        """Return the digest, which nothing cuts short."""
        return self.digest(threading.Event())

    def check_unchanged(self) -> None:
        """Raise if a file was replaced or written to since it was opened."""
        for part in self.parts:
            with reading(part.path):
                if _state(part.path) != part.state:
                    raise DataError(
                        f"{self.label}: {part.path}: changed while the job was reading it. Run again; "
                        "the old output is untouched"
                    )


def _part(path: Path, opened: pq.ParquetFile) -> Part:
    rows = opened.metadata.num_rows
    size = sum(opened.metadata.row_group(i).total_byte_size for i in range(opened.metadata.num_row_groups))
    return Part(path, rows, opened.schema_arrow, _state(path), -(-size // max(1, rows)))


def open_table(label: str, paths: str | tuple[str, ...]) -> Table:
    """Resolve the paths of an input and read every footer; raise all unreadable files together."""
    files = resolve(label, paths)
    problems = Problems()
    parts: list[Part] = []
    for file in files:
        with problems.collect(), reading(file.path):
            if file.path.is_dir():
                raise InputError(f"{file.path}: is a directory")
            with open_parquet(file.path) as opened:
                parts.append(_part(file.path, opened))
                twice = [name for name, n in Counter(opened.schema_arrow.names).items() if n > 1]
                if twice:
                    raise DataError(f"{label}: {file.path}: column `{twice[0]}` occurs twice; rename one")
    problems.raise_any()
    return Table(label, tuple(_with_partitions(files, parts)))


def _with_partitions(files: list[SourceFile], parts: list[Part]) -> list[Part]:
    """Add the hive partition columns of files in `key=value` folders, typed as pyarrow infers them over all files.

    A file's own column wins over the folder's.
    """
    if not any(file.in_partition for file in files):
        return parts
    import pyarrow.dataset as ds  # noqa: PLC0415  slow to import, and rarely needed
    from pyarrow.fs import LocalFileSystem  # noqa: PLC0415

    out = list(parts)
    for base in {file.base for file in files if file.in_partition}:
        inside = [i for i, file in enumerate(files) if file.base == base and file.in_partition]
        factory = ds.FileSystemDatasetFactory(
            LocalFileSystem(),
            [str(files[i].path.absolute()) for i in inside],
            ds.ParquetFileFormat(),
            ds.FileSystemFactoryOptions(
                partition_base_dir=str(Path(base or ".").absolute()), partitioning=ds.HivePartitioning.discover()
            ),
        )
        with reading(files[inside[0]].path):
            folders = factory.inspect_schemas()[-1]  # the last schema is that of the folders alone
            fragments = factory.finish(folders).get_fragments()
            for i, fragment in zip(inside, fragments, strict=True):
                keys = ds.get_partition_keys(fragment.partition_expression)
                keys = {k: v for k, v in keys.items() if k not in parts[i].schema.names}
                schema = parts[i].schema
                for key in keys:
                    schema = schema.append(folders.field(key))
                out[i] = replace(parts[i], schema=schema, partition=keys)
    return out
