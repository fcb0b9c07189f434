"""The events that each candidate may see. Only this module and `kernels.ranges` decide point-in-time correctness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from extembed_cli.arrays import Bools, Ints
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.kernels.ranges import first_at_or_after
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

_PARTS = 8  # of the owners, processed in parallel


@dataclass(frozen=True)
class Seen:
    """A selection of a shard's events by owner, and which of them each candidate sees.

    Positions count the selected events only: owner u has those at [indptr[u], indptr[u+1]), and candidate q sees those
    at [start[q], end[q]).
    """

    events: Ints
    """(n) the position of each among the N events of the shard, ascending"""
    indptr: Ints
    start: Ints
    end: Ints
    moves: bool = False
    """Whether old events can go out of view."""

    @cached_property
    def count(self) -> Ints:
        """(Q) the number of events that each candidate sees."""
        return self.end - self.start

    def only(self, flags: Bools) -> Seen:
        """Return the selection of flagged events (N flags of the shard); the same object if all are flagged."""
        chosen = flags[self.events]
        if chosen.all():
            return self
        before = np.concatenate([[0], np.cumsum(chosen)])
        return Seen(self.events[chosen], before[self.indptr], before[self.start], before[self.end], self.moves)


def visible(spec: Spec, name: str, history: History, candidates: Candidates, end: Ints | None = None) -> Seen:
    """Return what candidates see of a history: the newest `max_events` of its members in [t - window, t - lag).

    `end` is the result of `visible_end` if it is known: it is the same for every history.
    """
    rules = spec.history(name)
    owners = candidates.owners
    if end is None:
        end = visible_end(spec, history, candidates)
    start = history.indptr[owners]
    if rules.window is not None:
        start = first_at_or_after(history.indptr, history.times, owners, candidates.times - duration_us(rules.window))
        start = np.minimum(start, end)  # a window shorter than the lag sees nothing
    moves = rules.window is not None or rules.max_events is not None
    seen = Seen(np.arange(len(history.times)), history.indptr, start, end, moves)
    where = spec.membership(name)
    if where is not None:
        seen = seen.only(history.values[where])
    if rules.max_events is not None:
        seen = replace(seen, start=np.maximum(seen.start, seen.end - rules.max_events))
    return seen


def visible_end(spec: Spec, history: History, candidates: Candidates, mapped: Mapping = map) -> Ints:
    """Return the position (Q) of the owner's first event that each candidate may not see yet."""
    cutoffs = candidates.times - duration_us(spec.lag)
    owners = np.linspace(0, len(history.indptr) - 1, _PARTS + 1).astype(np.int64)

    def of_owners(part: int) -> Ints:
        low, high = owners[part : part + 2]
        events = slice(*history.indptr[[low, high]])
        rows = slice(*candidates.indptr[[low, high]])
        indptr = history.indptr[low : high + 1] - history.indptr[low]
        ends = first_at_or_after(indptr, history.times[events], candidates.owners[rows] - low, cutoffs[rows])
        ends += history.indptr[low]
        return ends

    return np.concatenate(list(mapped(of_owners, range(_PARTS))))
