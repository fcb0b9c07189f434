"""The features of some owners: the second of the two functions that know the maths, the same on every engine.

compute_shard(spec, shared, shard, vectors_as_of) -> ShardFeatures
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from extembed_cli.arrays import Bools, Floats, Values
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.features.prepare import Shared
from extembed_cli.features.technique.protocol import ShardWork, Task
from extembed_cli.histories.csr import Shard, every_owner, nobody
from extembed_cli.histories.visibility import visible_end
from extembed_cli.histories.without_own import sees_own, without_own
from extembed_cli.kernels.segments import run_starts
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

Results = dict[str, dict[Hashable, Values]]
"""(Q) of each statistic, by technique"""

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
    shard: Shard,
    vectors_as_of: int,
    mapped: Mapping = map,
    progress: Callable[[float], None] = lambda rows: None,
) -> ShardFeatures:
    """Return all features of one slice of owners, and their vectors as of one moment (us).

    The results do not depend on the order in which `mapped` runs the pieces of work.
    """
    history, candidates = shard.history, shard.candidates
    end = visible_end(spec, history, candidates, mapped)
    work = ShardWork(
        spec,
        shared.embeddings,
        history,
        candidates,
        every_owner(history, vectors_as_of),
        end,
        shared.owner_vectors(shard.owners),
    )
    rows = len(candidates.rows) if shared.columns else len(work.owners.rows)
    own = np.zeros(0, np.bool_)

    def find_own() -> Tally:
        nonlocal own
        own = sees_own(history, candidates, end)
        return Tally()

    passes = max(1, sum(state.passes for state in shared.states.values()))
    tally = Tally()
    results: Results = {technique: {} for technique in shared.states}
    for part in mapped(lambda task: task(), chain([find_own], _tasks(shared, work, results))):
        progress(part.passes / passes)
        tally.add(part)
    progress(rows - tally.passes / passes)  # those that see no event are in no task
    if not spec.side.own:
        tally.add(_correct_own(shared, work, own, results, mapped))
    # A product gives equal rows bits of their own: candidates that are the same have the values of the first.
    first = run_starts(candidates.owners, candidates.times, candidates.partners)
    alike = np.repeat(first, np.diff(np.append(first, len(candidates.rows))))
    columns = {}
    for column in shared.columns:
        values = results[column.technique][column.statistic]
        columns[column.name] = values[alike].astype(_DTYPES[column.dtype], copy=False)
    return ShardFeatures(columns, work.vectors, int(np.count_nonzero(own)), work.flagged, tally)


def work_of(spec: Spec, shared: Shared, shard: Shard, place: int) -> tuple[ShardWork, int]:
    """Return what the values of the candidate at a place of a shard are computed from, and its place there."""
    history, candidates = shard.history, shard.candidates
    end = visible_end(spec, history, candidates)
    pair = (candidates.owners == candidates.owners[place]) & (candidates.partners == candidates.partners[place])
    place = int(np.flatnonzero(pair & (candidates.times == candidates.times[place]))[0])  # equal ones have its values
    own = sees_own(history, candidates, end) & pair
    if not spec.side.own and own[place]:
        [of_pair] = without_own(history, candidates, own)
        history, candidates = of_pair.history, of_pair.candidates
        place, end = of_pair.at.tolist().index(place), visible_end(spec, history, candidates)
    vectors, ids = shared.owner_vectors(shard.owners), shared.vocabulary.ids
    return ShardWork(spec, shared.embeddings, history, candidates, nobody(history), end, vectors, ids), place


def _tasks(shared: Shared, work: ShardWork, results: Results) -> Iterator[Task]:
    for technique, state in shared.states.items():
        own = copy(work)  # a statistic is known by its technique, so that equal ones of two do not meet
        own.values = results[technique]
        yield from state.tasks(own)


def _correct_own(shared: Shared, work: ShardWork, own: Bools, results: Results, mapped: Mapping) -> Tally:
    """Replace the results of the candidates that see events of their own partner, by those without these events."""
    tally = Tally()
    for pairs in without_own(work.history, work.candidates, own):
        end = visible_end(work.spec, pairs.history, pairs.candidates)
        part = ShardWork(work.spec, work.embeddings, pairs.history, pairs.candidates, nobody(pairs.history), end)
        of_part: Results = {technique: {} for technique in shared.states}
        for each in mapped(lambda task: task(), _tasks(shared, part, of_part)):
            tally.add(replace(each, passes=0.0))
        for technique, values in of_part.items():
            for statistic, corrected in values.items():
                if len(corrected):  # a statistic that no column needs has no values
                    results[technique][statistic][pairs.at] = corrected
        for reason, flagged in part.flagged.items():
            work.flagged.setdefault(reason, set()).update(pairs.owners[sorted(flagged)].tolist())
    return tally
