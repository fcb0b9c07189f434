"""What a job would need, from the counts of its rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from extembed_cli.data.batches import FEWEST_CANDIDATES, TILE_COSINES, TILE_FLOATS, tiles
from extembed_cli.data.embeddings import first_dim
from extembed_cli.data.histories import every_user
from extembed_cli.data.inputs import Loaded
from extembed_cli.data.inputs import report as input_report
from extembed_cli.engines import local
from extembed_cli.errors import ResourceError
from extembed_cli.features.dual import all_fits, expected_work, vector_files
from extembed_cli.features.shard import output_columns
from extembed_cli.features.visibility import visible
from extembed_cli.spec import ALL, Spec

# What was measured on 2 cores, see docs/decisions/.
_SECONDS_PER_COSINE = 35e-9
_SECONDS_PER_ROW = 1.5e-6
_SECONDS_PER_PRODUCT = 1e-10
_BYTES_PER_EVENT = 120
_BYTES_PER_CANDIDATE = 100
_BYTES_PER_COSINE = 60
_BYTES_FOR_LIBRARIES = 230 * 2**20


def plan(spec: Spec, loaded: Loaded, workers: int) -> dict[str, Any]:
    """What a run reads, makes and needs."""
    dims = _dims(spec, loaded)
    cosines = 0
    if spec.aggregate:
        seen = visible(spec, ALL, loaded.history, loaded.asked)
        cut = tiles(loaded.asked.indptr, seen.start, seen.end, loaded.history.indptr[1:], loaded.asked.times)
        cosines = int((cut.C * cut.H).sum()) * len(spec.embeddings)
    users = every_user(loaded.history, loaded.vectors_as_of)
    works = [expected_work(spec, f, loaded.history, loaded.asked, dims[f.embedding]) for f in all_fits(spec)]
    works += [expected_work(spec, f, loaded.history, users, dims[f.embedding]) for f in vector_files(spec).values()]
    columns = output_columns(spec)
    rows = len(loaded.candidates) + loaded.interactions.rows
    threaded = cosines * _SECONDS_PER_COSINE + sum(work.products for work in works) * _SECONDS_PER_PRODUCT
    return {
        "inputs": input_report(loaded),
        "output": spec.output,
        "user_vectors": list(vector_files(spec)),
        "columns": [column.name for column in columns],
        "rows_out": len(loaded.candidates),
        "shards": len(local.shards(loaded.history, loaded.asked, local.SHARD_ROWS)),
        "workers": workers,
        "cosines": cosines,
        "systems": sum(work.systems for work in works),
        "estimated_memory_bytes": memory_needed(spec, loaded, workers),
        "estimated_seconds": round(1 + rows * _SECONDS_PER_ROW + threaded / workers, 1),
    }


def _dims(spec: Spec, loaded: Loaded) -> dict[str, int]:
    """The length of the vectors of each table."""
    tables = loaded.inputs.embeddings
    return {name: first_dim(table, spec.embedding_column(name, "embedding")) for name, table in tables.items()}


def memory_needed(spec: Spec, loaded: Loaded, workers: int) -> int:
    """Bytes that a run is estimated to need at its peak."""
    dims, matrices = _dims(spec, loaded), 0
    fits = all_fits(spec)
    for name, ids in loaded.ids.items():
        used = min(len(ids.ids), len(loaded.encoded.vocabulary))
        mine = [fit for fit in fits if fit.embedding == name]
        # The mean and the Gramian are over all rows of a table, in order of ids, so those tables are kept whole.
        whole = spec.embeddings[name].center or any(fit.unobserved_weight > 0 for fit in mine)
        bases = {(fit.unobserved_weight > 0, fit.bias) for fit in mine}
        matrices += 4 * dims[name] * ((len(ids.ids) if whole else used) + used * len(bases))
    users = len(loaded.encoded.users)
    user_vectors = sum(4 * users * (dims[fit.embedding] + 1) for fit in vector_files(spec).values())
    longest = int(np.diff(loaded.history.indptr).max(initial=0))
    tile = max(TILE_COSINES, FEWEST_CANDIDATES * longest) * _BYTES_PER_COSINE if spec.aggregate else 0
    vectors = 2 * 4 * max(TILE_FLOATS, longest * max(dims.values()))
    return int(
        _BYTES_FOR_LIBRARIES
        + loaded.interactions.rows * _BYTES_PER_EVENT
        + len(loaded.candidates) * (_BYTES_PER_CANDIDATE + 8 * len(output_columns(spec)))
        + matrices
        + user_vectors
        + workers * (tile + vectors)
    )


def check_memory(needed: int, allowed: int | None) -> None:
    """Refuse a job that needs more bytes than it may use."""
    if allowed is not None and needed > allowed:
        raise ResourceError(
            f"the job needs about {needed / 2**20:,.0f} MiB and may use {allowed / 2**20:,.0f} MiB. "
            "Raise --memory, lower --workers, or split the candidates"
        )
