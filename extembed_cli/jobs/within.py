"""The columns within a request, from the features of all shards: a request may have candidates of several users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extembed_cli.arrays import Floats, Ints
from extembed_cli.data.columns.labels import read_codes, read_times
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.outputs.shard_results import FeaturePart, block_of, known_in
from extembed_cli.data.shards.mapped_arrays import zeros
from extembed_cli.errors import SpecError, did_you_mean
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.within import check_moments, kinds_of, mixed_requests, within_values
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

BYTES_OF_REQUESTS = 100  # for each candidate: its request, and a column of each worker with its order


def check_requests(spec: Spec, candidates: Table) -> None:
    """Raise if the candidates lack the column of requests."""
    if spec.within is not None and spec.within.by not in candidates.names:
        hint = did_you_mean(spec.within.by, candidates.names)
        raise SpecError(f"within.by: the candidates have no column `{spec.within.by}`{hint}")


def read_requests(spec: Spec, candidates: Table) -> Ints | None:
    """Return the number of each candidate's request, 0 for null; raise if one has candidates of different times."""
    if spec.within is None:
        return None
    requests = read_codes(candidates, "request", spec.within.by)
    if spec.as_of is None:
        times = read_times(candidates, spec.times("candidates"))
        check_moments(spec, *mixed_requests(spec, requests, times))
    return requests


def within_part(
    spec: Spec,
    columns: Sequence[Column],
    candidates: Table,
    features: Sequence[Sequence[FeaturePart]],
    mapped: Mapping,
    folder: Path | None,
) -> FeaturePart | None:
    """Return the columns within a request of all candidates, in mapped files of a folder, if there is one.

    features  the parts of each pass
    """
    kinds = kinds_of(columns)
    if spec.within is None or not kinds:
        return None
    rows = candidates.rows
    if not rows:
        return FeaturePart(
            np.zeros(0, np.int64), {name: np.zeros(0, np.float32) for c in kinds.values() for _, name in c}
        )
    requests = read_requests(spec, candidates)
    assert requests is not None
    results: dict[str, Floats] = {name: zeros((rows,), np.float32, folder) for c in kinds.values() for _, name in c}

    def compute(name: str) -> None:
        parts = next(parts for parts in features if parts and name in parts[0].columns)
        values = block_of(parts, name, 0, rows).astype(np.float32)
        values[~known_in(parts, 0, rows)] = np.nan
        for result, of_result in within_values(values, requests, kinds[name]).items():
            results[result][:] = of_result

    for _ in mapped(compute, kinds):
        pass
    return FeaturePart(np.arange(rows), results)
