"""Derive the tables of users that a spec takes from the log: a pass over all users, before the audiences are read."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from extembed_cli.data.embeddings import TableVectors, first_dim, load_vectors
from extembed_cli.data.ids import same_type
from extembed_cli.data.inputs import Opened
from extembed_cli.data.mapped_arrays import zeros
from extembed_cli.data.scratch import Scratch, make_folder, scratch_folder
from extembed_cli.features.derived import derived_vectors
from extembed_cli.features.prepare import matrices_of
from extembed_cli.jobs.layout import Layout, layout_of
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.reading import load
from extembed_cli.spec.model import Matrix, Spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

_SHARE = 4  # of the memory that derived vectors may take
_BYTES_PER_MOMENT = 60  # id, time, key and norm


@dataclass(frozen=True)
class Derived:
    """The derived tables of a pass."""

    tables: dict[Matrix, TableVectors]
    """From centred item vectors, or not"""
    bytes_in_memory: int


def derive(opened: Opened, of_pass: Spec, earlier: int, options: RunOptions, mapped: Mapping, watch: Watch) -> Derived:
    """Return the derived tables of a pass; where memory is short, shards and vectors are in files.

    `earlier` are the bytes of earlier passes.
    """
    tables: dict[Matrix, TableVectors] = {}
    in_memory = 0
    for name in of_pass.derivations():
        spec = opened.spec.derivation(name)
        inputs = opened.of_pass(spec).complete()
        moments = inputs.interactions.rows + (inputs.candidates.rows if inputs.candidates else 0)
        source = spec.derived(name).embedding
        size = 4 * moments * first_dim(inputs.embeddings[source], spec.vector_column(source))
        for matrix in matrices_of(of_pass)[name]:
            needs = {"earlier passes": earlier + in_memory, "moments of users": moments * _BYTES_PER_MOMENT}
            in_files = options.memory is not None and size > options.memory // _SHARE
            if not in_files:
                needs["derived vectors"] = size
            layout = options.layout or layout_of(spec, inputs, options.workers, options.memory, other_needs=needs)
            layout = replace(layout, mapped=layout.mapped or in_files)
            folder = scratch_of(opened.spec, options, f"derive-{name}") if layout.on_disk else None
            in_memory += moments * _BYTES_PER_MOMENT + (size if folder is None else 0)
            with watch.timing("derive"):
                tables[matrix] = _derive(opened, name, matrix, layout, folder, mapped, watch)
    return Derived(tables, in_memory)


def scratch_of(spec: Spec, options: RunOptions, name: str) -> Path:
    """Return the folder for the files of a derivation; `*` matches all."""
    output = Path(spec.outputs[0])
    folder = scratch_folder(options.scratch or output.parent, output)
    return folder.with_name(f"{folder.name}-{name}")


def _derive(
    opened: Opened, name: str, matrix: Matrix, layout: Layout, folder: Path | None, mapped: Mapping, watch: Watch
) -> TableVectors:
    spec = opened.spec.derivation(name)
    source = spec.derived(name)
    of_pass = opened.of_pass(spec)
    place = None
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)  # of a killed run
        make_folder(folder, "data that does not fit into memory", "--scratch")
        place = Scratch(folder, asdict(layout))
    try:
        loaded = load(of_pass, watch, layout, place)
        table, ids = loaded.inputs.embeddings[source.embedding], loaded.ids[source.embedding]
        # The mean is that of the whole table, whichever items the log has.
        items = None if matrix.center else loaded.vocabulary.ids
        kinds = [(matrix.center, folder)]
        [loaded_items] = load_vectors(spec, source.embedding, table, ids, items, kinds, mapped)
        vectors_of_items = loaded_items.of(loaded.vocabulary.ids)
        most = loaded.events.usable + loaded.candidates.rows
        at = None if folder is None else folder.parent
        vectors = zeros((most + 1, vectors_of_items.vectors.shape[1]), np.float32, at)
        owners, parts, low = [], [], 0
        for index in range(loaded.partition.shards):
            shard = loaded.shard(spec, index)
            part = derived_vectors(
                spec, source, vectors_of_items, shard.history, shard.candidates, vectors[low:], mapped
            )
            owners.append(shard.owners.gather(part.owners))
            parts.append(part)
            low += len(part.times)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    norms = np.append(np.concatenate([part.norms for part in parts]), 0)
    # A vector is as of its own time: it is the newest strictly before that time, and no lag comes on top.
    times = np.concatenate([part.times for part in parts]) - 1
    report = {"rows": low, "dim": vectors.shape[1]}
    return TableVectors(pl.concat(same_type(*owners)), vectors[: low + 1], norms, report, times)
