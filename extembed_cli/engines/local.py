"""Shards one after another in this process, the pieces of each over threads with one BLAS thread apiece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from extembed_cli.data.histories import Candidates, History, split
from extembed_cli.features.shard import Done, Shared, compute_shard
from extembed_cli.mapping import Mapping
from extembed_cli.spec import Spec

SHARD_ROWS = 2**22  # events and candidates of one shard; a single user may have more

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@contextmanager
def threads(workers: int) -> Iterator[Mapping]:
    """A `map` over threads, with one BLAS thread in each: more would change the bits of a product with their number."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers, "extembed") as pool:

        def over_threads(run: Callable[[Piece], Result], pieces: Iterable[Piece], /) -> Iterator[Result]:
            return _in_flight(pool, run, pieces, 2 * workers)

        yield over_threads


@dataclass
class Features:
    """Features of all candidates in input order, and vectors of users in order of their nums."""

    columns: dict[str, NDArray[Any]]
    vectors: dict[str, NDArray[np.float32]]
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
    vectors_as_of: int,
    mapped: Mapping,
    *,
    rows: int,
    shard_rows: int = SHARD_ROWS,
    progress: Callable[[float], None] = lambda rows: None,
) -> Features:
    """Features of all candidates; `rows` is the length of the input, `progress` hears of rows as they are done."""
    known = np.zeros(rows, np.bool_)
    known[candidates.rows] = True
    users = len(history.indptr) - 1
    features = Features(
        columns={c.name: _nulls(rows, c.dtype) for c in shared.columns},
        vectors={path: np.empty((users, model.dim), np.float32) for path, model in shared.vector_files.items()},
        known=known,
    )
    for low, high in shards(history, candidates, shard_rows):
        part = split(history, candidates, low, high)
        found = compute_shard(spec, shared, *part, vectors_as_of, mapped, progress)
        for name, values in found.columns.items():
            features.columns[name][part[1].rows] = values
        for path, vectors in found.vectors.items():
            features.vectors[path][low:high] = vectors
        features.in_own_history += found.in_own_history
        features.done.add(found.done, first_user=low)
    return features


def _nulls(rows: int, dtype: str) -> NDArray[Any]:
    return np.zeros(rows, np.uint32) if dtype == "UInt32" else np.full(rows, np.nan, np.float32)


def _in_flight(
    pool: ThreadPoolExecutor, run: Callable[[Piece], Result], pieces: Iterable[Piece], most: int
) -> Iterator[Result]:
    """`map` over threads with a bounded number of pieces under way; on an error the rest is cancelled."""
    waiting: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(run, piece))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
