"""Parquet inputs, checked before use. Every read goes through pyarrow, which rejects torn files cleanly."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.data.files.sniff import not_parquet
from extembed_cli.data.paths import hive
from extembed_cli.data.paths.resolving import SourceFile, file_state, resolve
from extembed_cli.data.stores.filesystems import is_url, open_store
from extembed_cli.errors import NOT_UTF8, DataError, InputError, Problems, SpecError, did_you_mean, first_line, listing
from extembed_cli.json_files import parsed


@contextmanager
def reading(path: Path, name: str = "") -> Iterator[None]:
    """Turn pyarrow's errors about a file into an `InputError` that names the file: by its path, or another name."""
    try:
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "not a file; save it as one, which is read more than once"
            raise InputError(f"{name or path}: is {what}")
        yield
    except MemoryError:
        raise
    except PermissionError:
        raise InputError(f"{name or path}: no permission to read it") from None
    except UnicodeEncodeError:  # pyarrow opens a path as UTF-8
        raise InputError(f"{name or path}: its name {NOT_UTF8}") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, EOFError) as error:
        other = not_parquet(path, name or str(path))
        if other is not None:
            raise InputError(f"{name or path}: {other}") from error
        raise InputError(
            f"{name or path}: cannot be read as Parquet: {first_line(error)}. "
            "Is it complete and not still being written? Write it again"
        ) from error


def open_parquet(path: Path, name: str = "") -> pq.ParquetFile:
    """Open a Parquet file, with the options of every read.

    `name` is the URL of the object that the file is a copy of: on a machine that has no copy the object is opened.

    Page checksums are verified; a row group's columns are read a megabyte at a time instead of whole; Spark's INT96
    times are read as microseconds, because nanoseconds would wrap the year 9999 around to 1816.
    """
    source: Any = path
    if is_url(name) and not path.exists():
        store = open_store(name)
        source = store.fs.open_input_file(store.path)
    return pq.ParquetFile(
        source,
        page_checksum_verification=True,
        pre_buffer=False,
        buffer_size=2**20,
        coerce_int96_timestamp_unit="us",
    )


