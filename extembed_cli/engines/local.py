"""Shards one after another in this process, the batches of each over threads with one BLAS thread apiece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from extembed_cli.data.batches import Batch
from extembed_cli.data.histories import Candidates, History, split
from extembed_cli.features.shard import Done, Shared, compute_shard
from extembed_cli.spec import Spec

SHARD_ROWS = 2**22  # events and candidates of one shard; a single user may have more


@dataclass
class Features:
    """Features of all candidates in input order."""

    columns: dict[str, NDArray[Any]]
    known: NDArray[np.bool_]
    """False for candidates without user or time: all their features are null."""
    in_own_history: int = 0
    done: Done = field(default_factory=Done)


def shards(history: History, candidates: Candidates, rows: int) -> list[tuple[int, int]]:
    """Half-open ranges of users with about `rows` events and candidates each."""
    load = history.indptr + candidates.indptr
    users = len(load) - 1
    cuts = [0]
    while cuts[-1] < users:
        reach = int(np.searchsorted(load, load[cuts[-1]] + rows, side="right")) - 1
        cuts.append(min(users, max(cuts[-1] + 1, reach)))
    return list(pairwise(cuts))


def compute(
    spec: Spec,
    shared: Shared,
    history: History,
    candidates: Candidates,
    *,
    rows: int,
    workers: int,
    shard_rows: int = SHARD_ROWS,
    progress: Callable[[int], None] = lambda rows: None,
) -> Features:
    """Features of all candidates; `rows` is the length of the input, `progress` hears of rows as they are done."""
    known = np.zeros(rows, np.bool_)
    known[candidates.rows] = True
    features = Features({c.name: _nulls(rows, c.dtype) for c in shared.columns}, known)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers, "extembed") as pool:

        def over_threads(run: Callable[[Batch], Done], batches: Iterable[Batch]) -> Iterator[Done]:
            for done in _in_flight(pool, run, batches, 2 * workers):
                progress(done.rows)
                yield done

        for low, high in shards(history, candidates, shard_rows):
            part = split(history, candidates, low, high)
            found = compute_shard(spec, shared, *part, over_threads)
            progress(len(part[1].rows) - found.done.rows)  # those that see no event are in no batch
            for name, values in found.columns.items():
                features.columns[name][part[1].rows] = values
            features.in_own_history += found.in_own_history
            features.done.add(found.done)
    return features


def _nulls(rows: int, dtype: str) -> NDArray[Any]:
    return np.zeros(rows, np.uint32) if dtype == "UInt32" else np.full(rows, np.nan, np.float32)


def _in_flight(
    pool: ThreadPoolExecutor, run: Callable[[Batch], Done], batches: Iterable[Batch], most: int
) -> Iterator[Done]:
    """`map` over threads with a bounded number of batches under way; on an error the rest is cancelled."""
    waiting: deque[Future[Done]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(run, batch))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
