"""Sums over a whole embedding table that stay as they are while the table grows: its mean, and its Gramian.

Features of centred vectors depend on the mean of all items, and dual fits with `unobserved_weight` on Σ x xᵀ over them.
Kept in files, they make the features of a row independent of items that come later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.arrays import Doubles
from extembed_cli.data.files.commit import Staged, file_digest
from extembed_cli.data.files.footer import METADATA_KEY, json_bytes
from extembed_cli.data.files.parquet import open_parquet, reading
from extembed_cli.data.paths.objects import local_copy
from extembed_cli.errors import InputError

_MEAN, _GRAMIAN, _VECTORS, _NORMALIZED, _CENTERED = "mean", "gramian", "vectors", "normalized", "centered"
_HINT = "Write it with `extembed center`"


class FrozenGramian(NamedTuple):
    """Σ x xᵀ over a table, each x with a constant 1 behind it."""

    vectors: int
    """Of the table"""
    gramian: Doubles
    """(d + 1, d + 1)"""
    normalized: bool
    """Whether each x has norm 1"""
    centered: bool


def write_mean(stage: Staged, path: Path, mean: Doubles, vectors: int, metadata: dict[str, Any]) -> None:
    """Stage a file with the mean (d) of so many vectors."""
    _write(stage, path, {_VECTORS: [vectors], _MEAN: _lists(mean[None])}, metadata)


def read_mean(path: str, dim: int, label: str) -> Doubles:
    """Return the mean (d) in a file of `write_mean`; raise if it is none, or of vectors of another length."""
    mean = _matrix(_read(path, label, (_VECTORS, _MEAN)), _MEAN, path, label)
    if mean.shape != (1, dim):
        raise InputError(f"{label}: {path}: is a mean of {mean.shape[1]} dimensions, the table has {dim}. {_HINT}")
    first: Doubles = mean[0]
    return first


def write_gramians(stage: Staged, path: Path, gramians: list[FrozenGramian], metadata: dict[str, Any]) -> None:
    """Stage a file with the Gramians of one table, a row for each kind of vectors."""
    columns = {
        _VECTORS: [each.vectors for each in gramians],
        _NORMALIZED: [each.normalized for each in gramians],
        _CENTERED: [each.centered for each in gramians],
        _GRAMIAN: _lists(np.stack([each.gramian.ravel() for each in gramians])),
    }
    _write(stage, path, columns, metadata)


def read_gramian(path: str, dim: int, label: str, *, normalized: bool, centered: bool) -> FrozenGramian:
    """Return the Gramian of a kind of vectors (d) in a file of `write_gramians`; raise if it has none."""
    table = _read(path, label, (_VECTORS, _NORMALIZED, _CENTERED, _GRAMIAN))
    kinds = list(zip(table[_NORMALIZED].to_pylist(), table[_CENTERED].to_pylist(), strict=True))
    if (normalized, centered) not in kinds:
        kind = f"{'normalised' if normalized else 'not normalised'}, {'centred' if centered else 'not centred'}"
        raise InputError(f"{label}: {path}: has no Gramian of vectors that are {kind}. {_HINT}")
    row = kinds.index((normalized, centered))
    values = _matrix(table.slice(row, 1), _GRAMIAN, path, label)
    if values.shape[1] != (dim + 1) ** 2:
        side = round(values.shape[1] ** 0.5) - 1
        raise InputError(f"{label}: {path}: is a Gramian of {side} dimensions, the table has {dim}. {_HINT}")
    return FrozenGramian(table[_VECTORS][row].as_py(), values.reshape(dim + 1, dim + 1), normalized, centered)


def frozen_digest(path: str, label: str) -> str:
    """Return the SHA-256 of a file of this module."""
    try:
        return file_digest(_local_file(label, path))
    except OSError as error:
        raise InputError(f"{label}: {path}: cannot be read: {error.strerror}. {_HINT}") from None


def _local_file(label: str, path: str) -> Path:
    file_path = local_copy(label, path)
    if not file_path.is_file():
        raise InputError(f"{label}: {path}: {'is not a file' if file_path.exists() else 'no such file'}. {_HINT}")
    return file_path


def _lists(rows: Doubles) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _write(stage: Staged, path: Path, columns: dict[str, Any], metadata: dict[str, Any]) -> None:
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json_bytes(metadata)})
    pq.write_table(table, stage.temporary(path), write_page_checksum=True)


def _read(path: str, label: str, columns: tuple[str, ...]) -> pa.Table:
    file_path = _local_file(label, path)
    try:
        with reading(file_path, path), open_parquet(file_path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if not missing:
                return file.read(list(columns))
    except InputError as error:
        raise InputError(f"{label}: {error}") from None
    raise InputError(f"{label}: {path}: has no column `{missing[0]}`. {_HINT}")


def _matrix(table: pa.Table, column: str, path: str, label: str) -> Doubles:
    """Return a column of lists as a matrix of finite numbers."""
    values = table[column].combine_chunks()
    fits = pa.types.is_fixed_size_list(values.type) and pa.types.is_float64(values.type.value_type)
    if not fits or not len(values) or values.null_count or values.flatten().null_count:
        raise InputError(f"{label}: {path}: its column `{column}` has no lists of float64. {_HINT}")
    rows: Doubles = values.flatten().to_numpy().reshape(len(values), -1)
    if not np.isfinite(rows).all():
        raise InputError(f"{label}: {path}: its column `{column}` is not finite. {_HINT}")
    return rows
