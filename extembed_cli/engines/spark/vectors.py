"""Vectors that are too many for a machine: read, normalised and summed in pieces, joined to the rows that need them.

A piece has `SUMMED_ROWS` slots of a table, which are its vectors in order of ids, so its sums are those of a local run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Values
from extembed_cli.data.columns.ids import places_among, rows_together
from extembed_cli.data.columns.vector_columns import VectorColumns
from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.inputs.embeddings import vectors_of
from extembed_cli.data.inputs.unit_vectors import normalize_vectors, sum_of_vectors
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.data.shards.matrices import EmbeddingMatrix, TableVectors
from extembed_cli.engines.spark.computing import ABOUT
from extembed_cli.engines.spark.packets import Packet, frames_in, packet_of_value, packets_by, packets_of
from extembed_cli.engines.spark.reading import CANDIDATES, EVENTS
from extembed_cli.engines.spark.shipping import shipped
from extembed_cli.engines.spark.tasks import Grouped, Numbered
from extembed_cli.features.prepare import Shared, Sources, gramian_of_piece, prepare
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.protocol import TableTotals
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix

RAW, SUM, GRAMIAN, JOINED, NEEDED, BAD = "raw", "sum", "gramian", "joined", "needed", "bad"
_EXAMPLES = 5
_IDS = "ids.arrow"


@dataclass(frozen=True)
class ReadVectors(Numbered):
    """Reads row groups of a table, and sends usable vectors to the pieces of their slots."""

    splits: list[tuple[VectorColumns, int]]
    """Row groups, with the number of the first row of each"""
    dim: int
    slots: str
    """Name of the shipped folder with the slot of each row"""
    about_slots: dict[str, Any]
    piece: int
    """Slots of a piece"""

    def packets(self, number: int) -> Iterator[Packet]:
        """Yield vectors by piece, and the rows of bad ones."""
        columns, first = self.splits[number]
        slot_of_row = ArrayFolder(shipped(self.slots)).get(self.about_slots)
        bad: list[int] = []
        count = seen = 0
        for rows, vectors, usable in vectors_of(columns, first, self.dim):
            slots = slot_of_row[rows]
            seen += len(rows)
            bad += rows[~usable & (slots >= 0)].tolist()
            chosen = usable & (slots >= 0)
            count += int(np.count_nonzero(chosen))
            frame = _frame(slots[chosen], vectors[chosen].astype(np.float32))
            yield from packets_by(slots[chosen] // self.piece, RAW, frame)
        yield packet_of_value(number, BAD, {"rows": bad[:_EXAMPLES], "bad": len(bad), "vectors": count, "seen": seen})


@dataclass(frozen=True)
class SumOfPiece(Grouped):
    """Returns the sum of the vectors of a piece."""

    piece: int
    places: int
    dim: int

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the sum (d) in float64."""
        raw, _ = _piece(key, self.piece, self.places, self.dim, frames_in(groups[0], RAW))
        total = sum_of_vectors(raw[:-1])
        yield Packet(key, SUM, total.tobytes())


