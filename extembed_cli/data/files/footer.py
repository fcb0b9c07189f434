"""The key-value metadata in the footer of a Parquet file: our own, and what other programs have put there.

Readers trust these keys more than the columns of the file: Spark reads the columns that its key lists and no others,
and pandas takes the type of all column names from its key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from extembed_cli.json_files import parsed

METADATA_KEY = b"extembed"
_SPARK, _PANDAS = b"org.apache.spark.sql.parquet.row.metadata", b"pandas"
_SPARK_TYPES = {pa.uint32(): "long", pa.float32(): "float"}  # Spark has no unsigned integers


def json_bytes(metadata: dict[str, Any]) -> bytes:
    """Return metadata as a footer holds it: the same bytes for the same content."""
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def read_about(schema: pa.Schema) -> dict[str, Any] | None:
    """Return what a run has put into the footer of a file; None where there is nothing, or nothing readable."""
    try:
        return parsed((schema.metadata or {})[METADATA_KEY])
    except (KeyError, ValueError):
        return None


def carried_over(candidates: pa.Schema, features: Sequence[pa.Field]) -> dict[bytes, bytes]:
    """Return the metadata of the candidates, with the features added to the keys that list all columns.

    A key that does not fit the candidates is left out: their files may have had different columns.
    """
    kept = dict(candidates.metadata or {})
    for key, add in _LISTING.items():
        if key not in kept:
            continue
        try:
            about = parsed(kept.pop(key))
            add(about, candidates.names, features)
            kept[key] = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return kept


def _add_to_spark(about: dict[str, Any], names: list[str], features: Sequence[pa.Field]) -> None:
    fields = about["fields"]
    if [field["name"] for field in fields] != names:
        raise ValueError("another schema")
    fields += [{"name": f.name, "type": _SPARK_TYPES[f.type], "nullable": True, "metadata": {}} for f in features]


def _add_to_pandas(about: dict[str, Any], names: list[str], features: Sequence[pa.Field]) -> None:
    columns = about["columns"]
    if not all(name in names for name in about["index_columns"] if isinstance(name, str)):
        raise ValueError("another index")
    for each in features:
        kind = str(each.type).replace("float", "float32", 1) if each.type == pa.float32() else str(each.type)
        columns.append(
            {"name": each.name, "field_name": each.name, "pandas_type": kind, "numpy_type": kind, "metadata": None}
        )
    for column in about.get("column_indexes") or []:  # names are text now, whatever they were
        column.update(pandas_type="unicode", numpy_type="object", metadata={"encoding": "UTF-8"})


_LISTING: dict[bytes, Callable[[dict[str, Any], list[str], Sequence[pa.Field]], None]] = {
    _SPARK: _add_to_spark,
    _PANDAS: _add_to_pandas,
}
