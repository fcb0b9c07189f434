"""What a run writes: features, and vectors of users and of items, staged to be committed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import extembed_cli
from extembed_cli.data import ids as keys
from extembed_cli.data.commit import Staged, writing
from extembed_cli.data.feature_file import write_features, write_vectors
from extembed_cli.data.inputs import Loaded
from extembed_cli.data.shard_results import Vectors
from extembed_cli.engines import local
from extembed_cli.features.compute import Shared
from extembed_cli.jobs.layout import Work
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping

_VECTOR_ROWS = 2048  # of user vectors rotated and written at a time


def write_outputs(
    spec: Spec,
    stage: Staged,
    loaded: Loaded,
    shared: Shared,
    made: local.Made,
    digests: dict[str, Any],
    mapped: Mapping,
    steps: Work,
    watch: Watch,
) -> dict[str, Any]:
    """Stage features and user vectors; the part of the report that describes them."""
    about = {"version": extembed_cli.__version__, "spec": spec.meaning(), "inputs": digests}
    columns = [column.about for column in shared.columns]
    digest = None
    if loaded.inputs.candidates is not None and spec.output is not None:
        output = Path(spec.output)
        with writing(output):
            digest = write_features(
                stage,
                output,
                loaded.inputs.candidates,
                {c.name: c.dtype for c in shared.columns},
                made.features,
                {**about, "columns": columns},
                progress=lambda rows: watch.moved(rows, rows * steps.write),
            )
    vectors = []
    user_column = spec.column("interactions", "user")
    for path, model in shared.vector_files.items():
        with writing(Path(path)):
            found = Vectors(made.vectors[path])
            written = write_vectors(
                stage,
                Path(path),
                "user_id",
                keys.as_stored(found.users, loaded.inputs.interactions, user_column),
                mapped(model.original, found.blocks(_VECTOR_ROWS)),
                dim=model.dim - model.with_bias,
                with_bias=model.with_bias,
                metadata={**about, "as_of_us": loaded.vectors_as_of, "meaning": model.meaning},
            )
            vectors.append({"path": path, "rows": len(found.users), "sha256": written})
    return {
        "version": about["version"],
        "output": spec.output,
        "output_sha256": digest,
        "rows_in": loaded.asked.rows,
        "rows_out": loaded.asked.rows,
        "columns": len(columns),
        "column_names": [c["name"] for c in columns],
        "user_vectors": vectors,
        "item_vectors": _write_item_vectors(spec, stage, loaded, shared, about),
        "digests": digests,
        "spec": about["spec"],
    }


def _write_item_vectors(
    spec: Spec, stage: Staged, loaded: Loaded, shared: Shared, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Stage the vectors that neural models have of the tables' items; the part of the report that describes them."""
    written = []
    for path, scorer in ((g.item_vectors, shared.scorers[g.model]) for g in spec.neural if g.item_vectors is not None):
        having = np.any([shared.with_vector[name][:-1] for name in scorer.config.tables], axis=0)
        ids = loaded.vocabulary.filter(pl.Series(having))
        sources = [(loaded.inputs.embeddings[n], spec.embedding_column(n, "item")) for n in scorer.config.tables]
        with writing(Path(path)):
            digest = write_vectors(
                stage,
                Path(path),
                "item_id",
                keys.as_stored(ids, *sources[0]) if len(sources) == 1 else keys.narrowed(ids).to_arrow(),
                iter([scorer.adapted.numpy()[:-1][having]]),
                dim=scorer.config.architecture.dim,
                with_bias=False,
                metadata={**about, "meaning": "what a user's vector of the same model is multiplied with"},
            )
        written.append({"path": path, "rows": len(ids), "sha256": digest})
    return written
