"""Resolving an input's path to files: a file, a list, a glob, a directory of parts, or the same in an object store."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from extembed_cli.data.paths.directories import MANIFEST, PARQUET, has_wildcard, is_hidden, listed, parts_among
from extembed_cli.data.paths.hive import keys_of
from extembed_cli.data.paths.lake import LakeFile, Version, files_of, split_version, table_format
from extembed_cli.data.paths.objects import objects_of
from extembed_cli.data.stores.filesystems import is_url
from extembed_cli.errors import InputError, Problems, SpecError
from extembed_cli.spec.paths import SPARK_TABLE


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file, and the folder below which `key=value` folder names are hive partitions."""

    path: Path
    base: Path | None = None
    of_table: LakeFile | None = None
    """What the log of a table says about the file"""
    url: str | None = None
    """Of the object that the file is a copy of"""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.url or str(self.path)

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
            if text.startswith(SPARK_TABLE):
                raise SpecError(f"{label}: {text}: is a table of Spark; read it with `extembed run --engine spark`")
            files += _resolve_one(label, text)
    problems.raise_any()
    if not files:
        raise InputError(f"{label}: the list of paths is empty; name at least one Parquet file")
    _check_formats(label, files)
    different: dict[object, SourceFile] = {}
    for file in files:
        different.setdefault(_identity(file.path), file)
    return list(different.values())


def file_state(path: Path) -> tuple[int, int, int]:
    """Return values that change when a file is replaced or written to: inode, size and time of change."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _identity(path: Path) -> object:
    """Return what is the same for all names of a file."""
    try:
        status = path.stat()
    except OSError:  # reported when it is opened
        return path
    return status.st_dev, status.st_ino


def _check_formats(label: str, files: list[SourceFile]) -> None:
    """Raise if files belong to a table of Delta Lake, Iceberg or Hudi: some of them may have been removed from it."""
    heap = [file.path for file in files if file.of_table is None and file.url is None]
    places = [place for path in heap for place in (path.absolute(), Path(os.path.realpath(path)))]  # links lead there
    for folder in dict.fromkeys(parent for place in places for parent in place.parents):
        kind = table_format(folder)
        if kind is not None:
            raise InputError(
                f"{label}: {folder}: is a table of {kind}, whose log says which files count. Name this folder"
            )


def _resolve_one(label: str, text: str) -> list[SourceFile]:
    if is_url(text):
        return [SourceFile(copy.path, copy.base, url=copy.url) for copy in objects_of(label, text)]
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
    if not has_wildcard(text):
        raise InputError(f"{label}: {text}: no such file or directory")
    base, pattern = _split(path)
    files: list[SourceFile] = []
    for name in sorted(glob.glob(str(pattern), root_dir=base, recursive=True)):  # noqa: PTH207  pathlib resolves `**` otherwise
        match = base / name
        if any(is_hidden(part) and part not in pattern.parts for part in Path(name).parts):
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


def _in_directory(label: str, folder: Path, may_be_empty: bool = False) -> list[SourceFile]:
    """Return the parts of a directory: the files that its manifest lists, or every Parquet file that is not hidden."""
    if (folder / MANIFEST).exists():
        try:
            content = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise InputError(
                f"{label}: {folder / MANIFEST}: not a readable manifest ({error}); write the directory again"
            ) from None
        parts = listed(f"{label}: {folder / MANIFEST}", content)
        return [SourceFile(folder / part.file, folder) for part in parts]
    names = parts_among(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    if not names and not may_be_empty:
        raise InputError(f"{label}: {folder}: no Parquet files in this directory ({' or '.join(PARQUET)})")
    return [SourceFile(folder / name, folder) for name in names]