@dataclass(frozen=True)
class Part:
    """One file of a table: its schema with the hive partition columns at the end."""

    path: Path
    name: str
    """What messages call it: its path, or the URL that it is a copy of"""
    rows: int
    schema: pa.Schema
    state: tuple[int, int, int]
    """Inode, size and time of change when it was opened."""
    row_bytes: int
    """Bytes of a decoded row, approximately."""
    partition: dict[str, str | None] = field(default_factory=dict)
    """The values of its hive partition columns, as the folders write them"""
    groups: range | None = None
    """The row groups to read; None = all"""

    def of_groups(self, groups: range, rows: int) -> Part:
        """Return some of the file's row groups, which have so many rows."""
        return replace(self, groups=groups, rows=rows)

    def group_rows(self) -> list[int]:
        """Return the rows of each row group of the file."""
        with reading(self.path, self.name), open_parquet(self.path, self.name) as file:
            return [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]

    def batches(self, columns: Sequence[str] | None = None, batch_size: int = 131_072) -> Iterator[pa.RecordBatch]:
        """Yield batches of the named columns (None = all), with page checksums verified and no read-ahead."""
        names = list(self.schema.names if columns is None else columns)
        stored = [name for name in names if name not in self.partition]
        schema = pa.schema([self.schema.field(name) for name in names])
        with reading(self.path, self.name), open_parquet(self.path, self.name) as file:
            groups = None if self.groups is None else list(self.groups)
            for batch in file.iter_batches(batch_size=batch_size, columns=stored, row_groups=groups):
                arrays = [
                    hive.column_of(self.partition[f.name], f.type, batch.num_rows)
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
        with reading(self.path, self.name), open_parquet(self.path, self.name) as file:
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
            with reading(self.path, self.name):
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
        names = dict.fromkeys(name for part in self.parts for name in part.schema.names)
        problems, fields = Problems(), []
        for name in names:
            with problems.collect():
                fields.append(self._field(name))
        problems.raise_any()
        schema = pa.schema(fields, self.parts[0].schema.metadata)
        # A column that one file lacks is null there, even where the others declare it as not null.
        return pa.schema([f if f.name in self.names else f.with_nullable(True) for f in schema], schema.metadata)

    def _field(self, name: str) -> pa.Field:
        """Return a column with the widest of its types."""
        having = [part for part in self.parts if name in part.schema.names]
        fields = [part.schema.field(name) for part in having]
        zoned = [each for each in fields if pa.types.is_timestamp(each.type) and each.type.tz is not None]
        if zoned and all(pa.types.is_timestamp(each.type) for each in fields):  # a naive time is UTC
            finest = max((each.type.unit for each in fields), key=("s", "ms", "us", "ns").index)
            fields = [each.with_type(pa.timestamp(finest, zoned[0].type.tz)) for each in fields]
        try:
            return pa.unify_schemas([pa.schema([each]) for each in fields], promote_options="permissive").field(0)
        except pa.ArrowException:
            other = next(i for i, each in enumerate(fields) if each.type != fields[0].type)
            raise DataError(
                f"{self.label}: column `{name}` is {fields[0].type} in {having[0].name} and {fields[other].type} in "
                f"{having[other].name}. Write the files with one schema"
            ) from None

    def missing_in(self, name: str) -> str | None:
        """Return the path of the first file without a column that others have; None if there is no such file."""
        without = [part for part in self.parts if name not in part.schema.names]
        return without[0].name if 0 < len(without) < len(self.parts) else None

    def splits(self, rows: int) -> Iterator[Table]:
        """Yield the table in pieces of whole row groups, each of one file and of about so many rows or fewer."""
        for part in self.parts:
            counts = part.group_rows()
            first = 0
            for group in range(len(counts)):
                if group + 1 == len(counts) or sum(counts[first : group + 2]) > rows:
                    yield Table(self.label, (part.of_groups(range(first, group + 1), sum(counts[first : group + 1])),))
                    first = group + 1

    def between(self, low: int, high: int) -> Iterator[tuple[Part, range]]:
        """Yield what holds the rows [low, high): row groups of a file, and which of their rows these are."""
        begin = 0
        for part in self.parts:
            if begin < high and low < begin + part.rows:
                ends = np.cumsum([0, *part.group_rows()]) + begin
                chosen = np.flatnonzero((ends[:-1] < high) & (ends[1:] > low))
                first, last = int(ends[chosen[0]]), int(ends[chosen[-1] + 1])
                groups = range(int(chosen[0]), int(chosen[-1]) + 1)
                yield part.of_groups(groups, last - first), range(max(low, first) - first, min(high, last) - first)
            begin += part.rows

    def with_key_type(self, name: str, kind: str) -> Table:
        """Return the table with another type of a hive partition column: `integer` or `text`."""
        parts = []
        for part in self.parts:
            place = part.schema.get_field_index(name)
            schema = part.schema.set(place, pa.field(name, hive.TYPES[kind])) if name in part.partition else part.schema
            parts.append(replace(part, schema=schema))
        return Table(self.label, tuple(parts))

    def require(self, columns: dict[str, str]) -> None:
        """Check that each file has the columns; `columns` maps their names to hints on how to rename them."""
        problems = Problems()
        for part in self.parts:
            for name, fix in columns.items():
                with problems.collect():
                    if name not in part.schema.names:
                        hint = _of_pandas(name, part.schema) or f"{did_you_mean(name, part.schema.names)}{fix}"
                        raise DataError(f"{self.label}: {part.name}: no column `{name}`{hint}")
        problems.raise_any()

    def digest(self, stop: threading.Event) -> dict[str, Any]:
        """Return rows, bytes and SHA-256 of all files' content in order; paths and times of change do not count."""
        sha, size = hashlib.sha256(), 0
        for part in self.parts:
            each = hashlib.sha256()
            with reading(part.path, part.name), part.path.open("rb") as file:
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
            with reading(part.path, part.name):
                if file_state(part.path) != part.state:
                    raise DataError(
                        f"{self.label}: {part.name}: changed while the job was reading it. Run again; "
                        "the old output is untouched"
                    )


def _of_pandas(name: str, schema: pa.Schema) -> str | None:
    """Return a hint if a missing column is an index that pandas has described instead of stored, or has no name."""
    try:
        index = parsed((schema.metadata or {})[b"pandas"])["index_columns"]
        described = [each["name"] for each in index if isinstance(each, dict) and each.get("stop") != each.get("start")]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if name in described or any(each in schema.names for each in index if str(each).startswith("__index_level_")):
        return f"; it seems to be in the index of pandas: write df.reset_index(names={name!r})"
    return None


def _part(file: SourceFile, opened: pq.ParquetFile) -> Part:
    rows = opened.metadata.num_rows
    size = sum(opened.metadata.row_group(i).total_byte_size for i in range(opened.metadata.num_row_groups))
    return Part(file.path, file.name, rows, opened.schema_arrow, file_state(file.path), -(-size // max(1, rows)))


def open_table(label: str, paths: str | tuple[str, ...], types: Mapping[str, str] | None = None) -> Table:
    """Resolve the paths of an input and read every footer; raise all unreadable files together.

    `types` of hive partition columns are `integer` or `text`; by default they are told by the values.
    """
    files = resolve(label, paths)
    problems = Problems()
    parts: list[Part] = []
    for file in files:
        with problems.collect(), reading(file.path, file.name), open_parquet(file.path) as opened:
            parts.append(_part(file, opened))
            twice = [name for name, n in Counter(opened.schema_arrow.names).items() if n > 1]
            if twice:
                raise DataError(f"{label}: {file.name}: column `{twice[0]}` occurs twice; rename one")
    problems.raise_any()
    parts = _with_partitions(files, parts, types or {})
    # A part without rows may have any types, as what wrote it had nothing to tell them by.
    return Table(label, tuple([part for part in parts if part.rows] or parts[:1]))


def _with_partitions(files: list[SourceFile], parts: list[Part], types: Mapping[str, str]) -> list[Part]:
    """Add the hive partition columns of files in `key=value` folders; a file's own column wins over the folder's."""
    keys = [
        {key: text for key, text in file.keys.items() if key not in part.schema.names}
        for file, part in zip(files, parts, strict=True)
    ]
    of_tables = [file.of_table.types for file in files if file.of_table is not None]
    types = {**{key: kind for of_file in of_tables for key, kind in of_file.items()}, **types}
    kinds = {}
    for key in dict.fromkeys(key for of_file in keys for key in of_file):
        texts = [of_file[key] for of_file in keys if key in of_file]
        kinds[key] = hive.TYPES[types[key]] if key in types else hive.key_type(texts)
        if pa.types.is_integer(kinds[key]) and not hive.are_integers(texts):
            raise SpecError(f"columns.types.{key}: `integer`, but some folders have other values ({listing(texts)})")
    return [
        replace(part, schema=_with_fields(part.schema, {key: kinds[key] for key in of_file}), partition=of_file)
        for part, of_file in zip(parts, keys, strict=True)
    ]


def _with_fields(schema: pa.Schema, kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    for name, kind in kinds.items():
        schema = schema.append(pa.field(name, kind))
    return schema
