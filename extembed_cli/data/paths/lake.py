"""The files of a Delta Lake or Iceberg table at one version: its log says which of those in its folder count.

The libraries of the formats read the logs (extra `lake`). Files are read like any others, so what only a library could
apply to their rows is refused: deletion vectors, delete files, columns that were renamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.errors import InputError, SpecError, first_line, to_install
from extembed_cli.spec.durations import time_text, time_us

_GZIP = b"\x1f\x8b"
_OPTION = re.compile(r"(?P<path>.+)\?(?P<key>version|as_of)=(?P<value>[^?]+)")


class Version(NamedTuple):
    """Which version of a table is read; the newest unless one is set."""

    number: int | None = None
    """Of Delta Lake its version, of Iceberg the id of a snapshot"""
    as_of: str | None = None
    """The newest version at this time"""


class LakeFile(NamedTuple):
    """A data file of a table."""

    path: Path
    keys: dict[str, str | None]
    """Values of partition columns that the file itself lacks, as text"""
    types: dict[str, str]
    """Whether these are `integer` or `text`"""


def split_version(text: str) -> tuple[str, Version]:
    """Return a path without `?version=3` or `?as_of=2026-01-31`, and the version."""
    match = _OPTION.fullmatch(text)
    if match is None or Path(text).exists():
        return text, Version()
    if match["key"] == "as_of":
        try:
            time_us(match["value"])
        except ValueError:
            raise SpecError(
                f"{text}: `{match['value']}` is not an ISO 8601 time, such as 2026-01-31T06:00:00"
            ) from None
        return match["path"], Version(as_of=match["value"])
    if not match["value"].isdecimal():
        raise SpecError(f"{text}: `{match['value']}` is not the number of a version")
    return match["path"], Version(number=int(match["value"]))


def table_format(folder: Path) -> str | None:
    """Return which table format a folder is a table of: `Delta Lake`, `Iceberg`, `Hudi` or none."""
    if (folder / "_delta_log").is_dir():
        return "Delta Lake"
    if (folder / ".hoodie").is_dir():
        return "Hudi"
    return "Iceberg" if any(map(_is_iceberg, folder.glob("metadata/*.metadata.json"))) else None


def _is_iceberg(log: Path) -> bool:
    try:
        data = log.read_bytes()
    except OSError:  # in a folder of others, far above the input
        return False
    return data.startswith(_GZIP) or b'"format-version"' in data


def files_of(label: str, folder: Path, kind: str, version: Version) -> list[LakeFile]:
    """Return the data files of a table at a version, in order of their paths."""
    read = {"Delta Lake": _delta_files, "Iceberg": _iceberg_files}.get(kind)
    if read is None:
        raise InputError(f"{label}: {folder}: is a {kind} table, which cannot be read. Export it to Parquet")
    try:
        files = read(folder, version)
    except ImportError as error:
        raise InputError(
            f"{label}: {folder}: is {_a(kind)} table, and reading it needs {to_install([str(error.name)], 'lake')}"
        ) from None
    except _UnsupportedError as error:
        raise InputError(f"{label}: {folder}: is {_a(kind)} table with {error}, which cannot be read") from None
    except InputError as error:
        raise InputError(f"{label}: {folder}: {error}") from None
    except Exception as error:  # of the libraries, which have no common base
        reason = first_line(error)
        raise InputError(f"{label}: {folder}: cannot be read as {_a(kind)} table: {reason}") from None
    if not files:
        raise InputError(f"{label}: {folder}: this version of the table has no rows")
    return sorted(files)


class _UnsupportedError(Exception):
    """A table has what cannot be read file by file."""


def _a(kind: str) -> str:
    return f"{'an' if kind == 'Iceberg' else 'a'} {kind}"


def _delta_files(folder: Path, version: Version) -> list[LakeFile]:
    from deltalake import DeltaTable  # noqa: PLC0415  an extra

    table = DeltaTable(str(folder), version=version.number)
    if version.as_of is not None:
        table.load_as_version(time_text(time_us(version.as_of)))
        _check_written(folder, table.version(), version.as_of)
    features = set(table.protocol().reader_features or ())
    if "deletionVectors" in features and _has_deletion_vectors(folder):
        raise _UnsupportedError("deletion vectors (run OPTIMIZE, or REORG TABLE ... APPLY (PURGE))")
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise _UnsupportedError("a column mapping; columns of its files have other names (export it)")
    kinds = {field.name: field.type for field in pa.schema(table.schema().to_arrow())}
    names = table.metadata().partition_columns
    actions = pa.table(table.get_add_actions(flatten=True))
    types = {name: "integer" if pa.types.is_integer(kinds[name]) else "text" for name in names}
    files = []
    for row in actions.select(["path", *(f"partition.{name}" for name in names)]).to_pylist():
        keys = {name: row[f"partition.{name}"] for name in names}
        texts = {name: None if value is None else str(value) for name, value in keys.items()}
        files.append(LakeFile(folder / unquote(row["path"]), texts, types))
    return files


def _check_written(folder: Path, version: int, as_of: str) -> None:
    """Raise if a version, of which the library takes the first for any earlier time, was written after a time.

    The time of a version is that of its log file, as the library has it too.
    """
    log = folder / "_delta_log" / f"{version:020}.json"
    written = log.stat().st_mtime_ns // 1000 if log.exists() else None
    if written is not None and written > time_us(as_of):
        raise _too_early(as_of, "version", written)


def _too_early(as_of: str, kind: str, first: int | None) -> InputError:
    """Return the error for a time before the first version of a table (us; None = there is none)."""
    of_first = "" if first is None else f"; its first is of {time_text(first)}"
    return InputError(f"has no {kind} as of {as_of}{of_first}")


def _has_deletion_vectors(folder: Path) -> bool:
    """Whether the log of a table mentions any: a file's vector stands beside it there."""
    logs = [*folder.glob("_delta_log/*.json")]
    if any(b'"deletionVector"' in log.read_bytes() for log in logs):
        return True
    checkpoints = [pq.read_table(path) for path in folder.glob("_delta_log/*.checkpoint*.parquet")]
    return any(
        add["deletionVector"] is not None
        for table in checkpoints
        if "add" in table.column_names
        for add in table["add"].to_pylist()
        if add is not None and "deletionVector" in add
    )


