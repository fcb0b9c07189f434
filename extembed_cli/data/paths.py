"""Resolving an input's path to files: a file, a list, a glob, or a directory of parts."""

from __future__ import annotations

import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from extembed_cli.data.hive import keys_of
from extembed_cli.data.lake import LakeFile, Version, files_of, split_version, table_format
from extembed_cli.errors import InputError, Problems, SpecError

MANIFEST = "_extembed_manifest.json"
_PARQUET = (".parquet", ".parq", ".pq")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file, and the folder below which `key=value` folder names are hive partitions."""

    path: Path
    base: Path | None = None
    of_table: LakeFile | None = None
    """What the log of a table says about the file"""

    @property
    def keys(self) -> dict[str, str | None]:
        """The values of its partition columns, as text."""
        if self.of_table is not None:
            return self.of_table.keys
        return {} if self.base is None else keys_of(self.path, self.base)


def resolve(label: str, paths: str | tuple[str, ...]) -> list[SourceFile]:
    """Return the files of an input's path or paths, in a fixed order; one that is named twice, or linked, comes once.

    An existing path wins over a glob. Files of a table format are refused: which of them count is in its log.
    """
    files: list[SourceFile] = []
    problems = Problems()
    for text in (paths,) if isinstance(paths, str) else paths:
        with problems.collect():
            files += _resolve_one(label, text)
    problems.raise_any()
    if not files:
        raise InputError(f"{label}: the list of paths is empty; name at least one Parquet file")
    _check_formats(label, files)
    different: dict[object, SourceFile] = {}
    for file in files:
        different.setdefault(_identity(file.path), file)
    return list(different.values())


def _identity(path: Path) -> object:
    """Return what is the same for all names of a file."""
    try:
        status = path.stat()
    except OSError:  # reported when it is opened
        return path
    return status.st_dev, status.st_ino


def _check_formats(label: str, files: list[SourceFile]) -> None:
    """Raise if files belong to a table of Delta Lake, Iceberg or Hudi: some of them may have been removed from it."""
    heap = [file.path.absolute() for file in files if file.of_table is None]
    for folder in dict.fromkeys(parent for path in heap for parent in path.parents):
        kind = table_format(folder)
        if kind is not None:
            raise InputError(
                f"{label}: {folder}: is a table of {kind}, whose log says which files count. Name this folder"
            )


def _resolve_one(label: str, text: str) -> list[SourceFile]:
    if "://" in text:
        raise InputError(f"{label}: {text}: only local paths can be read; copy or mount it")
    text, version = split_version(text)
    path = Path(text)
    if path.is_dir():
        kind = table_format(path)
        if kind is not None:
            return [SourceFile(file.path, path, file) for file in files_of(label, path, kind, version)]
    if version != Version():
        raise SpecError(f"{label}: {text}: is no table of Delta Lake or Iceberg, so it has no versions")
    if path.is_dir():
        return _in_directory(label, path)
    if path.exists():
        return [SourceFile(path)]
    if not _WILDCARD.search(text):
        raise InputError(f"{label}: {text}: no such file or directory")
    base, pattern = _split(path)
    files: list[SourceFile] = []
    for name in sorted(glob.glob(str(pattern), root_dir=base, recursive=True)):  # noqa: PTH207  pathlib resolves `**` otherwise
        match = base / name
        if any(_is_hidden(part) and part not in pattern.parts for part in Path(name).parts):
            continue  # hidden, and matched by a wildcard only
        if match.is_dir():
            files += [SourceFile(f.path, base) for f in _in_directory(label, match, may_be_empty=True)]
        else:
            files.append(SourceFile(match, base))
    files = list({file.path: file for file in files}.values())  # `**` matches a folder and the files in it
    if not files:
        raise InputError(f"{label}: {text}: the pattern matches no file")
    return files


def _split(path: Path) -> tuple[Path, Path]:
    """Return the longest leading part that exists, whatever its characters, and the pattern below it."""
    base = next(parent for parent in path.parents if parent.exists())
    return base, path.relative_to(base)


def _is_hidden(part: str) -> bool:
    """Whether a name is hidden: `_temporary`, `.crc`, but not a partition folder such as `_date=2026-01-31`."""
    return part.startswith(("_", ".")) and "=" not in part


class ListedPart(NamedTuple):
    """A part of a directory, as its manifest has it."""

    file: str
    rows: int
    sha256: str


def read_manifest(path: Path) -> list[ListedPart]:
    """Return the parts of a directory that a manifest lists, in order."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["parts"]
        return [ListedPart(Path(part["file"]).name, int(part["rows"]), str(part["sha256"])) for part in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable manifest ({error}); write the directory again") from None


def _in_directory(label: str, folder: Path, may_be_empty: bool = False) -> list[SourceFile]:
    """Return the parts of a directory: the files that its manifest lists, or every Parquet file that is not hidden."""
    if (folder / MANIFEST).exists():
        try:
            return [SourceFile(folder / part.file, folder) for part in read_manifest(folder / MANIFEST)]
        except InputError as error:
            raise InputError(f"{label}: {error}") from None
    files = [
        SourceFile(path, folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _PARQUET
        and path.is_file()
        and not any(map(_is_hidden, path.relative_to(folder).parts))
    ]
    if not files and not may_be_empty:
        raise InputError(f"{label}: {folder}: no Parquet files in this directory ({' or '.join(_PARQUET)})")
    return files
