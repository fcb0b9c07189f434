"""The vectors of a table: by id as they are read, and by the nums of a vocabulary as techniques use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Nums, Values
from extembed_cli.data.columns.ids import places_among, same_type
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.mapped_arrays import ArrayFolder, is_mapped, zeros
from extembed_cli.kernels.segments import ragged

ROWS = 2048  # rows of a matrix processed at a time: a fixed number
SUMMED_ROWS = 2**19  # of a table, whose sums are added up in order: machines that have a piece each add the same ones


BYTES_PER_MOMENT = 60  # of a vector that counts from a time on: its id, time, key and norm


class Moments(NamedTuple):
    """The vectors of partners at moments: each from its time on, until the partner's next one."""

    times: Ints
    """(t) the different times, ascending"""
    keys: Ints
    """(n) partner and place of the time, as one number, ascending"""
    slots: Nums
    """(n) the row of the vector"""
    lag_us: int

    @classmethod
    def of(cls, partners: Ints, times: Ints, slots: Nums, lag_us: int) -> Moments:
        """Return the moments of rows in any order."""
        different, place = np.unique(times, return_inverse=True)
        keys = partners * (len(different) + 1) + place
        order = np.argsort(keys)
        return cls(different, keys[order], slots[order], lag_us)

    def at(self, partners: Values, times: Ints, missing: int) -> Nums:
        """Return the row of each partner's newest vector strictly before a time, `missing` where there is none."""
        if not len(self.keys):
            return np.full(len(partners), missing, np.int32)
        span = len(self.times) + 1
        earlier = np.searchsorted(self.times, times - self.lag_us, "left")
        place = np.searchsorted(self.keys, partners.astype(np.int64) * span + earlier, "left") - 1
        known = (place >= 0) & (self.keys[place] // span == partners)
        return np.where(known, self.slots[place], np.int32(missing))


@dataclass(frozen=True)
class EmbeddingMatrix:
    """Unit vectors of the items or users of one table."""

    vectors: Floats
    """(n + 1, d): rows of norm 1; the last row is zero and stands for every item without a vector."""
    norms: Doubles
    """(n + 1): the norm by which each vector was divided; 0 = no vector."""
    slots: Nums
    """(items + 1): row of `vectors` by item num; the last entry is that of a null item (num -1)."""
    report: dict[str, Any]
    """Counts of the table's rows, used and left out."""
    moments: Moments | None = None
    """None = the vectors are the same at all times"""

    def slots_of(self, partners: Values, times: Ints) -> Nums:
        """Return the row of `vectors` of each partner as of a time: (n) each."""
        if self.moments is None:
            return self.slots[partners]
        return self.moments.at(partners, times, self.missing)

    def has_vector(self, partners: Values, times: Ints) -> Bools:
        """Whether each partner has a vector as of a time: (n) each."""
        flags: Bools = self.slots_of(partners, times) != self.missing
        return flags

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def missing(self) -> int:
        """The slot of items without a vector."""
        return len(self.vectors) - 1

    @property
    def with_vector(self) -> Bools:
        """(items + 1) Whether each item has a vector; False for a null item, the last entry."""
        flags: Bools = self.slots != self.missing
        return flags

    @property
    def blocks(self) -> Iterator[slice]:
        """Slices of a fixed number of rows, so that the bits of sums over them do not depend on the workers."""
        return (slice(low, min(low + ROWS, len(self.vectors))) for low in range(0, len(self.vectors), ROWS))

    def piece(self, low: int, high: int) -> EmbeddingMatrix:
        """Return some rows, for sums over them."""
        return replace(self, vectors=self.vectors[low:high], norms=self.norms[low:high])

    def exact(self, at: slice | Nums, *, normalized: bool, bias: bool) -> Doubles:
        """Return some rows in float64, with their original norms unless `normalized`; `bias` appends a constant 1.

        The row of a missing vector is all 0, its constant too.
        """
        vectors = self.vectors[at].astype(np.float64)
        norms = self.norms[at]
        if not normalized:
            vectors *= norms[:, None]
        return np.column_stack([vectors, norms > 0]) if bias else vectors

    def save(self, arrays: ArrayFolder, name: str) -> dict[str, Any]:
        """Write the matrix to mapped files; return what `open` needs."""
        parts = {"vectors": self.vectors, "norms": self.norms, "slots": self.slots}
        kept: dict[str, Any] = {part: arrays.put(f"{name}.{part}", values) for part, values in parts.items()}
        if self.moments is not None:
            moments = {part: getattr(self.moments, part) for part in ("times", "keys", "slots")}
            kept["moments"] = {part: arrays.put(f"{name}.moments.{part}", each) for part, each in moments.items()}
            kept["moments"]["lag_us"] = self.moments.lag_us
        return {"report": self.report, **kept}

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any]) -> EmbeddingMatrix:
        """Return the matrix that `save` wrote."""
        parts = {part: arrays.get(about[part]) for part in ("vectors", "norms", "slots")}
        moments = None
        if "moments" in about:
            of_moments = {part: arrays.get(about["moments"][part]) for part in ("times", "keys", "slots")}
            moments = Moments(**of_moments, lag_us=about["moments"]["lag_us"])
        return cls(**parts, report=about["report"], moments=moments)

    def of_used_items(self, at: Path | None = None) -> EmbeddingMatrix:
        """Return the matrix without the vectors of unused items; in a mapped file if its path is given."""
        if self.moments is not None:  # of the vocabulary alone
            return self
        used = np.append(np.unique(self.slots[self.slots != self.missing]), self.missing)
        if len(used) == len(self.vectors):
            return self
        slots = np.searchsorted(used, self.slots).astype(np.int32)
        vectors = zeros((len(used), self.vectors.shape[1]), np.float32, at)
        for low in range(0, len(used), ROWS):
            rows = slice(low, low + ROWS)
            vectors[rows] = self.vectors[used[rows]]
        return replace(self, vectors=vectors, norms=self.norms[used], slots=slots)