def _iceberg_files(folder: Path, version: Version) -> list[LakeFile]:
    from pyiceberg.table import StaticTable  # noqa: PLC0415  an extra

    table = StaticTable.from_metadata(str(_newest_metadata(folder)))
    snapshot = version.number
    if version.as_of is not None:
        found = table.snapshot_as_of_timestamp(time_us(version.as_of) // 1000)
        if found is None:
            first = min((each.timestamp_ms for each in table.snapshots()), default=None)
            raise _too_early(version.as_of, "snapshot", None if first is None else first * 1000)
        snapshot = found.snapshot_id
    elif snapshot is not None and table.snapshot_by_id(snapshot) is None:
        newest = table.current_snapshot()
        of_newest = "" if newest is None else f"; its newest is {newest.snapshot_id}"
        raise InputError(f"has no snapshot {snapshot}{of_newest}")
    names = {field.field_id: field.name for field in table.schema().fields}
    files = []
    for task in table.scan(snapshot_id=snapshot).plan_files():
        if task.delete_files:
            raise _UnsupportedError("delete files (compact it first)")
        path = Path(unquote(urlparse(task.file.file_path).path))
        if str(task.file.file_format) not in {"FileFormat.PARQUET", "PARQUET"}:
            raise _UnsupportedError(f"files of the format {task.file.file_format}")
        _check_names(path, names)
        files.append(LakeFile(path, {}, {}))
    return files


def _check_names(path: Path, names: dict[int, str]) -> None:
    for field in pq.read_schema(path):
        number = (field.metadata or {}).get(b"PARQUET:field_id")
        now = None if number is None else names.get(int(number))
        if now is not None and now != field.name:
            raise _UnsupportedError(f"a renamed column: `{field.name}` of {path.name} is `{now}` now (export it)")


def _newest_metadata(folder: Path) -> Path:
    """Return the newest metadata file: that of the version hint, or the one with the highest number."""
    logs = folder / "metadata"
    hint = logs / "version-hint.text"
    if hint.exists():
        hinted = sorted(logs.glob(f"v{hint.read_text().strip()}.*metadata.json"))
        if hinted:
            return hinted[-1]
    number: Callable[[Path], Any] = lambda path: (int((re.findall(r"\d+", path.name) or ["0"])[0]), path.name)  # noqa: E731
    return max(logs.glob("*.metadata.json"), key=number)
