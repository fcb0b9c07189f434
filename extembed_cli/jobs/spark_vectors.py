"""Tables of vectors on Spark that are too large to be sent to each executor: their stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from extembed_cli.arrays import Doubles
from extembed_cli.data.columns.vector_columns import VectorColumns
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.embeddings import (
    NOT_USABLE,
    VANISHED,
    TableIds,
    bad_vectors,
    no_vectors,
    slots_of,
)
from extembed_cli.data.inputs.frozen import read_gramian, read_mean
from extembed_cli.data.inputs.inputs import Inputs, Loaded
from extembed_cli.data.inputs.unit_vectors import mean_of_sums
from extembed_cli.data.shards.matrices import SUMMED_ROWS
from extembed_cli.engines.spark import reading
from extembed_cli.engines.spark.cluster import Cluster, only
from extembed_cli.engines.spark.computing import ABOUT
from extembed_cli.engines.spark.packets import Packet
from extembed_cli.engines.spark.vectors import (
    BAD,
    GRAMIAN,
    JOINED,
    NEEDED,
    RAW,
    SUM,
    JoinedTable,
    JoinVectors,
    NeededSlots,
    NormalizePiece,
    ReadVectors,
    SumOfPiece,
    write_ids,
)
from extembed_cli.features.prepare import matrices_of
from extembed_cli.features.registry import techniques_of
from extembed_cli.features.technique.protocol import TableTotals
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def tables_to_join(spec: Spec, inputs: Inputs, most: int) -> list[str]:
    """Return the tables to join: those without times, if all together have more bytes than may be shipped.

    A trained model, and files with a vector for each item, need the vectors of all items in one place.
    """
    if any(technique.is_trained for technique in techniques_of(spec)):
        return []
    if any(group.reads_all_items for group in spec.groups.values()):
        return []
    names = [name for name in inputs.embeddings if spec.time_column(name) is None]
    dims = {name: VectorColumns.of(spec, name, inputs.embeddings[name]).dim for name in names}
    size = sum(4 * inputs.embeddings[name].rows * dims[name] * len(matrices_of(spec)[name]) for name in names)
    return names if size > most else []


def join_table(
    cluster: Cluster, spec: Spec, name: str, loaded: Loaded, rows: DataFrame, folder: Path, first: int
) -> list[tuple[JoinedTable, DataFrame]]:
    """Return for each kind of vectors of a table, centred or not, their packets by bucket of the rows that need them.

    rows    packets of events and candidates by bucket
    folder  where ids are written before they are shipped
    first   number of the first kind among those of all tables
    """
    table, ids = loaded.inputs.embeddings[name], loaded.ids[name]
    stages = _Stages(cluster, spec, name, table, ids, folder / f"ids-{name}")
    return [stages.joined(matrix, rows, number) for number, matrix in enumerate(matrices_of(spec)[name], first)]


class _Stages:
    """The stages of one table."""

    def __init__(self, cluster: Cluster, spec: Spec, name: str, table: Table, ids: TableIds, folder: Path) -> None:
        self.cluster, self.spec, self.name, self.table, self.ids = cluster, spec, name, table, ids
        self.options, self.label = spec.table(name), spec.table_label(name)
        self.places, slot_of_row, _ = slots_of(ids, None)
        columns = VectorColumns.of(spec, name, table)
        self.dim = columns.dim
        about = write_ids(folder, self.places, slot_of_row)
        self.shipped = cluster.ship(folder)
        task = ReadVectors(list(_splits(columns)), self.dim, self.shipped, about, SUMMED_ROWS)
        self.raw = cluster.keep(cluster.numbered(task, len(task.splits)))
        read = [packet.value for packet in sorted(cluster.collect("vectors", self.raw, BAD), key=_key)]
        if not any(each["seen"] for each in read):
            raise no_vectors(columns)
        self.vectors, self.bad = (sum(each[key] for each in read) for key in ("vectors", "bad"))
        if self.bad and self.options.bad_vectors == "error":
            examples = [row for each in read for row in each["rows"]]
            raise bad_vectors(table, self.bad, ids.ids[examples[:5]], NOT_USABLE)
        self.raw = only(self.raw, RAW)

    def joined(self, matrix: Matrix, rows: DataFrame, number: int) -> tuple[JoinedTable, DataFrame]:
        """Return a table, centred or not, and the packets of its vectors by bucket."""
        cluster, spec = self.cluster, self.spec
        frozen, needs_gramian = self.options.frozen, any(t.needs_gramian(spec, matrix) for t in techniques_of(spec))
        task = NormalizePiece(
            SUMMED_ROWS,
            len(self.places),
            self.dim,
            self._mean() if matrix.center else None,
            self.options.normalize,
            with_gramian=needs_gramian and "gramian" not in frozen,
        )
        normalized = cluster.keep(cluster.grouped(self.raw, task))
        packets = cluster.collect("vectors", normalized, BAD, GRAMIAN)
        checked = [packet.value for packet in sorted(packets, key=_key) if packet.kind == BAD]
        vanished = sum(each["bad"] for each in checked)
        if vanished and self.options.bad_vectors == "error":
            examples = [slot for each in checked for slot in each["slots"]]
            raise bad_vectors(self.table, vanished, self.places[examples[:5]], VANISHED)
        totals = self._totals(matrix, packets, sum(each["vectors"] for each in checked)) if needs_gramian else None
        of_owners = self.name in spec.owner_tables
        needed = cluster.grouped(rows, NeededSlots(spec, self.shipped, of_owners, SUMMED_ROWS))
        vectors = only(normalized, JOINED)
        by_bucket = cluster.keep(cluster.cogrouped(only(needed, NEEDED), vectors, JoinVectors(number)))
        used = sum(packet.value["items_with_vector"] for packet in cluster.collect("vectors", by_bucket, ABOUT))
        report = dict(self.ids.report, dim=self.dim)
        if self.bad or vanished:
            report["bad_vectors"] = self.bad + vanished
        if not of_owners:
            report["items_with_vector"] = used
        return JoinedTable(matrix, self.shipped, self.dim, totals, report, of_owners), by_bucket

    def _mean(self) -> Doubles:
        center = self.options.center
        if isinstance(center, str):
            return read_mean(center, self.dim, f"{self.table.label} center")
        sums = self.cluster.collect(
            "mean", self.cluster.grouped(self.raw, SumOfPiece(SUMMED_ROWS, len(self.places), self.dim)), SUM
        )
        parts = (np.frombuffer(packet.data) for packet in sorted(sums, key=_key))
        return mean_of_sums(parts, self.dim, self.vectors)

    def _totals(self, matrix: Matrix, packets: list[Packet], vectors: int) -> TableTotals:
        """Return the Gramian from those of the pieces in order, or from the file that the spec names."""
        if self.options.gramian is not None:
            about = read_gramian(
                self.options.gramian,
                self.dim,
                self.label,
                normalized=self.options.normalize,
                centered=matrix.center,
            )
            return TableTotals(about.vectors, about.gramian)
        total = np.zeros((self.dim + 1,) * 2)
        for packet in sorted(packets, key=_key):
            if packet.kind == GRAMIAN:
                total = total + np.frombuffer(packet.data).reshape(total.shape)
        return TableTotals(vectors, total)


def _key(packet: Packet) -> int:
    return packet.key


def _splits(columns: VectorColumns) -> Iterator[tuple[VectorColumns, int]]:
    """Yield row groups, which have the columns of the whole table, and the number of their first row."""
    first = 0
    for split in columns.table.splits(min(reading.SPLIT_ROWS, SUMMED_ROWS)):
        yield columns._replace(table=split), first
        first += split.rows
