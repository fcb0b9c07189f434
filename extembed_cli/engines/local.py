"""Shards one after another in this process, the pieces of each over threads with one BLAS thread apiece."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from extembed_cli.data.histories import Shard
from extembed_cli.data.parts import FeaturePart, VectorPart
from extembed_cli.features.shard import Done, Shared, compute_shard
from extembed_cli.mapping import Mapping
from extembed_cli.memory import give_back
from extembed_cli.spec import Spec

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
class Made:
    """What all shards made."""

    features: list[FeaturePart] = field(default_factory=list)
    vectors: dict[str, list[VectorPart]] = field(default_factory=lambda: defaultdict(list))
    """By file."""
    in_own_history: int = 0
    not_converged: list[Any] = field(default_factory=list)
    """Ids of users with a logistic fit whose gradient is above 1e-6."""
    done: Done = field(default_factory=Done)


def compute(
    spec: Spec,
    shared: Shared,
    shards: Iterable[Shard],
    vectors_as_of: int,
    mapped: Mapping,
    *,
    folder: Path | None = None,
    progress: Callable[[float], None] = lambda rows: None,
) -> Made:
    """Features of the candidates and vectors of the users of all shards.

    With a `folder` what a shard made goes into files there; `progress` hears of rows as they are done.
    """
    made = Made()
    for index, shard in enumerate(shards):
        found = compute_shard(spec, shared, shard.history, shard.asked, vectors_as_of, mapped, progress)
        features = FeaturePart.of(shard.asked.rows, found.columns)
        made.features.append(features if folder is None else features.save(folder / f"features-{index:04d}.arrow"))
        for number, (path, rows) in enumerate(found.vectors.items()):
            fitted = ~np.isnan(rows[:, 0])
            part = VectorPart(shard.users.filter(pl.Series(fitted)), rows[fitted])
            if folder is not None:
                part = part.save(folder / f"vectors-{number}-{index:04d}.arrow")
            made.vectors[path].append(part)
        made.in_own_history += found.in_own_history
        made.not_converged += shard.users[sorted(found.not_converged)].to_list()
        made.done.add(found.done)
        if folder is not None:
            give_back()
    return made


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
