"""The events that a neural model reads: for each candidate, the newest that it sees in any of some histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Ints, Nums
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.histories.visibility import visible, visible_end
from extembed_cli.kernels.segments import padded
from extembed_cli.spec.model import Spec

BATCH_EVENTS = 8192  # of a scored batch: so few that its tensors stay near the processor's cache
FEWEST_ROWS = 16
_KEYS = 2**18  # events looked at together, of all candidates and histories


@dataclass(frozen=True)
class Examples:
    """Q candidates, and the N events that are in any of H histories."""

    rows: Ints
    """(Q) where each candidate stood in the input"""
    times: Ints
    """(Q) as-of times, us"""
    items: Nums
    """(Q) -1 = null"""
    starts: Ints
    """(Q, H) what each candidate sees of a history: from here ..."""
    ends: Ints
    """(Q, H) ... to before here, among the events of that history"""
    most: int
    """The newest so many are read."""
    lengths: Ints
    """(Q) how many those are"""
    of_history: Sequence[Ints]
    """(H) which of the N events are in it, ascending"""
    event_items: Nums
    """(N)"""
    event_times: Ints
    """(N) us"""

    def padded(self, chosen: Ints, length: int) -> PaddedRows:
        """Some of the candidates (B), the events that they read padded to a length."""
        read = newest(self.starts[chosen], self.ends[chosen], self.of_history, self.most)
        shape = len(chosen), length
        row, at = np.nonzero(read.place < read.count[:, None])  # of each event in each history that shows it
        place = read.count[row] - 1 - read.place[row, at]  # the oldest first
        events, members = np.zeros(shape, np.int64), np.zeros((*shape, len(self.of_history)), np.bool_)
        events[row, place] = read.events[row, at]
        members[row, place, read.histories[row, at]] = True
        ages = np.zeros(shape)
        ages[row, place] = (self.times[chosen[row]] - self.event_times[events[row, place]]) / 1e6
        items = np.repeat(self.items[chosen, None], length, axis=1)  # in the padding: nothing that others decide
        items[row, place] = self.event_items[events[row, place]]
        return PaddedRows(self.items[chosen], items, members, ages)


@dataclass(frozen=True)
class PaddedRows:
    """B candidates with L events each, the newest last, then padding."""

    candidates: Nums
    """(B) items"""
    events: Nums
    """(B, L) items; the candidate's in the padding"""
    members: Bools
    """(B, L, H) which histories an event is seen in; none in the padding"""
    ages: Doubles
    """(B, L) seconds"""


@dataclass(frozen=True)
class Newest:
    """Of B candidates, K sightings of events in histories, newest first; where there is none, a place beyond all."""

    events: Ints
    """(B, K) ascending by age; an event stands as often as histories show it"""
    histories: Ints
    """(B, K)"""
    place: Ints
    """(B, K) that of the event among those that are read, 0 = the newest"""
    count: Ints
    """(B) how many events are read"""


def newest(starts: Ints, ends: Ints, of_history: Sequence[Ints], most: int) -> Newest:
    """The newest `most` events of the union of what the histories show, starts and ends (B, H).

    None of them is older than the newest `most` of a history that shows it, so no more of each is looked at.
    """
    B, H = starts.shape
    reach = np.minimum(ends - starts, most)
    back = np.arange(max(1, int(reach.max(initial=0))))
    keys = np.full((B, H, len(back)), -1)  # event and history
    for h, events in enumerate(of_history):
        if len(events):
            at = np.maximum(ends[:, h, None] - 1 - back, 0)
            keys[:, h] = np.where(back < reach[:, h, None], events[at] * H + h, -1)
    flat = keys.reshape(B, -1)
    flat.sort(axis=1)
    flat = flat[:, ::-1]
    events, histories = np.divmod(flat, H)  # −1 for none
    place = (np.diff(events, axis=1, prepend=-2) != 0).cumsum(1) - 1
    count = np.minimum(np.where(flat >= 0, place + 1, 0).max(axis=1), most)
    return Newest(events, histories, np.where(flat >= 0, place, np.iinfo(np.int64).max), count)


def examples(
    spec: Spec, histories: Sequence[str], max_events: int, history: History, candidates: Candidates
) -> Examples:
    """What the candidates of a shard see: strictly before their as-of times, less the lag, inside the windows.

    Of the events of any of the histories the newest `max_events` are read.
    """
    members = [spec.membership(name) for name in histories]
    history = history.in_order_of([expression for expression in members if expression is not None])
    end = visible_end(spec, history, candidates)
    seen = [visible(spec, name, history, candidates, end) for name in histories]
    used = np.zeros(len(history.times), np.bool_)
    for each in seen:
        used[each.events] = True
    among_used = np.cumsum(used) - 1
    of_history = [among_used[each.events] for each in seen]
    starts = np.stack([each.start for each in seen], axis=1)
    ends = np.maximum(starts, np.stack([each.end for each in seen], axis=1))
    reach = np.minimum(ends - starts, max_events)
    lengths = reach.max(axis=1)  # all that there are, unless histories show other events
    undecided = np.flatnonzero(lengths < np.minimum(reach.sum(axis=1), max_events))
    step = max(1, _KEYS // (len(histories) * max_events))
    for low in range(0, len(undecided), step):
        at = undecided[low : low + step]
        lengths[at] = newest(starts[at], ends[at], of_history, max_events).count
    return Examples(
        rows=candidates.rows,
        times=candidates.times,
        items=candidates.items,
        starts=starts,
        ends=ends,
        most=max_events,
        lengths=lengths,
        of_history=of_history,
        event_items=history.items[used],
        event_times=history.times[used],
    )


def fixed_batches(chosen: Ints, lengths: Ints) -> Iterator[tuple[Ints, int]]:
    """Candidates (B) of one padded length together, the longest first; the last batch repeats its last candidate.

    The shape of a batch depends on the length alone, so that no score depends on who shares it.
    """
    length = padded(lengths[chosen])
    order = chosen[np.argsort(-length, kind="stable")]
    length = np.sort(length)[::-1]
    cuts = np.flatnonzero(np.diff(length)) + 1
    for group, size in zip(np.split(order, cuts), np.split(length, cuts), strict=True):
        if not len(group):
            continue
        L = int(size[0])
        B = max(FEWEST_ROWS, BATCH_EVENTS // L // FEWEST_ROWS * FEWEST_ROWS)
        for at in range(0, len(group), B):
            yield group[np.minimum(np.arange(at, at + B), len(group) - 1)], L
