"""What the shards made: features by candidate row and vectors by user, in memory or in files of a scratch folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from extembed_cli.data import ids as keys
from extembed_cli.data import ipc
from extembed_cli.data.scratch import Scratch
from extembed_cli.system.threads import Mapping

Ints = NDArray[np.int64]
Values = NDArray[Any]  # float32 or uint32


@dataclass(frozen=True)
class FeaturePart:
    """Features of the candidates of some users, in order of the candidates' rows."""

    rows: Ints
    """(n) ascending"""
    columns: dict[str, Values]
    """(n) each; NaN = null"""

    @classmethod
    def of(cls, rows: Ints, columns: dict[str, Values], mapped: Mapping = map) -> FeaturePart:
        """Features in any order of their rows."""
        if len(rows) and rows.max() == len(rows) - 1:  # all rows there are: no need to sort
            order = np.empty(len(rows), np.int64)
            order[rows] = np.arange(len(rows))
        else:
            order = np.argsort(rows)
        return cls(rows[order], dict(zip(columns, mapped(lambda values: values[order], columns.values()), strict=True)))

    def save(self, path: Path) -> FeaturePart:
        """The same, in a file."""
        arrays = {"row": self.rows, **self.columns}
        ipc.write_table(path, pa.table({name: pa.array(values) for name, values in arrays.items()}))
        return self.load(path)

    @classmethod
    def load(cls, path: Path) -> FeaturePart:
        """What `save` wrote."""
        table = ipc.map_table(path)
        columns = {name: ipc.whole(table[name]).to_numpy() for name in table.column_names}
        return cls(columns.pop("row"), columns)


def block_of(parts: Sequence[FeaturePart], name: str, low: int, high: int) -> Values:
    """One column of the rows [low, high), from all parts; NaN or 0 where no part has the row."""
    dtype = parts[0].columns[name].dtype if parts else np.dtype(np.float32)
    out = np.zeros(high - low, dtype) if dtype == np.uint32 else np.full(high - low, np.nan, dtype)
    for part in parts:
        at = slice(*np.searchsorted(part.rows, [low, high]))
        out[part.rows[at] - low] = part.columns[name][at]
    return out


def known_in(parts: Sequence[FeaturePart], low: int, high: int) -> NDArray[np.bool_]:
    """Which of the rows [low, high) a part has."""
    known = np.zeros(high - low, np.bool_)
    for part in parts:
        at = slice(*np.searchsorted(part.rows, [low, high]))
        known[part.rows[at] - low] = True
    return known


@dataclass(frozen=True)
class VectorPart:
    """Vectors of some users, in order of their ids."""

    users: pl.Series
    vectors: NDArray[np.float32]
    """(n, D)"""

    def save(self, path: Path) -> VectorPart:
        """The same, in a file."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.ravel()), self.vectors.shape[1])
        table = ipc.to_arrow(self.users.to_frame("user")).append_column("vector", column)
        ipc.write_table(path, table)
        return self.load(path)

    @classmethod
    def load(cls, path: Path) -> VectorPart:
        """What `save` wrote."""
        table = ipc.map_table(path)
        column = ipc.whole(table["vector"])
        vectors = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
        return cls(ipc.from_arrow(table.select(["user"]))["user"], vectors)


@dataclass(frozen=True)
class ShardMade:
    """What one shard made."""

    features: FeaturePart
    vectors: list[VectorPart]
    """By file of user vectors, in the order of the spec."""
    about: dict[str, Any]
    """Plain data: what was done and seen."""

    def save(self, scratch: Scratch, index: int) -> ShardMade:
        """The same, in files of which the last one says that all are there."""
        features = self.features.save(scratch.folder / f"features-{index:04d}.arrow")
        vectors = [
            part.save(scratch.folder / f"vectors-{number}-{index:04d}.arrow")
            for number, part in enumerate(self.vectors)
        ]
        scratch.write_json(f"shard-{index:04d}.json", {**self.about, "vectors": len(vectors)})
        return ShardMade(features, vectors, self.about)

    @classmethod
    def load(cls, scratch: Scratch, index: int) -> ShardMade | None:
        """What `save` wrote; None where the shard was not finished, or its files are torn: the power went off."""
        about = scratch.read_json(f"shard-{index:04d}.json")
        if about is None:
            return None
        files = (scratch.folder / f"vectors-{number}-{index:04d}.arrow" for number in range(about["vectors"]))
        try:
            features = FeaturePart.load(scratch.folder / f"features-{index:04d}.arrow")
            return cls(features, [VectorPart.load(path) for path in files], about)
        except (pa.ArrowException, OSError):
            return None


class Vectors:
    """Vectors of all users in order of their ids, from the parts of all shards."""

    def __init__(self, parts: Sequence[VectorPart]) -> None:
        self._parts = [part.vectors for part in parts]
        users = pl.concat(keys.same_type(*(part.users for part in parts)))
        order = users.arg_sort().to_numpy()
        lengths = [len(part.users) for part in parts]
        self.users = users.gather(order)
        self._part = np.repeat(np.arange(len(parts)), lengths)[order]
        self._at = np.concatenate([np.arange(length) for length in lengths])[order]

    def blocks(self, rows: int) -> Iterator[NDArray[np.float32]]:
        """The vectors, so many at a time."""
        for low in range(0, len(self.users), rows):
            part, at = self._part[low : low + rows], self._at[low : low + rows]
            out = np.empty((len(part), self._parts[0].shape[1]), np.float32)
            for index in np.unique(part):
                mine = part == index
                out[mine] = self._parts[index][at[mine]]
            yield out
