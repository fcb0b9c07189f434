"""The systems of technique 2 on a shard, and which of them share a matrix.

No event after an as-of time decides how its system is solved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Bools, Ints, Values
from extembed_cli.kernels.prefixes import BLOCK
from extembed_cli.kernels.ridge import longest_dual
from extembed_cli.kernels.segments import offsets, run_starts

MOST_SYSTEMS = 64  # that share the factor of a Newton step
BATCH_FLOATS = 2**19  # float64 and squares of it: a batch stays near the processor's cache


@dataclass
class Solves:
    """Counts and errors of what was solved."""

    rows: int = 0
    """Candidates scored, or owners with a vector"""
    primal: int = 0
    dual: int = 0
    residual: float = 0.0
    """Largest relative residual of a squared fit"""
    gradient: float = 0.0
    """Largest gradient of a logistic fit"""

    def add(self, other: Solves) -> None:
        """Add those of other systems."""
        self.rows += other.rows
        self.primal += other.primal
        self.dual += other.dual
        self.residual = max(self.residual, other.residual)
        self.gradient = max(self.gradient, other.gradient)


@dataclass(frozen=True)
class Systems:
    """Systems: the candidates [first, last) of one owner and as-of time, with the usable events [low, high)."""

    first: Ints
    last: Ints
    low: Ints
    high: Ints

    @property
    def length(self) -> Ints:
        return self.high - self.low

    def take(self, chosen: Values) -> Systems:
        """Return the chosen ones."""
        return Systems(self.first[chosen], self.last[chosen], self.low[chosen], self.high[chosen])

    @classmethod
    def concat(cls, parts: Sequence[Systems]) -> Systems:
        """Return the systems of all parts."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class SystemGroup(NamedTuple):
    """Systems that share kernel matrices of one size."""

    low: Ints
    """The first event of each matrix"""
    parts: list[Systems]
    """The systems of each matrix"""
    length: int
    """Events of a matrix, with padding"""
    alone: bool
    """Whether each matrix is of one system, and so without padding"""


def distinct(owners: Ints, times: Ints, start: Ints, end: Ints) -> Systems:
    """Return a system for each pair of owner and as-of time that sees an event: those of [start, end), (Q) each."""
    first = run_starts(owners, times)
    last = np.append(first[1:], len(owners))
    filled = end[first] > start[first]
    return Systems(first[filled], last[filled], start[first[filled]], end[first[filled]])


def sessions(owners: Ints, times: Ints, span: int | None) -> Ints:
    """Return where runs of systems (n) begin that share one factor, and where the last one ends.

    A run has the systems of an owner whose as-of times are within a span (us) of the first; without one, all of them.
    """

    def end(at: int, high: int) -> int:
        return high if span is None else at + int(np.searchsorted(times[at:high], times[at] + span, "right"))

    return np.append(_runs(owners, end), len(owners))


def _runs(owners: Ints, end: Callable[[int, int], int]) -> Ints:
    """Return where runs of an owner's systems begin; `end(place, high)` is the end of the run from a place on."""
    begin: list[int] = []
    for low, high in pairwise([*run_starts(owners).tolist(), len(owners)]):
        at = low
        while at < high:
            begin.append(at)
            at = end(at, high)
    return np.array(begin, np.int64)


def groups(systems: Systems, owners: Ints, dim: int, alone: Bools) -> Iterator[SystemGroup]:
    """Yield groups of systems with kernel matrices of one length, one matrix for each owner, the longest first.

    owners (n) of the systems; alone (n): whether a system shares its matrix with no other, which no event decides.
    """
    if not len(systems.first):
        return
    begin = _shared(systems, np.where(alone, -1 - np.arange(len(owners)), owners), longest_dual(dim))
    end = np.append(begin[1:], len(systems.first))
    low, high = systems.low[begin], systems.high[end - 1]
    alone = alone[begin]
    length = np.where(alone, high - low, whole_blocks(high - low))
    order = np.lexsort((length, alone))[::-1]
    for a, b in pairwise([*run_starts(alone[order], length[order]).tolist(), len(order)]):
        H = int(length[order[a]])
        size = max(1, BATCH_FLOATS // (H * max(H, dim)))
        for at in range(a, b, size):
            chosen = order[at : min(at + size, b)]
            parts = [systems.take(np.arange(begin[i], end[i])) for i in chosen]
            yield SystemGroup(low[chosen], parts, H, alone=bool(alone[chosen[0]]))


def _shared(systems: Systems, owners: Ints, most: int) -> Ints:
    """Return the first system of each run of an owner's systems whose events are few enough for one matrix.

    A run ends where the matrix would get too large: what comes later does not decide that.
    """

    def end(at: int, high: int) -> int:
        return at + max(1, int(np.searchsorted(systems.high[at:high], systems.low[at] + most, side="right")))

    return _runs(owners, end)


def in_pieces(begin: Ints, end: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    """Cut runs [begin, end) into pieces of at most `most`: the run of each piece, its begin and its end."""
    counts = -(-(end - begin) // most)
    run = np.repeat(np.arange(len(begin)), counts)
    first = begin[run] + most * (np.arange(len(run)) - np.repeat(offsets(counts)[:-1], counts))
    return run, first, np.minimum(first + most, end[run])


def alike(width: Ints, length: Ints, dim: int) -> Iterator[tuple[Ints, tuple[int, int]]]:
    """Yield places of equal width and length, as many as a batch holds, the longest first; and the two numbers."""
    order = np.lexsort((width, length))[::-1]
    for a, b in pairwise([*run_starts(width[order], length[order]).tolist(), len(order)]):
        shape = int(width[order[a]]), int(length[order[a]])
        size = max(1, BATCH_FLOATS // (max(shape) * max(shape[1], dim)))
        for at in range(a, b, size):
            yield order[at : min(at + size, b)], shape


def whole_blocks(lengths: Ints) -> Ints:
    """Return numbers of events, rounded up to whole blocks."""
    return -(-lengths // BLOCK) * BLOCK
