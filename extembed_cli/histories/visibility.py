"""What each candidate may see: point-in-time correctness lives here and in `kernels.ranges`, nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from extembed_cli.arrays import Bools, Ints
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.kernels.ranges import first_at_or_after
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

_PARTS = 8  # of the users, looked at side by side


@dataclass(frozen=True)
class Seen:
    """The events of a shard that count for something, by user, and what each candidate sees of them.

    Positions are among these events alone: of the N of the shard, user u has those at [indptr[u], indptr[u+1]), and
    candidate q sees those at [start[q], end[q]).
    """

    events: Ints
    """(n) where each stands among the events of the shard, ascending"""
    indptr: Ints
    start: Ints
    end: Ints
    moves: bool = False
    """Whether the first events are not seen for ever."""

    @cached_property
    def count(self) -> Ints:
        """(Q) how many events each candidate sees."""
        return self.end - self.start

    def only(self, counts: Bools) -> Seen:
        """The part that counts (N flags of the shard's events); the same object where all of it does."""
        chosen = counts[self.events]
        if chosen.all():
            return self
        before = np.concatenate([[0], np.cumsum(chosen)])
        return Seen(self.events[chosen], before[self.indptr], before[self.start], before[self.end], self.moves)


def visible(spec: Spec, name: str, history: History, candidates: Candidates, end: Ints | None = None) -> Seen:
    """What candidates see of a history: events in [t - window, t - lag), the newest `max_events` of its members.

    `end`, where known, is that of all events: it is the same for every history.
    """
    rules = spec.history(name)
    users = candidates.users
    if end is None:
        end = visible_end(spec, history, candidates)
    start = history.indptr[users]
    if rules.window is not None:
        start = first_at_or_after(history.indptr, history.times, users, candidates.times - duration_us(rules.window))
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
    """(Q) the position of the first event of its user that a candidate may not see any more."""
    cutoffs = candidates.times - duration_us(spec.lag)
    users = np.linspace(0, len(history.indptr) - 1, _PARTS + 1).astype(np.int64)

    def of_users(part: int) -> Ints:
        low, high = users[part : part + 2]
        events = slice(*history.indptr[[low, high]])
        rows = slice(*candidates.indptr[[low, high]])
        indptr = history.indptr[low : high + 1] - history.indptr[low]
        ends = first_at_or_after(indptr, history.times[events], candidates.users[rows] - low, cutoffs[rows])
        ends += history.indptr[low]
        return ends

    return np.concatenate(list(mapped(of_users, range(_PARTS))))


def in_own_history(history: History, candidates: Candidates, end: Ints) -> int:
    """How many candidates' items stand among the events their user has in view: repeats, or a leak in the log."""
    if not len(history.items) or not len(candidates.items):
        return 0
    n_items = int(max(history.items.max(), candidates.items.max())) + 1
    owners = np.repeat(np.arange(len(history.indptr) - 1), np.diff(history.indptr))
    events = pl.DataFrame({"pair": owners * n_items + history.items, "place": np.arange(len(owners))})
    pairs = pl.DataFrame({"pair": candidates.users * n_items + candidates.items, "end": end})
    pairs = pairs.filter(pl.Series(candidates.items >= 0))
    first = events.join(pairs, on="pair", how="semi").group_by("pair").agg(pl.col("place").min())
    return pairs.join(first, on="pair").filter(pl.col("place") < pl.col("end")).height
