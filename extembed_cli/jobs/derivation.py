"""Derive the tables of users that a spec takes from the log: a pass over all users, before the audiences are read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.data.columns.ids import same_type
from extembed_cli.data.inputs.embeddings import load_vectors
from extembed_cli.data.inputs.inputs import Opened, Sharded
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.shards.mapped_arrays import zeros
from extembed_cli.data.shards.matrices import BYTES_PER_MOMENT, EmbeddingMatrix, TableVectors
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.features.derived import derive_vectors, moments_of
from extembed_cli.features.prepare import matrices_of
from extembed_cli.jobs.early_reads import ReadPlan, folder_of, plan_read
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import cache_of, dims_of, load
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

Derived = dict[Matrix, TableVectors]
"""The vectors of derived tables, from centred item vectors or not"""


def derive(opened: Opened, options: RunOptions, mapped: Mapping, watch: Watch) -> Derived:
    """Return the derived tables that a spec uses; where memory is short, shards and vectors are in files."""
    plan = plan_derivation(opened, options)
    if plan is None:
        return {}
    with folder_of("derive", opened.spec, options, plan.layout) as folder, watch.timing("derive"):
        return _derive(plan, _matrices(opened.spec), options, folder, mapped, watch)


def plan_derivation(opened: Opened, options: RunOptions) -> ReadPlan | None:
    """Return how the log is read for derived tables; None if there are none."""
    spec, matrices = opened.spec, _matrices(opened.spec)
    if not matrices:
        return None
    of_pass = opened.of_pass(spec.derivation())
    inputs, dims = of_pass.complete(), dims_of(opened)
    moments = inputs.interactions.rows + (inputs.candidates.rows if inputs.candidates else 0)
    vectors = 4 * moments * sum(dims[matrix.table] for matrix in matrices)
    return plan_read(of_pass, options, "derived vectors", vectors, moments * BYTES_PER_MOMENT * len(matrices))


def _matrices(spec: Spec) -> list[Matrix]:
    """Return the derived vectors that the groups use."""
    passes = spec.passes()
    return list(dict.fromkeys(m for each in passes for name in each.derivations() for m in matrices_of(each)[name]))


def _derive(
    plan: ReadPlan, matrices: list[Matrix], options: RunOptions, folder: Path | None, mapped: Mapping, watch: Watch
) -> Derived:
    """Return all tables from one read of the log."""
    opened, layout, _ = plan
    spec = opened.spec
    centers: dict[str, list[bool]] = {}
    for matrix in matrices:
        kinds = centers.setdefault(spec.derived(matrix.table).embedding, [])
        kinds += [] if matrix.center in kinds else [matrix.center]
    cache = cache_of(opened, options, centers)
    loaded = load(opened, watch, layout, None if folder is None else Scratch(folder, asdict(layout)), cache)
    sources = _sources(spec, loaded, centers, cache, folder, mapped)
    most = loaded.events.usable + loaded.candidates.rows
    tables = []
    for matrix in matrices:
        derived = spec.derived(matrix.table)
        of_items = sources[Matrix(derived.embedding, matrix.center)]
        # The file has no name and outlives the folder.
        out = zeros((most + 1, of_items.dim), np.float32, None if folder is None else folder.parent)
        tables.append((derived, of_items, out))
    owners: list[pl.Series] = []
    times: list[Ints] = []
    norms: list[list[Doubles]] = [[] for _ in tables]
    low = 0
    for index in range(loaded.partition.shards):
        shard = loaded.shard(spec, index)
        moments = moments_of(shard.history, shard.candidates)
        for (derived, of_items, out), kept in zip(tables, norms, strict=True):
            kept.append(derive_vectors(spec, derived, of_items, shard.history, moments, out[low:], mapped))
        owners.append(shard.owners.gather(moments.owners))
        times.append(moments.times)
        low += len(moments.times)
    ids_of_moments = pl.concat(same_type(*owners))
    # A vector is as of its own time: it is the newest strictly before that time, and no lag comes on top.
    since = np.concatenate(times) - 1
    return {
        matrix: TableVectors(
            ids_of_moments,
            out[: low + 1],
            np.append(np.concatenate(kept), 0),
            {"rows": low, "dim": out.shape[1]},
            since,
        )
        for matrix, (_, _, out), kept in zip(matrices, tables, norms, strict=True)
    }


def _sources(
    spec: Spec,
    loaded: Sharded,
    centers: dict[str, list[bool]],
    cache: VectorCache | None,
    folder: Path | None,
    mapped: Mapping,
) -> dict[Matrix, EmbeddingMatrix]:
    """Return the vectors of items, centred and not, that tables are derived from: one read for each table."""
    sources: dict[Matrix, EmbeddingMatrix] = {}
    for name, kinds in centers.items():
        if cache is not None:
            tables = cache.vectors(name, loaded.ids[name], mapped)
        else:
            # The mean is that of the whole table, whichever items the log has.
            whole = any(kinds) and "center" not in spec.table(name).frozen
            items = None if whole else loaded.vocabulary.ids
            table = loaded.inputs.embeddings[name]
            tables = load_vectors(
                spec, name, table, loaded.ids[name], items, [(kind, folder) for kind in kinds], mapped
            )
        for center, vectors in zip(kinds, tables, strict=True):
            sources[Matrix(name, center)] = vectors.of(loaded.vocabulary.ids)
    return sources
