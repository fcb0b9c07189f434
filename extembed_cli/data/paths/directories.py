"""Which files of a directory are its parts: those that its manifest lists, or every Parquet file that is not hidden."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple, TypeVar

from extembed_cli.errors import InputError
from extembed_cli.json_files import parsed

MANIFEST = "_extembed_manifest.json"
PART = r"part-\d{5}-[0-9a-f]{12}\.parquet"
"""Pattern of the names of parts that we write: a number and what the content's digest begins with"""
PARQUET = (".parquet", ".parq", ".pq")
Name = TypeVar("Name", bound=PurePath)


def has_wildcard(text: str) -> bool:
    """Whether a path, or a part of one, can be a glob."""
    return re.search(r"[*?\[]", text) is not None


def is_hidden(part: str) -> bool:
    """Whether a name is hidden: `_temporary`, `.crc`, but not a partition folder such as `_date=2026-01-31`."""
    return part.startswith(("_", ".")) and "=" not in part


def parts_among(names: Iterable[Name]) -> list[Name]:
    """Return the parts among the names of files below a directory without a manifest, in order."""
    return sorted(name for name in names if name.suffix.lower() in PARQUET and not any(map(is_hidden, name.parts)))


class ListedPart(NamedTuple):
    """A part of a directory, as its manifest has it."""

    file: str
    rows: int
    sha256: str


def listed(where: str, manifest: bytes) -> list[ListedPart]:
    """Return the parts that a manifest lists, in order; `where` is its name."""
    try:
        parts = parsed(manifest)["parts"]
        names = [PurePath(part["file"]).name for part in parts]
        if any("\0" in name for name in names):
            raise ValueError("a name has a NUL character")
        return [
            ListedPart(name, int(part["rows"]), str(part["sha256"])) for name, part in zip(names, parts, strict=True)
        ]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: not a readable manifest ({error}); write the directory again") from None
