"""Stage the outputs of a run: features, user vectors and item vectors, which are committed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

import extembed_cli
from extembed_cli.data.columns.ids import as_stored, narrowed
from extembed_cli.data.files.commit import Staged, writing
from extembed_cli.data.outputs.feature_file import FeatureTable, VectorTable, write_vectors
from extembed_cli.data.outputs.shard_results import Vectors
from extembed_cli.features.registry import output_columns
from extembed_cli.jobs.passes import PassResults
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

_VECTOR_ROWS = 2048  # user vectors rotated and written at a time


def write_outputs(
    spec: Spec,
    stage: Staged,
    passes: Sequence[PassResults],
    write: Callable[[Staged, Path, FeatureTable], str],
    digests: dict[str, Any],
    mapped: Mapping,
) -> dict[str, Any]:
    """Stage features and vectors and return the part of the run report about them.

    write  writes the features of all passes, and the columns within a request
    """
    metadata = {"version": extembed_cli.__version__, "spec": spec.meaning(), "inputs": digests}
    outputs = output_columns(spec)
    columns = [column.about for column in outputs]
    digest, loaded = None, passes[0].loaded
    if loaded.inputs.candidates is not None and spec.output is not None:
        output = Path(spec.output)
        with writing(output):
            dtypes = {column.name: column.dtype for column in outputs}
            table = FeatureTable.of(loaded.inputs.candidates, dtypes, {**metadata, "columns": columns})
            digest = write(stage, output, table)
    of_owners: dict[str, list[dict[str, Any]]] = {"user": [], "item": []}
    for each in passes:
        of_owners[each.job.spec.side.owner] += _write_owner_vectors(each, stage, metadata, mapped)
    of_items = [file for each in passes for file in _write_item_vectors(each, stage, metadata)]
    of_moments = [file for each in passes for file in _write_moment_vectors(each, stage, metadata)]
    return {
        "version": metadata["version"],
        "output": spec.output,
        "output_sha256": digest,
        "rows_in": loaded.candidates.rows,
        "rows_out": loaded.candidates.rows,
        "columns": len(columns),
        "column_names": [c["name"] for c in columns],
        "user_vectors": of_owners["user"],
        "item_vectors": [*of_owners["item"], *of_items],
        "all_vectors": of_moments,
        "digests": digests,
        "spec": metadata["spec"],
    }


def _write_owner_vectors(
    of_pass: PassResults, stage: Staged, metadata: dict[str, Any], mapped: Mapping
) -> Iterator[dict[str, Any]]:
    """Stage the vectors of users, or of items, and yield the part of the run report about each file."""
    job, loaded = of_pass.job, of_pass.loaded
    owner = job.spec.side.owner
    id_column = job.spec.column("interactions", owner)
    for (path, model), parts in zip(job.shared.vector_files.items(), of_pass.results.vectors, strict=True):
        with writing(Path(path)):
            vectors = Vectors(parts)
            table = VectorTable(
                f"{owner}_id",
                as_stored(vectors.owners, loaded.inputs.interactions, id_column),
                mapped(model.original, vectors.blocks(_VECTOR_ROWS)),
                dim=model.dim - model.with_bias,
                with_bias=model.with_bias,
            )
            about = {**metadata, "as_of_us": job.vectors_as_of, "meaning": model.meaning}
            sha256 = write_vectors(stage, Path(path), table, about)
        yield {"path": path, "rows": len(vectors.owners), "sha256": sha256}


def _write_moment_vectors(of_pass: PassResults, stage: Staged, metadata: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Stage the vectors of moments and yield the part of the run report about each file."""
    for file in (file for state in of_pass.job.shared.states.values() for file in state.moment_vectors()):
        with writing(Path(file.path)):
            times = pa.array(file.times, pa.timestamp("us", "UTC"))
            dim = file.vectors.shape[1] - file.with_bias
            table = VectorTable("timestamp", times, [file.vectors], dim=dim, with_bias=file.with_bias)
            digest = write_vectors(stage, Path(file.path), table, {**metadata, "meaning": file.meaning})
        yield {"path": file.path, "rows": len(file.times), "sha256": digest}


def _write_item_vectors(of_pass: PassResults, stage: Staged, metadata: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Stage the item vectors of the techniques and yield the part of the run report about each file."""
    job, loaded = of_pass.job, of_pass.loaded
    for file in (file for state in job.shared.states.values() for file in state.item_vectors()):
        ids = loaded.vocabulary.ids.filter(pl.Series(file.has_vector))
        sources = [(loaded.inputs.embeddings[name], job.spec.id_column(name)) for name in file.tables]
        with writing(Path(file.path)):
            table = VectorTable(
                "item_id",
                as_stored(ids, *sources[0]) if len(sources) == 1 else narrowed(ids).to_arrow(),
                [file.vectors],
                dim=file.vectors.shape[1],
            )
            digest = write_vectors(stage, Path(file.path), table, {**metadata, "meaning": file.meaning})
        yield {"path": file.path, "rows": len(ids), "sha256": digest}
