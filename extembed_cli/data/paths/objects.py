"""Resolving a URL to objects by the rules of local paths: an object, a prefix as a directory, or a glob."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from extembed_cli.data.paths.directories import MANIFEST, PARQUET, has_wildcard, is_hidden, listed, parts_among
from extembed_cli.data.stores.copies import copies_of
from extembed_cli.data.stores.filesystems import Store, asking, open_store
from extembed_cli.errors import InputError

_LOG = re.compile(
    r"(?P<table>.+?)/(?:(?P<delta>_delta_log)/.*|(?P<hudi>\.hoodie)/.*|(?P<iceberg>metadata/[^/]*\.metadata\.json))"
)
_FORMATS = {"delta": "Delta Lake", "hudi": "Hudi", "iceberg": "Iceberg"}


class Copied(NamedTuple):
    """An object: its URL, its local copy, and the folder of the copy below which folders are partitions."""

    url: str
    path: Path
    base: Path | None


def local_copy(label: str, text: str) -> Path:
    """Return a local path as it is, and the local copy of the one object that a URL names."""
    if "://" not in text:
        return Path(text)
    copies = objects_of(label, text)
    if len(copies) != 1 or copies[0].base is not None:
        raise InputError(f"{label}: {text}: is no single object")
    return copies[0].path


def objects_of(label: str, url: str) -> list[Copied]:
    """Return local copies of the objects that a URL names; an existing object or prefix wins over a glob."""
    from pyarrow import fs  # noqa: PLC0415  slow to import

    with asking(url, label):
        store = open_store(url)
        info = store.fs.get_file_info(store.path)
        if info.type == fs.FileType.File:
            return _copied(store, None, {store.path: info.size})
        if info.type == fs.FileType.Directory:
            sizes = _sizes(store, store.path)
            chosen = _in_folder(store, PurePosixPath(store.path), sizes)
            if not chosen:
                raise InputError(f"{label}: {url}: no Parquet files in this directory ({' or '.join(PARQUET)})")
            _check_formats(label, store, sizes, chosen)
            return _copied(store, store.path, {path: sizes[path] for path in chosen})
        if not has_wildcard(store.path):
            raise InputError(f"{label}: {url}: {_what_is_missing(store)}")
        base, pattern = _split(store.path)
        sizes = _sizes(store, base)
        chosen = _matching(store, PurePosixPath(base), pattern, sizes)
        if not chosen:
            raise InputError(f"{label}: {url}: the pattern matches no object")
        _check_formats(label, store, sizes, chosen)
        return _copied(store, base, {path: sizes[path] for path in chosen})


def _copied(store: Store, base: str | None, sizes: dict[str, int]) -> list[Copied]:
    copies = copies_of(store, sizes)
    depth = None if base is None else len(PurePosixPath(base).parts)
    return [
        # The copy's path ends with the path in the store, so the base is so many folders above it.
        Copied(
            store.url(path), copy, None if depth is None else copy.parents[len(PurePosixPath(path).parts) - depth - 1]
        )
        for path, copy in copies.items()
    ]


def _what_is_missing(store: Store) -> str:
    """Return why there is nothing at a path: no bucket, or no object in it."""
    from pyarrow import fs  # noqa: PLC0415

    bucket = store.path.partition("/")[0]
    if store.fs.get_file_info(bucket).type == fs.FileType.NotFound:
        return f"there is no bucket `{bucket}`"
    return "no such object, and none below it"


def _split(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the folders before the first wildcard, and the segments of the pattern below them."""
    parts = path.split("/")
    first = next(place for place, part in enumerate(parts) if has_wildcard(part))
    return "/".join(parts[:first]), tuple(parts[first:])


def _sizes(store: Store, folder: str) -> dict[str, int]:
    """Return the sizes of all objects below a folder by path, in order."""
    from pyarrow import fs  # noqa: PLC0415

    infos = store.fs.get_file_info(fs.FileSelector(folder, recursive=True))
    sizes = {info.path: info.size for info in infos if info.type == fs.FileType.File}
    return dict(sorted(sizes.items()))


def _check_formats(label: str, store: Store, paths: Iterable[str], chosen: Iterable[str]) -> None:
    """Raise if objects belong to a table of a table format, whose log says which of them count."""
    tables = {log["table"]: log.lastgroup for path in paths if (log := _LOG.fullmatch(path))}
    for path in chosen:
        table = next((table for table in tables if path.startswith(f"{table}/")), None)
        if table is not None:
            raise InputError(
                f"{label}: {store.url(table)}: is a table of {_FORMATS[tables[table] or '']}, which is read from local "
                "folders only: copy its folder"
            )


def _in_folder(store: Store, folder: PurePosixPath, paths: Iterable[str]) -> list[str]:
    """Return the parts of a directory among the objects below it."""
    names = [PurePosixPath(path).relative_to(folder) for path in paths if PurePosixPath(path).is_relative_to(folder)]
    if PurePosixPath(MANIFEST) in names:
        manifest = str(folder / MANIFEST)
        with store.fs.open_input_file(manifest) as file:
            return [str(folder / part.file) for part in listed(store.url(manifest), file.read())]
    return [str(folder / name) for name in parts_among(names)]


def _matching(store: Store, base: PurePosixPath, pattern: tuple[str, ...], paths: Iterable[str]) -> list[str]:
    """Return the objects that a pattern matches, and the parts of the directories that it matches, in order."""
    chosen: set[str] = set()
    folders: set[PurePosixPath] = set()
    paths = list(paths)
    for path in paths:
        parts = PurePosixPath(path).relative_to(base).parts
        if _matches(parts, pattern):
            chosen.add(path)
        folders |= {base.joinpath(*parts[:n]) for n in range(1, len(parts)) if _matches(parts[:n], pattern)}
    for folder in folders:
        chosen.update(_in_folder(store, folder, paths))
    return sorted(chosen)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path is matched: `**` stands for any folders, and a wildcard for no hidden name."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        ways = range(len(parts) + 1)
        return any(_matches(parts[n:], pattern[1:]) for n in ways if not any(map(is_hidden, parts[:n])))
    if not parts or (is_hidden(parts[0]) and parts[0] != pattern[0]):
        return False
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
