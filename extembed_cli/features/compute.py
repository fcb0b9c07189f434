"""The features of some owners: the second of the two functions that know the maths, the same on every engine.

compute_shard(spec, shared, history, candidates, vectors_as_of) -> ShardFeatures
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Floats, Values
from extembed_cli.data.shard_results import Tally
from extembed_cli.features.prepare import Shared
from extembed_cli.features.registry import technique_of_step
from extembed_cli.features.technique.protocol import ShardWork, Task
from extembed_cli.histories.csr import Candidates, History, every_owner
from extembed_cli.histories.visibility import in_own_history, visible_end
from extembed_cli.kernels.segments import run_starts
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

_DTYPES = {"UInt32": np.uint32, "Float32": np.float32}


@dataclass(frozen=True)
class ShardFeatures:
    """Features of a shard's candidates, in the shard's order; NaN = null."""

    columns: dict[str, Values]
    """(Q) float32 or uint32"""
    vectors: dict[str, Floats]
    """User vectors (U, D) by file, in the coordinates of their model; NaN where there is none."""
    repeats: int
    """Candidates whose partner stands in their owner's visible history"""
    flagged: dict[str, set[int]]
    """Owners with a doubtful result, by reason"""
    tally: Tally


def compute_shard(
    spec: Spec,
    shared: Shared,
    history: History,
    candidates: Candidates,
    vectors_as_of: int,
    mapped: Mapping = map,
    progress: Callable[[float], None] = lambda rows: None,
) -> ShardFeatures:
    """Return all features of one slice of owners, and their vectors as of one moment (us).

    The results do not depend on the order in which `mapped` runs the pieces of work.
    """
    end = visible_end(spec, history, candidates, mapped)
    work = ShardWork(spec, shared.embeddings, history, candidates, every_owner(history, vectors_as_of), end)
    rows = len(candidates.rows) if shared.columns else len(work.owners.rows)
    repeats = 0

    def count_repeats() -> Tally:
        nonlocal repeats
        repeats = in_own_history(history, candidates, end)
        return Tally()

    results: dict[str, dict[Hashable, Values]] = {technique: {} for technique in shared.states}

    def tasks() -> Iterator[Task]:
        yield count_repeats
        for technique, state in shared.states.items():
            own = copy(work)  # a statistic is known by its technique, so that equal ones of two do not meet
            own.values = results[technique]
            yield from state.tasks(own)

    passes = max(1, sum(state.passes for state in shared.states.values()))
    tally = Tally()
    for part in mapped(lambda task: task(), tasks()):
        progress(part.passes / passes)
        tally.add(part)
    progress(rows - tally.passes / passes)  # those that see no event are in no task
    # A product gives equal rows bits of their own: candidates that are the same have the values of the first.
    first = run_starts(candidates.owners, candidates.times, candidates.partners)
    alike = np.repeat(first, np.diff(np.append(first, len(candidates.rows))))
    columns = {}
    for column in shared.columns:
        values = results[technique_of_step(column.technique).group.technique][column.statistic]
        columns[column.name] = values[alike].astype(_DTYPES[column.dtype], copy=False)
    return ShardFeatures(columns, work.vectors, repeats, work.flagged, tally)
