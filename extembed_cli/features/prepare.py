"""The state that all shards of a job share, prepared once: the first of the two functions that know the maths.

prepare(spec, tables, ids, vocabulary) -> Shared
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles
from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.coverage import Coverage
from extembed_cli.data.inputs.embeddings import TableIds, load_vectors
from extembed_cli.data.inputs.frozen import read_gramian
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.data.shards.matrices import SUMMED_ROWS, EmbeddingMatrix, TableVectors
from extembed_cli.errors import Problems
from extembed_cli.features.registry import shard_columns, techniques_of
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.protocol import Prepared, State, TableTotals, Technique, VectorFile
from extembed_cli.histories.csr import Shard
from extembed_cli.kernels.gramian import gramian_of_block
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix
from extembed_cli.system import threads

Vectors = TypeVar("Vectors")

_ABOUT, _IDS = "shared.json", "vocabulary.arrow"


@dataclass(frozen=True)
class Shared:
    """The state that all shards share: columns, vectors of the items by num, and the state of each technique."""

    columns: list[Column]
    vocabulary: Vocabulary
    embeddings: dict[Matrix, EmbeddingMatrix]
    owner_tables: dict[Matrix, TableVectors]
    """Vectors of the owners, by id"""
    totals: dict[Matrix, TableTotals]
    """Of those whose Gramian a technique needs"""
    states: dict[str, State]
    """By the technique's key in a spec"""

    @property
    def by_table(self) -> dict[str, EmbeddingMatrix]:
        """The vectors of partners by table: those that are read first, where one is read centred and not centred."""
        return _by_table(self.embeddings)

    def owner_vectors(self, owners: pl.Series) -> dict[Matrix, EmbeddingMatrix]:
        """Return the vectors of some owners, by their nums in a shard."""
        return {matrix: vectors.of(owners) for matrix, vectors in self.owner_tables.items()}

    def coverage(self, spec: Spec, shard: Shard) -> Coverage:
        """Return the counts of a shard."""
        owners = _by_table(self.owner_vectors(shard.owners))
        return Coverage.of(
            spec,
            shard,
            {table: vectors.has_vector for table, vectors in self.by_table.items()},
            {table: vectors.has_vector for table, vectors in owners.items()},
        )

    @property
    def reports(self) -> dict[str, dict[str, Any]]:
        """Facts about the tables for the run report."""
        partners = {table: vectors.report for table, vectors in self.by_table.items()}
        return {**partners, **{table: vectors.report for table, vectors in _by_table(self.owner_tables).items()}}

    @cached_property
    def vector_files(self) -> Mapping[str, VectorFile]:
        """Files of user vectors, by path."""
        return {path: file for state in self.states.values() for path, file in state.vector_files().items()}

    def save(self, folder: Path) -> None:
        """Keep it in a folder, its arrays in files that other processes map."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = ArrayFolder(folder)
        ipc.write_table(folder / _IDS, ipc.to_arrow(self.vocabulary.ids.to_frame("id")))
        about = {
            "ranks": arrays.put("ranks", self.vocabulary.ranks),
            "embeddings": [[*matrix, vectors.save(arrays, matrix.name)] for matrix, vectors in self.embeddings.items()],
            "owner_tables": [[*matrix, table.save(arrays, matrix.name)] for matrix, table in self.owner_tables.items()],
            "totals": [
                [*matrix, totals.partners, arrays.put(f"{matrix.name}.gramian", totals.gramian)]
                for matrix, totals in self.totals.items()
            ],
            "states": {technique: state.save(arrays.of(technique)) for technique, state in self.states.items()},
        }
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def open(cls, spec: Spec, columns: list[Column], folder: Path) -> Shared:
        """Open what `save` kept of the same spec and columns.

        The columns are given because a technique may read files of its own to define them, which another process lacks.
        """
        arrays = ArrayFolder(folder)
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        ids = ipc.from_arrow(ipc.map_table(folder / _IDS))["id"]
        embeddings = {
            Matrix(table, center): EmbeddingMatrix.open(arrays, kept) for table, center, kept in about["embeddings"]
        }
        owner_tables = {
            Matrix(table, center): TableVectors.open(arrays, kept) for table, center, kept in about["owner_tables"]
        }
        totals = {
            Matrix(table, center): TableTotals(items, arrays.get(kept))
            for table, center, items, kept in about["totals"]
        }
        prepared = Prepared(embeddings, owner_tables, totals, Vocabulary(ids, arrays.get(about["ranks"])))
        states = {
            technique.group.technique: technique.open(
                spec,
                _statistics(technique, columns),
                prepared,
                arrays.of(technique.group.technique),
                about["states"][technique.group.technique],
            )
            for technique in techniques_of(spec)
        }
        return cls(columns, prepared.vocabulary, embeddings, owner_tables, totals, states)


@dataclass(frozen=True)
class Sources:
    """What a job is prepared from, beside the files of the tables."""

    cache: VectorCache | None = None
    vectors: Mapping[Matrix, TableVectors] = field(default_factory=dict)
    """Of tables that are derived, or that are there already"""
    surveyed: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[Matrix, TableTotals] = field(default_factory=dict)
    """Of tables that are there already"""
    columns: list[Column] | None = None
    """Those of the spec, where they are known already"""


def prepare(
    spec: Spec,
    tables: dict[str, Table],
    ids: dict[str, TableIds],
    vocabulary: Vocabulary,
    mapped: threads.Mapping = map,
    folder: Path | None = None,
    sources: Sources | None = None,
) -> Shared:
    """Load the vectors of the items that the job touches; raises the problems of all tables together.

    With a folder all arrays are in mapped files there, with a cache those of the tables in its files.
    """
    sources = sources or Sources()
    if folder is not None:
        folder.mkdir(exist_ok=True)
    problems = Problems()
    prepared = Prepared({}, {}, {**sources.totals}, vocabulary, mapped, folder, sources.surveyed)
    load_tables(spec, tables, ids, prepared, problems, sources.cache)
    for matrix, vectors in sources.vectors.items():
        if matrix.table in spec.tables:
            prepared.embeddings[matrix] = vectors.of(vocabulary.ids)
        elif matrix.table in spec.owner_tables:
            prepared.owner_tables[matrix] = vectors
    problems.raise_any()
    columns, states = shard_columns(spec) if sources.columns is None else sources.columns, {}
    for technique in techniques_of(spec):
        with problems.collect():
            states[technique.group.technique] = technique.prepare(spec, _statistics(technique, columns), prepared)
    problems.raise_any()
    shared = Shared(columns, vocabulary, prepared.embeddings, prepared.owner_tables, prepared.totals, states)
    if folder is None:
        return shared
    shared.save(folder)
    del shared, prepared, states  # what they have in memory is in files now
    return Shared.open(spec, columns, folder)


def load_tables(
    spec: Spec,
    tables: Mapping[str, Table],
    ids: Mapping[str, TableIds],
    prepared: Prepared,
    problems: Problems,
    cache: VectorCache | None = None,
) -> None:
    """Load the vectors of the vocabulary from the files of the tables, and collect their problems."""
    for name, table in tables.items():
        with problems.collect():
            _load(spec, name, table, ids[name], prepared, cache)


def matrices_of(spec: Spec) -> dict[str, list[Matrix]]:
    """Return by table the vectors that techniques read; as the table says where none does."""
    used = dict.fromkeys(matrix for technique in techniques_of(spec) for matrix in technique.matrices(spec))
    tables = {name: [matrix for matrix in used if matrix.table == name] for name in spec.read_tables}
    return {name: matrices or [spec.matrix(name)] for name, matrices in tables.items()}


def _load(spec: Spec, name: str, table: Table, ids: TableIds, prepared: Prepared, cache: VectorCache | None) -> None:
    """Load the vectors of a table, centred or not, from one read; and their Gramians where a technique needs them."""
    techniques, mapped, vocabulary = techniques_of(spec), prepared.mapped, prepared.vocabulary
    matrices = matrices_of(spec)[name]
    summed = {m for m in matrices if any(technique.needs_gramian(spec, m) for technique in techniques)}
    # The mean (`center`) and the Gramian are over the whole table, summed in order of ids.
    of_owners = name in spec.owner_tables
    frozen = spec.table(name).frozen
    centered = any(matrix.center for matrix in matrices) and "center" not in frozen
    whole = of_owners or centered or bool(summed and "gramian" not in frozen)
    cache = cache if cache is not None and name in cache.tables else None
    folder = prepared.folder
    paths = {matrix: folder and folder / f"{matrix.name}.vectors" for matrix in matrices}
    if cache is not None:
        tables = cache.vectors(name, ids, mapped)
    elif whole:
        tables = load_vectors(spec, name, table, ids, None, [(matrix.center, folder) for matrix in matrices], mapped)
    else:
        kinds = [(matrix.center, path) for matrix, path in paths.items()]
        tables = load_vectors(spec, name, table, ids, vocabulary.ids, kinds, mapped)
    for matrix, vectors in zip(matrices, tables, strict=True):
        if of_owners:
            prepared.owner_tables[matrix] = vectors
            continue
        loaded = vectors.of(vocabulary.ids)
        if matrix in summed:
            prepared.totals[matrix] = _totals(spec, matrix, loaded, mapped)
        if cache is None or any(technique.copies(spec, matrix) for technique in techniques):
            loaded = loaded.of_used_items(paths[matrix])
        prepared.embeddings[matrix] = loaded


def _totals(spec: Spec, matrix: Matrix, loaded: EmbeddingMatrix, mapped: threads.Mapping) -> TableTotals:
    """Return the Gramian of a table: of the vectors that are loaded, or from the file that the spec names."""
    table, label = spec.table(matrix.table), spec.table_label(matrix.table)
    if table.gramian is None:
        total = gramian(loaded, mapped, normalized=table.normalize)
        return TableTotals(int(np.count_nonzero(loaded.norms)), total)
    frozen = read_gramian(table.gramian, loaded.dim, label, normalized=table.normalize, centered=matrix.center)
    return TableTotals(frozen.vectors, frozen.gramian)


def _by_table(vectors: dict[Matrix, Vectors]) -> dict[str, Vectors]:
    """Return the vectors by table: those that are read first."""
    return {matrix.table: each for matrix, each in reversed(vectors.items())}


def _statistics(technique: Technique, columns: Sequence[Column]) -> list[Hashable]:
    """Return the statistics in the columns of a technique, each once."""
    return list(dict.fromkeys(column.statistic for column in columns if column.technique == technique.group.technique))


def gramian(matrix: EmbeddingMatrix, mapped: threads.Mapping, *, normalized: bool) -> Doubles:
    """Σ x xᵀ over a table, each x with a constant 1 behind it: (d + 1, d + 1).

    Summed in fixed blocks in order of ids, so the bits are the same for any number of workers and order of rows.
    """
    total: Doubles = np.zeros((matrix.vectors.shape[1] + 1,) * 2)
    for low in range(0, len(matrix.vectors), SUMMED_ROWS):
        total = total + gramian_of_piece(matrix.piece(low, low + SUMMED_ROWS), mapped, normalized=normalized)
    return total


def gramian_of_piece(piece: EmbeddingMatrix, mapped: threads.Mapping = map, *, normalized: bool) -> Doubles:
    """Return the same of `SUMMED_ROWS` slots of a table, of which the last ones may be fewer."""
    total: Doubles = np.zeros((piece.vectors.shape[1] + 1,) * 2)

    def of_block(at: slice) -> Doubles:
        return gramian_of_block(piece.exact(at, normalized=normalized, bias=True))

    for part in mapped(of_block, piece.blocks):
        total = total + part
    return total
