"""Shards one after another in this process, the pieces of each over threads with one BLAS thread apiece."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from extembed_cli.data.inputs import Totals
from extembed_cli.data.scratch import Scratch
from extembed_cli.data.shard_results import FeaturePart, ShardMade, VectorPart
from extembed_cli.features.compute import Shared, compute_shard
from extembed_cli.features.technique.done import Done
from extembed_cli.histories.csr import Shard
from extembed_cli.spec.model import Spec
from extembed_cli.system.memory import give_back
from extembed_cli.system.threads import Mapping

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_KEPT = 64  # results, while an earlier one is waited for


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
    not_converged: list[str] = field(default_factory=list)
    """Ids of users with a logistic fit whose gradient is above 1e-6."""
    done: Done = field(default_factory=Done)
    totals: Totals = field(default_factory=Totals)
    resumed: int = 0
    """Shards that an earlier run had finished."""

    def add(self, shard: ShardMade, files: Iterable[str]) -> None:
        """Add what one shard made."""
        self.features.append(shard.features)
        for path, part in zip(files, shard.vectors, strict=True):
            self.vectors[path].append(part)
        self.in_own_history += shard.about["in_own_history"]
        self.not_converged += shard.about["not_converged"]
        self.done.add(Done.from_dict(shard.about["done"]))
        self.totals.add(Totals(**shard.about["totals"]))


def compute(
    spec: Spec,
    shared: Shared,
    shards: int,
    encoded: Callable[[int], tuple[Shard, Totals]],
    vectors_as_of: int,
    mapped: Mapping,
    *,
    scratch: Scratch | None = None,
    progress: Callable[[float], None] = lambda rows: None,
) -> Made:
    """Features of the candidates and vectors of the users of all shards, each made by `encoded` when its turn comes.

    With a scratch folder what a shard made goes into files there, and what is finished there is not made again;
    `progress` hears of rows as they are done.
    """
    made = Made()
    for index in range(shards):
        found = ShardMade.load(scratch, index) if scratch is not None else None
        if found is not None:
            made.resumed += 1
            progress(float(len(found.features.rows)))
        else:
            found = _made(spec, shared, *encoded(index), vectors_as_of, mapped, progress)
            if scratch is not None:
                found = found.save(scratch, index)
                give_back()
        made.add(found, shared.vector_files)
    return made


def _made(
    spec: Spec,
    shared: Shared,
    shard: Shard,
    totals: Totals,
    vectors_as_of: int,
    mapped: Mapping,
    progress: Callable[[float], None],
) -> ShardMade:
    found = compute_shard(spec, shared, shard.history, shard.asked, vectors_as_of, mapped, progress)
    vectors = []
    for rows in found.vectors.values():
        fitted = ~np.isnan(rows[:, 0])
        vectors.append(VectorPart(shard.users.filter(pl.Series(fitted)), rows[fitted]))
    about = {
        "in_own_history": found.in_own_history,
        "not_converged": [str(user) for user in shard.users.gather(sorted(found.not_converged))],
        "done": asdict(found.done),
        "totals": asdict(totals),
    }
    return ShardMade(FeaturePart.of(shard.asked.rows, found.columns, mapped), vectors, about)


def _in_flight(
    pool: ThreadPoolExecutor, run: Callable[[Piece], Result], pieces: Iterable[Piece], most: int
) -> Iterator[Result]:
    """`map` over threads with a bounded number of pieces under way; on an error the rest is cancelled.

    A piece that takes long keeps nobody waiting: what was begun after it is finished and kept for its turn.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(run, piece))
            while len(running := [future for future in waiting if not future.done()]) >= most:
                wait(running, return_when=FIRST_COMPLETED)
            while waiting and (waiting[0].done() or len(waiting) >= _KEPT):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
