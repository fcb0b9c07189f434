"""Work over threads, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Item = TypeVar("Item")

_KEPT = 64  # results at most, while an earlier one is not ready


class Mapping(Protocol):
    """A `map` over pieces of work with results in order: over threads, or the built-in one."""

    def __call__(self, run: Callable[[Piece], Result], pieces: Iterable[Piece], /) -> Iterable[Result]: ...


@contextmanager
def threads(workers: int) -> Iterator[Mapping]:
    """Yield a `map` over threads with one BLAS thread in each: the bits of a product depend on that number."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers, "extembed") as pool:

        def over_threads(run: Callable[[Piece], Result], pieces: Iterable[Piece], /) -> Iterator[Result]:
            return _in_flight(pool, run, pieces, 2 * workers)

        yield over_threads


@contextmanager
def prefetched(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Yield the same items, with the next one computed in a thread while one is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:

        def results() -> Iterator[Item]:
            waiting = thread.submit(_next, items)
            while item := waiting.result():
                waiting = thread.submit(_next, items)
                yield item[0]

        yield results()


def _next(items: Iterator[Item]) -> list[Item]:
    """Return the next item in a list, which is empty at the end."""
    return list(islice(items, 1))


def _in_flight(
    pool: ThreadPoolExecutor, run: Callable[[Piece], Result], pieces: Iterable[Piece], most: int
) -> Iterator[Result]:
    """Yield results of a `map` over threads with at most `most` pieces running; on an error the rest is cancelled.

    A slow piece does not block the others: later results are kept until it is their turn.
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
