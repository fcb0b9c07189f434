"""What a neural model reads of a shard: of each candidate, the newest events that it sees in any of some histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.visibility import visible, visible_end
from extembed_cli.spec import Spec

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_ROWS = 4096  # candidates looked at together


@dataclass(frozen=True)
class Examples:
    """Q candidates, and N events of their users that are in any of H histories."""

    rows: Ints
    """(Q) where each candidate stood in the input"""
    times: Ints
    """(Q) as-of times, us"""
    items: NDArray[np.int32]
    """(Q) -1 = null"""
    first: Ints
    """(Q) the first event that is read ..."""
    end: Ints
    """(Q) ... and the one after the last"""
    lengths: Ints
    """(Q) how many of those are visible, and so are read"""
    starts: Ints
    """(Q, H) the first event that is visible in each history"""
    event_items: NDArray[np.int32]
    """(N)"""
    event_times: Ints
    """(N)"""
    members: Bools
    """(N, H) which histories an event is in"""

    def padded(self, chosen: Ints, length: int) -> PaddedRows:
        """Some of the candidates (B), their visible events padded to a length."""
        span = max(length, int((self.end - self.first)[chosen].max()))
        at = self.first[chosen, None] + np.arange(span)  # (B, span)
        inside = at < self.end[chosen, None]
        at = np.minimum(at, np.maximum(self.end[chosen, None] - 1, 0))
        members = self.members[at] & (at[:, :, None] >= self.starts[chosen, None]) & inside[:, :, None]
        visible = members.any(2)
        if (visible != inside).any():  # out of a window: what is visible comes first, its order kept
            order = np.argsort(~visible, axis=1, kind="stable")
            at = np.take_along_axis(at, order, 1)[:, :length]
            members = np.take_along_axis(members, order[:, :, None], 1)[:, :length]
        ages = np.where(members.any(2), (self.times[chosen, None] - self.event_times[at]) / 1e6, 0.0)
        return PaddedRows(self.items[chosen], self.event_items[at], members, ages)


@dataclass(frozen=True)
class PaddedRows:
    """B candidates with L events each, the newest last, then padding."""

    candidates: NDArray[np.int32]
    """(B) items"""
    events: NDArray[np.int32]
    """(B, L) items; anything in the padding"""
    members: Bools
    """(B, L, H) which histories an event is seen in; none in the padding"""
    ages: NDArray[np.float64]
    """(B, L) seconds"""


def examples(
    spec: Spec, histories: Sequence[str], max_events: int, history: History, candidates: Candidates
) -> Examples:
    """What the candidates of a shard see: strictly before their as-of times, less the lag, inside the windows.

    Of the events of any of the histories the newest `max_events` are read.
    """
    total = len(history.times)
    flags = np.stack([history.members.get(name, np.ones(total, np.bool_)) for name in histories], axis=1)
    used = flags.any(1)
    before = np.concatenate([[0], np.cumsum(used)])  # events used before each of the shard's
    end = visible_end(spec, history, candidates)
    starts = np.empty((len(end), len(histories)), np.int64)
    for place, name in enumerate(histories):
        seen = visible(spec, name, history, candidates, end)
        where = np.append(seen.events, total)[np.minimum(seen.start, len(seen.events))]  # among the shard's events
        starts[:, place] = before[np.where(seen.start < seen.end, where, end)]
    end = before[end]
    members = flags[used]
    oldest = np.minimum(starts.min(1), end)
    first = np.maximum(oldest, end - max_events)
    lengths = end - first
    rules = [spec.history(name) for name in histories]
    if any(rule.window is not None or rule.max_events is not None for rule in rules):  # else all from the oldest on
        for low in range(0, len(end), _ROWS):
            at = slice(low, low + _ROWS)
            first[at], lengths[at] = _newest_visible(oldest[at], end[at], starts[at], members, max_events)
    return Examples(
        rows=candidates.rows,
        times=candidates.times,
        items=candidates.items,
        first=first,
        end=end,
        lengths=lengths,
        starts=starts,
        event_items=history.items[used],
        event_times=history.times[used],
        members=members,
    )


def _newest_visible(oldest: Ints, end: Ints, starts: Ints, members: Bools, most: int) -> tuple[Ints, Ints]:
    """(Q) where the newest `most` visible events begin, and how many there are: looked for in ever longer stretches."""
    first, count = oldest.copy(), np.zeros(len(end), np.int64)
    left, span = np.flatnonzero(end > oldest), most
    while len(left):
        at = end[left, None] - 1 - np.arange(span)  # (q, span), the newest first
        inside = at >= oldest[left, None]
        visible = (members[np.maximum(at, 0)] & (at[:, :, None] >= starts[left, None])).any(2) & inside
        so_far = visible.cumsum(1)
        enough = so_far[:, -1] >= most
        count[left] = np.minimum(so_far[:, -1], most)
        place = np.argmax(so_far >= most, axis=1)
        first[left[enough]] = at[enough, place[enough]]
        left = left[~enough & (end[left] - span > oldest[left])]
        span *= 2
    return first, count
