"""Stage the outputs of a run: features, user vectors and item vectors, which are committed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

import extembed_cli
from extembed_cli.data.commit import Staged, writing
from extembed_cli.data.feature_file import VectorTable, write_features, write_vectors
from extembed_cli.data.ids import as_stored, narrowed
from extembed_cli.data.inputs import Loaded
from extembed_cli.data.shard_results import Vectors
from extembed_cli.engines.base import Job, Results
from extembed_cli.features.within import within_columns
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

SECONDS_PER_WRITTEN_ROW = 0.3e-6  # for a progress bar of even speed
_VECTOR_ROWS = 2048  # user vectors rotated and written at a time


def write_outputs(
    job: Job,
    stage: Staged,
    loaded: Loaded,
    results: Results,
    digests: dict[str, Any],
    mapped: Mapping,
    watch: Watch,
) -> dict[str, Any]:
    """Stage features and vectors and return the part of the run report about them."""
    spec, shared = job.spec, job.shared
    metadata = {"version": extembed_cli.__version__, "spec": spec.meaning(), "inputs": digests}
    outputs = [*shared.columns, *within_columns(spec, shared.columns)]
    columns = [column.about for column in outputs]
    digest = None
    if loaded.inputs.candidates is not None and spec.output is not None:
        output = Path(spec.output)
        with writing(output):
            digest = write_features(
                stage,
                output,
                loaded.inputs.candidates,
                {column.name: column.dtype for column in outputs},
                [results.features, *([] if results.within is None else [[results.within]])],
                {**metadata, "columns": columns},
                progress=lambda rows: watch.moved(rows, rows * SECONDS_PER_WRITTEN_ROW),
            )
    vectors = []
    user_column = spec.column("interactions", "user")
    for (path, model), parts in zip(shared.vector_files.items(), results.vectors, strict=True):
        with writing(Path(path)):
            users = Vectors(parts)
            table = VectorTable(
                "user_id",
                as_stored(users.users, loaded.inputs.interactions, user_column),
                mapped(model.original, users.blocks(_VECTOR_ROWS)),
                dim=model.dim - model.with_bias,
                with_bias=model.with_bias,
            )
            sha256 = write_vectors(
                stage, Path(path), table, {**metadata, "as_of_us": job.vectors_as_of, "meaning": model.meaning}
            )
            vectors.append({"path": path, "rows": len(users.users), "sha256": sha256})
    return {
        "version": metadata["version"],
        "output": spec.output,
        "output_sha256": digest,
        "rows_in": loaded.candidates.rows,
        "rows_out": loaded.candidates.rows,
        "columns": len(columns),
        "column_names": [c["name"] for c in columns],
        "user_vectors": vectors,
        "item_vectors": _write_item_vectors(job, stage, loaded, metadata),
        "digests": digests,
        "spec": metadata["spec"],
    }


def _write_item_vectors(job: Job, stage: Staged, loaded: Loaded, metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """Stage the item vectors of the techniques and return the part of the run report about them."""
    written = []
    for file in (file for state in job.shared.states.values() for file in state.item_vectors()):
        ids = loaded.vocabulary.ids.filter(pl.Series(file.has_vector))
        sources = [(loaded.inputs.embeddings[name], job.spec.embedding_column(name, "item")) for name in file.tables]
        with writing(Path(file.path)):
            table = VectorTable(
                "item_id",
                as_stored(ids, *sources[0]) if len(sources) == 1 else narrowed(ids).to_arrow(),
                [file.vectors],
                dim=file.vectors.shape[1],
            )
            digest = write_vectors(stage, Path(file.path), table, {**metadata, "meaning": file.meaning})
        written.append({"path": file.path, "rows": len(ids), "sha256": digest})
    return written
