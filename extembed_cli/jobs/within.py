"""The columns within a request, from the features of all shards: a request may have candidates of several users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extembed_cli.arrays import Floats, Ints
from extembed_cli.data.columns.labels import NO_TIME, read_codes, read_times
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.outputs.shard_results import FeaturePart, block_of, known_in
from extembed_cli.data.shards.mapped_arrays import zeros
from extembed_cli.errors import DataError, SpecError, did_you_mean
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.within import WithinStatistic
from extembed_cli.kernels.requests import Within, within_requests
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
    _check_moments(spec, candidates, requests)
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
    kinds: dict[str, list[tuple[str, str]]] = {}
    for column in columns:
        if isinstance(statistic := column.statistic, WithinStatistic):
            kinds.setdefault(statistic.column, []).append((statistic.kind, column.name))
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
        within = _of_column(parts, name, requests)
        for kind, result in kinds[name]:
            results[result][:] = getattr(within, kind)

    for _ in mapped(compute, kinds):
        pass
    return FeaturePart(np.arange(rows), results)


def _check_moments(spec: Spec, candidates: Table, requests: Ints) -> None:
    """Raise if candidates of one request have different as-of times: the older would see what the newer see."""
    if spec.as_of is not None or spec.within is None:
        return
    times = read_times(candidates, spec.times("candidates"))
    known = np.flatnonzero((requests > 0) & (times != NO_TIME))
    number, moment = requests[known], times[known] // spec.as_of_step_us
    oldest = np.full(int(requests.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(oldest, number, moment)
    mixed = len(np.unique(number[moment > oldest[number]]))
    if mixed:
        raise DataError(
            f"within.by: {mixed:,} of {len(np.unique(number)):,} values of `{spec.within.by}` have candidates of "
            "different as-of times, so the older would see what the newer have seen. Name the column of a request, "
            "whose candidates share a time"
        )


def _of_column(parts: Sequence[FeaturePart], name: str, requests: Ints) -> Within:
    values = block_of(parts, name, 0, len(requests)).astype(np.float32)
    values[~known_in(parts, 0, len(requests))] = np.nan
    return within_requests(values, requests)
