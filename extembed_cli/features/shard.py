"""The heart: what an engine calls, the same on every one.

prepare(spec, tables, ids, vocabulary) -> Shared               once
compute_shard(spec, shared, history, candidates) -> features   per slice of users
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch, batches, tiles
from extembed_cli.data.embeddings import EmbeddingMatrix, TableIds, load_matrix
from extembed_cli.data.histories import Candidates, History
from extembed_cli.data.tables import Table
from extembed_cli.errors import Problems, SpecError
from extembed_cli.features import aggregate
from extembed_cli.features.aggregate import AggregateShard, Values
from extembed_cli.features.columns import Column, Statistic
from extembed_cli.features.visibility import in_own_history, visible
from extembed_cli.spec import Spec

_DTYPES = {"UInt32": np.uint32, "Float32": np.float32}


@dataclass(frozen=True)
class Shared:
    """What all shards share: the columns to make, and the vectors of the items by num."""

    columns: list[Column]
    embeddings: dict[str, EmbeddingMatrix]


@dataclass
class Done:
    """What was computed: for progress and for the run report."""

    rows: int = 0
    cosines: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Thread seconds by technique."""

    def add(self, other: Done) -> None:
        self.rows += other.rows
        self.cosines += other.cosines
        for technique, seconds in other.seconds.items():
            self.seconds[technique] += seconds


@dataclass(frozen=True)
class ShardFeatures:
    """Features of a shard's candidates, in the shard's order; NaN = null."""

    columns: dict[str, NDArray[Any]]
    """Float32 and uint32."""
    in_own_history: int
    """Candidates whose item stands in their user's visible history."""
    done: Done


MapBatches = Callable[[Callable[[Batch], Done], Iterable[Batch]], Iterable[Done]]


def output_columns(spec: Spec) -> list[Column]:
    """The feature columns of a spec in their order; those that groups define identically once."""
    found: dict[str, Column] = {}
    for group in spec.aggregate:
        for column in aggregate.columns(spec, group):
            known = found.setdefault(column.name, column)
            if known.statistic != column.statistic:
                raise SpecError(f"two groups define the column `{column.name}` differently; give one of them a `name`")
    return list(found.values())


def prepare(spec: Spec, tables: dict[str, Table], ids: dict[str, TableIds], vocabulary: pl.Series) -> Shared:
    """Load the vectors of the items that the job touches; problems of all tables are told at once."""
    problems = Problems()
    embeddings: dict[str, EmbeddingMatrix] = {}
    for name, table in tables.items():
        with problems.collect():
            embeddings[name] = load_matrix(spec, name, table, ids[name], vocabulary)
    problems.raise_any()
    return Shared(output_columns(spec), embeddings)


def compute_shard(
    spec: Spec, shared: Shared, history: History, candidates: Candidates, map_batches: MapBatches = map
) -> ShardFeatures:
    """All features of one slice of users.

    `map_batches` is the engine's way to run a function over batches (threads, or the built-in `map`); what is
    computed does not depend on the order in which they run.
    """
    statistics = list(dict.fromkeys(column.statistic for column in shared.columns))
    seen = {name: visible(spec, name, history, candidates) for name in dict.fromkeys(s.history for s in statistics)}
    shard = AggregateShard(statistics, shared.embeddings, history, candidates, seen)
    found: dict[Statistic, Values] = shard.without_cosines()
    for s in statistics:
        if s not in found:
            # What a candidate without visible events has, and so the value where no batch writes.
            found[s] = np.full(len(candidates.rows), 0.0 if s.kind == "decayed_count" else np.nan, np.float32)

    def run(batch: Batch) -> Done:
        at = batch.candidates[batch.is_candidate]
        done = Done(len(at), batch.cosines)
        tensors = shard.tensors(batch)
        for technique, compute in (("counters", shard.counters), ("aggregate", shard.cosines)):
            began = time.perf_counter()
            for statistic, values in compute(tensors):
                found[statistic][at] = values[batch.is_candidate]
            done.seconds[technique] += time.perf_counter() - began
        return done

    start = np.minimum.reduce([s.start for s in seen.values()])
    end = next(iter(seen.values())).end
    longest = max(matrix.vectors.shape[1] for matrix in shared.embeddings.values())
    done = Done()
    for each in map_batches(run, batches(tiles(candidates.indptr, start, end, history.indptr[1:]), longest)):
        done.add(each)
    columns = {c.name: found[c.statistic].astype(_DTYPES[c.dtype], copy=False) for c in shared.columns}
    return ShardFeatures(columns, in_own_history(history, candidates, end), done)
