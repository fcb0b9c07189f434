"""Derive the tables of users that a spec takes from the log: a pass over all users, before the audiences are read."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.data.embeddings import first_dim, load_vectors
from extembed_cli.data.ids import same_type
from extembed_cli.data.inputs import Opened
from extembed_cli.data.mapped_arrays import zeros
from extembed_cli.data.matrices import BYTES_PER_MOMENT, TableVectors
from extembed_cli.data.scratch import Scratch
from extembed_cli.features.derived import derive_vectors, moments_of
from extembed_cli.features.prepare import matrices_of
from extembed_cli.jobs.early_reads import LARGEST_PART, folder_of
from extembed_cli.jobs.layout import Layout, layout_of
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import load
from extembed_cli.spec.tables import Matrix
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

Derived = dict[Matrix, TableVectors]
"""The vectors of derived tables, from centred item vectors or not"""


def derive(opened: Opened, options: RunOptions, mapped: Mapping, watch: Watch) -> Derived:
    """Return the derived tables that a spec uses; where memory is short, shards and vectors are in files."""
    spec = opened.spec
    names = spec.derivations()
    if not names:
        return {}
    used = dict.fromkeys(m for each in spec.passes() for name in each.derivations() for m in matrices_of(each)[name])
    matrices, of_pass = list(used), opened.of_pass(spec.derivation())
    inputs = of_pass.complete()
    sources = [spec.derived(matrix.table).embedding for matrix in matrices]
    dims = sum(first_dim(inputs.embeddings[source], spec.vector_column(source)) for source in sources)
    moments = inputs.interactions.rows + (inputs.candidates.rows if inputs.candidates else 0)
    in_files = options.memory is not None and 4 * dims * moments > options.memory // LARGEST_PART
    needs = {"derived vectors": moments * (BYTES_PER_MOMENT * len(matrices) + (0 if in_files else 4 * dims))}
    layout = options.layout or layout_of(of_pass.spec, inputs, options.workers, options.memory, other_needs=needs)
    layout = replace(layout, mapped=layout.mapped or in_files)
    with folder_of("derive", spec, options, layout) as folder, watch.timing("derive"):
        return _derive(of_pass, matrices, layout, folder, mapped, watch)


def _derive(
    opened: Opened, matrices: list[Matrix], layout: Layout, folder: Path | None, mapped: Mapping, watch: Watch
) -> Derived:
    """Return all tables from one read of the log."""
    spec = opened.spec
    loaded = load(opened, watch, layout, None if folder is None else Scratch(folder, asdict(layout)))
    most = loaded.events.usable + loaded.candidates.rows
    tables = []
    for matrix in matrices:
        source = spec.derived(matrix.table).embedding
        # The mean is that of the whole table, whichever items the log has.
        items = None if matrix.center else loaded.vocabulary.ids
        table, ids = loaded.inputs.embeddings[source], loaded.ids[source]
        [vectors] = load_vectors(spec, source, table, ids, items, [(matrix.center, folder)], mapped)
        of_items = vectors.of(loaded.vocabulary.ids)
        # The file has no name and outlives the folder.
        out = zeros((most + 1, of_items.vectors.shape[1]), np.float32, None if folder is None else folder.parent)
        tables.append((spec.derived(matrix.table), of_items, out))
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
