"""Hive partitions: columns whose values are the names of folders, such as `month=01/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
TYPES = {"integer": pa.int64(), "text": pa.string()}
"""What the values of a key can be"""


def keys_of(path: Path, base: Path) -> dict[str, str | None]:
    """Return the values that the folders between a base and a file name, as text; None = null."""
    pairs = (part.partition("=") for part in path.relative_to(base).parts[:-1] if "=" in part)
    return {key: None if text == _NULL else unquote(text) for key, _, text in pairs}


def key_type(texts: Iterable[str | None]) -> pa.DataType:
    """Return the type of a key: integers if all values are written as integers are, so `01` is text."""
    return TYPES["integer" if all(text is None or _INTEGER.fullmatch(text) for text in texts) else "text"]


def are_integers(texts: Iterable[str | None]) -> bool:
    """Whether all values can become integers of 64 bits, however they are written."""
    return all(text is None or re.fullmatch(r"-?\d{1,18}", text) for text in texts)


def column_of(text: str | None, kind: pa.DataType, rows: int) -> pa.Array:
    """Return the value of a key as a column of so many rows."""
    return pa.repeat(pa.scalar(text, pa.string()).cast(kind), rows)
