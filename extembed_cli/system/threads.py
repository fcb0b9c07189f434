"""Pieces of work over threads, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Item = TypeVar("Item")

_KEPT = 64  # results, while an earlier one is waited for


class Mapping(Protocol):
    """A function over pieces of work, the results in order: threads, or the built-in `map`."""

    def __call__(self, run: Callable[[Piece], Result], pieces: Iterable[Piece], /) -> Iterable[Result]: ...


@contextmanager
def threads(workers: int) -> Iterator[Mapping]:
    """A `map` over threads, with one BLAS thread in each: more would change the bits of a product with their number."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers, "extembed") as pool:

        def over_threads(run: Callable[[Piece], Result], pieces: Iterable[Piece], /) -> Iterator[Result]:
            return _in_flight(pool, run, pieces, 2 * workers)

        yield over_threads


@contextmanager
def ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """The same items; a thread makes the next one while one is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:

        def made() -> Iterator[Item]:
            waiting = thread.submit(next, items, None)
            while (item := waiting.result()) is not None:
                waiting = thread.submit(next, items, None)
                yield item

        yield made()


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
