"""Results of shards: features by candidate row and vectors by user, in memory or in files of a scratch folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Bools, Floats, Ints, Values
from extembed_cli.data.columns.ids import same_type
from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.system.progress import Cost
from extembed_cli.system.threads import Mapping


@dataclass(frozen=True)
class FeaturePart:
    """Features of the candidates of some users, in order of the candidates' rows."""

    rows: Ints
    """(n) ascending"""
    columns: dict[str, Values]
    """(n) each; NaN = null"""

    @classmethod
    def of(cls, rows: Ints, columns: dict[str, Values], mapped: Mapping = map) -> FeaturePart:
        """Return the part of features whose rows are in any order."""
        if len(rows) and rows.max() == len(rows) - 1:  # all rows are here: no need to sort
            order = np.empty(len(rows), np.int64)
            order[rows] = np.arange(len(rows))
        else:
            order = np.argsort(rows)
        return cls(rows[order], dict(zip(columns, mapped(lambda values: values[order], columns.values()), strict=True)))

    def known(self, names: Collection[str]) -> dict[str, int]:
        """Return the number of rows with a value, for those of some columns that the part has."""
        return {name: int(np.count_nonzero(~np.isnan(each))) for name, each in self.columns.items() if name in names}

    def save(self, path: Path) -> FeaturePart:
        """Write the part to a file; return it mapped from there."""
        arrays = {"row": self.rows, **self.columns}
        ipc.write_table(path, pa.table({name: pa.array(values) for name, values in arrays.items()}))
        return self.load(path)

    @classmethod
    def load(cls, path: Path) -> FeaturePart:
        """Return the part that `save` wrote."""
        table = ipc.map_table(path)
        columns = {name: ipc.whole(table[name]).to_numpy() for name in table.column_names}
        return cls(columns.pop("row"), columns)


def block_of(parts: Sequence[FeaturePart], name: str, low: int, high: int) -> Values:
    """Return one column of the rows [low, high) from all parts; NaN or 0 where no part has the row."""
    dtype = parts[0].columns[name].dtype if parts else np.dtype(np.float32)
    out = np.zeros(high - low, dtype) if dtype == np.uint32 else np.full(high - low, np.nan, dtype)
    for part in parts:
        at = slice(*np.searchsorted(part.rows, [low, high]))
        out[part.rows[at] - low] = part.columns[name][at]
    return out


def known_in(parts: Sequence[FeaturePart], low: int, high: int) -> Bools:
    """Whether any part has each of the rows [low, high)."""
    known = np.zeros(high - low, np.bool_)
    for part in parts:
        at = slice(*np.searchsorted(part.rows, [low, high]))
        known[part.rows[at] - low] = True
    return known


@dataclass(frozen=True)
class VectorPart:
    """Vectors of some owners, in order of their ids."""

    owners: pl.Series
    vectors: Floats
    """(n, D)"""

    def save(self, path: Path) -> VectorPart:
        """Write the part to a file; return it mapped from there."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.ravel()), self.vectors.shape[1])
        table = ipc.to_arrow(self.owners.to_frame("owner")).append_column("vector", column)
        ipc.write_table(path, table)
        return self.load(path)

    @classmethod
    def load(cls, path: Path) -> VectorPart:
        """Return the part that `save` wrote."""
        table = ipc.map_table(path)
        column = ipc.whole(table["vector"])
        vectors = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
        return cls(ipc.from_arrow(table.select(["owner"]))["owner"], vectors)


@dataclass
class Tally:
    """Counts of what was computed, for progress and for the run report. Plain data."""

    passes: float = 0.0
    """Candidates processed, once for each pass over them (users, where only their vectors are computed)"""
    counts: dict[str, int] = field(default_factory=dict)
    """Counts such as cosines and systems"""
    largest: dict[str, float] = field(default_factory=dict)
    """Maxima such as residuals"""
    seconds: dict[str, float] = field(default_factory=dict)
    """Thread seconds by step: the counters, then each technique"""
    stages: dict[str, Cost] = field(default_factory=dict)
    """Costs by stage, in thread seconds"""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tally:
        """Return the tally of an `asdict`."""
        return cls(**{**data, "stages": {name: Cost(**cost) for name, cost in data["stages"].items()}})

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.passes += other.passes
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for name, value in other.largest.items():
            self.largest[name] = max(self.largest.get(name, 0.0), value)
        for step, seconds in other.seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        for name, cost in other.stages.items():
            self.stages.setdefault(name, Cost()).add(cost.seconds, cost.rows, cost.bytes)


@dataclass(frozen=True)
class ShardResult:
    """The results of one shard."""

    features: FeaturePart
    vectors: list[VectorPart]
    """By file of user vectors, in the order of the spec"""
    repeats: int
    """Candidates whose item is in their user's visible history"""
    flagged: dict[str, list[str]]
    """Ids of users with a doubtful result, by reason"""
    tally: Tally
    coverage: Coverage
    resumed: bool = False
    """Whether a killed run had finished the shard"""

    def save(self, scratch: Scratch, index: int) -> ShardResult:
        """Write the results to files, the last of which marks them as complete; return them mapped from there."""
        features = self.features.save(scratch.folder / f"features-{index:04d}.arrow")
        vectors = [
            part.save(scratch.folder / f"vectors-{number}-{index:04d}.arrow")
            for number, part in enumerate(self.vectors)
        ]
        about = {
            "vectors": len(vectors),
            "repeats": self.repeats,
            "flagged": self.flagged,
            "tally": asdict(self.tally),
            "coverage": asdict(self.coverage),
        }
        scratch.write_json(f"shard-{index:04d}.json", about)
        return replace(self, features=features, vectors=vectors)

    @classmethod
    def load(cls, scratch: Scratch, index: int) -> ShardResult | None:
        """Return the results that `save` wrote; None if the shard is unfinished or a power failure tore its files."""
        about = scratch.read_json(f"shard-{index:04d}.json")
        if about is None:
            return None
        files = (scratch.folder / f"vectors-{number}-{index:04d}.arrow" for number in range(about["vectors"]))
        try:
            return cls(
                features=FeaturePart.load(scratch.folder / f"features-{index:04d}.arrow"),
                vectors=[VectorPart.load(path) for path in files],
                repeats=about["repeats"],
                flagged=about["flagged"],
                tally=Tally.from_dict(about["tally"]),
                coverage=Coverage(**about["coverage"]),
                resumed=True,
            )
        except (pa.ArrowException, OSError):
            return None


class Vectors:
    """Vectors of all owners in order of their ids, from the parts of all shards."""

    def __init__(self, parts: Sequence[VectorPart]) -> None:
        self._parts = [part.vectors for part in parts]
        owners = pl.concat(same_type(*(part.owners for part in parts)))
        order = owners.arg_sort().to_numpy()
        lengths = [len(part.owners) for part in parts]
        self.owners = owners.gather(order)
        self._part = np.repeat(np.arange(len(parts)), lengths)[order]
        self._at = np.concatenate([np.arange(length) for length in lengths])[order]

    def blocks(self, rows: int) -> Iterator[Floats]:
        """Yield the vectors, `rows` at a time."""
        for low in range(0, len(self.owners), rows):
            part, at = self._part[low : low + rows], self._at[low : low + rows]
            out = np.empty((len(part), self._parts[0].shape[1]), np.float32)
            for index in np.unique(part):
                chosen = part == index
                out[chosen] = self._parts[index][at[chosen]]
            yield out