@dataclass(frozen=True)
class TableVectors:
    """Unit vectors of the items of one table, in order of their ids."""

    ids: pl.Series
    """(n)"""
    vectors: Floats
    """(n + 1, d): rows of norm 1; zero where there is no usable vector, and in the last row."""
    norms: Doubles
    """(n + 1): the norm by which each vector was divided; 0 = no vector."""
    report: dict[str, Any]
    times: Ints | None = None
    """(n) from when on each counts (us); then an id may have several"""
    lag_us: int = 0

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of what is not in a mapped file."""
        vectors = 0 if is_mapped(self.vectors) else self.vectors.nbytes
        return vectors + len(self.ids) * BYTES_PER_MOMENT

    def save(self, arrays: ArrayFolder, name: str) -> dict[str, Any]:
        """Write the table to mapped files; return what `open` needs."""
        ipc.write_table(arrays.folder / f"{name}.ids.arrow", ipc.to_arrow(self.ids.to_frame("id")))
        parts = {"vectors": self.vectors, "norms": self.norms, "times": self.times}
        kept = {part: arrays.put(f"{name}.{part}", values) for part, values in parts.items() if values is not None}
        return {**kept, "ids": f"{name}.ids.arrow", "report": self.report, "lag_us": self.lag_us}

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any]) -> TableVectors:
        """Return the table that `save` wrote."""
        ids = ipc.from_arrow(ipc.map_table(arrays.folder / about["ids"]))["id"]
        parts = {part: arrays.get(about[part]) for part in ("vectors", "norms", "times") if part in about}
        return cls(ids, **parts, report=about["report"], lag_us=about["lag_us"])

    def of(self, vocabulary: pl.Series) -> EmbeddingMatrix:
        """Return the matrix of these vectors by the nums of a vocabulary."""
        missing = len(self.ids)
        owners, rows = self._rows_of(vocabulary)
        usable = self.norms[rows] > 0
        slots = np.full(len(vocabulary) + 1, missing, np.int32)
        slots[owners[usable]] = rows[usable]
        report = {**self.report, "items_with_vector": int(np.count_nonzero(slots != missing))}
        moments = None
        if self.times is not None:
            moments = Moments.of(
                owners, self.times[rows], np.where(usable, rows, missing).astype(np.int32), self.lag_us
            )
        return EmbeddingMatrix(self.vectors, self.norms, slots, report, moments)

    def _rows_of(self, ids: pl.Series) -> tuple[Ints, Ints]:
        """Return the places of some ids and their rows, as pairs: the rows of an id follow each other."""
        places = places_among(ids, self._runs["id"])
        found = np.flatnonzero(places >= 0)
        first, counts = (self._runs[part].to_numpy()[places[found]] for part in ("first", "rows"))
        return np.repeat(found, counts), ragged(first, counts)

    @cached_property
    def _runs(self) -> pl.DataFrame:
        """The different ids in order, each with its first row and the number of its rows."""
        rows = self.ids.to_frame("id").with_columns(first=pl.int_range(pl.len()), rows=pl.lit(1, pl.Int64))
        if self.times is None:
            return rows
        return rows.group_by("id").agg(pl.col("first").min(), pl.col("rows").sum()).sort("id")


def places_of(ids: pl.Series, places: pl.Series, missing: int) -> Ints:
    """Return the position of each id in `places`; `missing` where it is not there."""
    ids, places = same_type(ids, places)
    table = pl.DataFrame({"id": places}).with_row_index("place")
    joined = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")
    return joined["place"].cast(pl.Int64).fill_null(missing).to_numpy()