@dataclass(frozen=True)
class NormalizePiece(Grouped):
    """Normalises the vectors of a piece, and returns its part of the Gramian where one is needed."""

    piece: int
    places: int
    dim: int
    mean: Doubles | None
    normalized: bool
    """Whether the Gramian is of unit vectors"""
    with_gramian: bool

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield vectors with norms, the Gramian, and slots of vectors that are zero once centred."""
        raw, has_vector = _piece(key, self.piece, self.places, self.dim, frames_in(groups[0], RAW))
        norms, vanished = normalize_vectors(raw, has_vector, self.mean, map)
        first = key * self.piece
        is_last = first + len(has_vector) == self.places  # then with the row of missing vectors, like a whole table
        rows = len(has_vector) + is_last
        if self.with_gramian:
            piece = EmbeddingMatrix(raw[:rows], norms[:rows], np.zeros(0, np.int32), {})
            yield Packet(key, GRAMIAN, gramian_of_piece(piece, normalized=self.normalized).tobytes())
        usable = np.flatnonzero(norms[:-1] > 0)
        yield from packets_of(key, JOINED, _frame(first + usable, raw[usable], norms[usable]))
        about = {
            "bad": len(vanished),
            "slots": (first + vanished[:_EXAMPLES]).tolist(),
            "vectors": len(usable),
        }
        yield packet_of_value(key, BAD, about)


@dataclass(frozen=True)
class NeededSlots(Grouped):
    """Returns for a bucket the slots of a table that its rows need, by piece."""

    spec: Spec
    ids: str
    """Name of the shipped folder with the ids of the slots"""
    of_owners: bool
    piece: int

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the slots with the bucket that needs them."""
        side = self.spec.side
        wanted = _different_ids(side.owner if self.of_owners else side.partner, *groups)
        places = places_among(wanted, _ids(self.ids))
        slots = np.sort(places[places >= 0])
        frame = pl.DataFrame({"slot": slots}).with_columns(bucket=pl.lit(key, pl.Int64))
        yield from packets_by(slots // self.piece, NEEDED, frame)


@dataclass(frozen=True)
class JoinVectors(Grouped):
    """Sends the vectors of a piece to the buckets that need them."""

    matrix: int
    """Its number"""

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield vectors by bucket, and how many different ones are needed."""
        needed, vectors = frames_in(groups[0], NEEDED), frames_in(groups[1], JOINED)
        if not needed or not vectors:
            return
        table = pl.concat(vectors).sort("slot")
        slots = table["slot"].to_numpy()
        pairs = pl.concat(needed)
        places = np.minimum(np.searchsorted(slots, pairs["slot"].to_numpy()), len(slots) - 1)
        met = slots[places] == pairs["slot"].to_numpy()
        buckets, places = pairs["bucket"].to_numpy()[met], places[met]
        yield from packets_by(buckets, _kind(self.matrix), table[places])
        yield packet_of_value(key, ABOUT, {"items_with_vector": len(np.unique(places))})


@dataclass(frozen=True)
class JoinedTable:
    """A table whose vectors come to the buckets that need them."""

    matrix: Matrix
    ids: str
    """Name of the shipped folder with the ids of the slots"""
    dim: int
    totals: TableTotals | None
    report: dict[str, Any]
    of_owners: bool

    def with_vectors(self, ids: pl.Series, vectors: Floats, norms: Doubles) -> TableVectors:
        """Return some vectors (n, d) and norms (n) of the table, in order of ids (n)."""
        return TableVectors(
            ids, np.vstack([vectors, np.zeros((1, self.dim), np.float32)]), np.append(norms, 0.0), self.report
        )

    def of_bucket(self, frames: list[pl.DataFrame]) -> TableVectors:
        """Return the vectors that a bucket has got."""
        if not frames:
            return self.with_vectors(pl.Series(dtype=pl.Null), np.zeros((0, self.dim), np.float32), np.zeros(0))
        rows = pl.concat(frames).sort("slot")
        ids = _ids(self.ids).gather(rows["slot"])
        return self.with_vectors(ids, rows["vector"].to_numpy(), rows["norm"].to_numpy())


@dataclass(frozen=True)
class JoinedState:
    """The state of a bucket, from vectors that were joined to its rows."""

    spec: Spec
    columns: list[Column]
    tables: tuple[JoinedTable, ...]
    kept: tuple[tuple[Matrix, dict[str, Any]], ...]
    """Tables that were shipped, as `TableVectors.open` takes them"""
    name: str
    """Of the folder that these were shipped in"""
    surveyed: dict[str, Any]

    def of_bucket(self, *groups: pa.Table) -> Shared:
        """Return the state for the vocabulary of the bucket's partners."""
        partners = _different_ids(self.spec.side.partner, *groups).sort()
        vocabulary = Vocabulary(partners, np.arange(len(partners), dtype=np.int32))
        folder = ArrayFolder(shipped(self.name))
        vectors = {matrix: TableVectors.open(folder, about) for matrix, about in self.kept}
        for number, table in enumerate(self.tables):
            vectors[table.matrix] = table.of_bucket(frames_in(groups[1], _kind(number)))
        totals = {table.matrix: table.totals for table in self.tables if table.totals is not None}
        sources = Sources(None, vectors, self.surveyed, totals, self.columns)
        return prepare(self.spec, {}, {}, vocabulary, sources=sources)


def write_ids(folder: Path, ids: pl.Series, slot_of_row: Ints) -> dict[str, Any]:
    """Write the ids of a table's slots, and the slot of each of its rows; return what reads the latter."""
    folder.mkdir()
    ipc.write_table(folder / _IDS, ipc.to_arrow(ids.to_frame("id")))
    return ArrayFolder(folder).put("slots", slot_of_row)


def _different_ids(role: str, *groups: pa.Table) -> pl.Series:
    """Return the different ids of users or items in the rows of a bucket."""
    frames = [frame for group in groups for kind in (EVENTS, CANDIDATES) for frame in frames_in(group, kind)]
    if not frames:
        return pl.Series(dtype=pl.Int64)
    return rows_together([frame.select(pl.col(role).alias("id")) for frame in frames], "id")["id"].drop_nulls().unique()


def _ids(name: str) -> pl.Series:
    """Return the ids of the slots of a table."""
    return ipc.from_arrow(ipc.map_table(shipped(name) / _IDS))["id"]


def _kind(matrix: int) -> str:
    return f"{JOINED}-{matrix}"


def _frame(slots: Ints, vectors: Values, norms: Doubles | None = None) -> pl.DataFrame:
    frame = pl.DataFrame({"slot": slots, "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))})
    return frame if norms is None else frame.with_columns(norm=norms)


def _piece(key: int, piece: int, places: int, dim: int, frames: list[pl.DataFrame]) -> tuple[Floats, Bools]:
    """Return the vectors of a piece (n + 1, d), zero where there is none and in the last row, and who has one (n)."""
    first = key * piece
    rows = min(piece, places - first)
    raw, has_vector = np.zeros((rows + 1, dim), np.float32), np.zeros(rows, np.bool_)
    for frame in frames:
        at = frame["slot"].to_numpy() - first
        raw[at], has_vector[at] = frame["vector"].to_numpy(), True
    return raw, has_vector
