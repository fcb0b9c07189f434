"""What each candidate may see: point-in-time correctness lives here and in `kernels.ranges`, nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.histories import Candidates, History
from extembed_cli.kernels.ranges import first_at_or_after, newest_members
from extembed_cli.spec import Spec, duration_us

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Visible:
    """What each candidate sees of one history: `count` events in [start, end), the newest at `newest` or -1."""

    start: Ints
    end: Ints
    count: Ints
    newest: Ints


def visible(spec: Spec, name: str, history: History, candidates: Candidates, end: Ints | None = None) -> Visible:
    """What candidates see of a history: events in [t - window, t - lag), the newest `max_events` of its members.

    All histories end at the same positions, so those of another may be given.
    """
    rules = spec.history(name)
    users = candidates.users
    if end is None:
        end = first_at_or_after(history.indptr, history.times, users, candidates.times - duration_us(spec.lag))
    start = history.indptr[users]
    if rules.window is not None:
        start = first_at_or_after(history.indptr, history.times, users, candidates.times - duration_us(rules.window))
        start = np.minimum(start, end)  # a window shorter than the lag sees nothing
    return Visible(end=end, **_newest(history.members.get(name), start, end, rules.max_events))


def visible_with(seen: Visible, name: str, history: History, usable: NDArray[np.bool_]) -> Visible:
    """The part of what is seen that is `usable` (N): events whose item has a vector."""
    members = history.members.get(name)
    usable = usable if members is None else usable & members
    return Visible(end=seen.end, **_newest(usable, seen.start, seen.end, None))


def in_own_history(history: History, candidates: Candidates, end: Ints) -> int:
    """How many candidates' items stand among the events their user has in view: repeats, or a leak in the log."""
    if not len(history.items) or not len(candidates.items):
        return 0
    n_items = int(max(history.items.max(), candidates.items.max())) + 1
    owners = np.repeat(np.arange(len(history.indptr) - 1), np.diff(history.indptr))
    pairs, first = np.unique(owners * n_items + history.items, return_index=True)
    wanted = candidates.users * n_items + candidates.items
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return int(np.count_nonzero((pairs[at] == wanted) & (candidates.items >= 0) & (first[at] < end)))


def _newest(members: NDArray[np.bool_] | None, start: Ints, end: Ints, max_events: int | None) -> dict[str, Ints]:
    start, count, newest = newest_members(members, start, end, max_events)
    return {"start": start, "count": count, "newest": newest}
