"""The events that a neural model reads: the newest visible events of each candidate in any of the histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Nums
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.histories.visibility import visible, visible_end
from extembed_cli.kernels.segments import padded
from extembed_cli.neural.config import EventValue
from extembed_cli.spec.model import Spec

BATCH_EVENTS = 8192  # events of a scored batch; its tensors then fit the processor's cache
MIN_BATCH_ROWS = 16
_MAX_KEYS = 2**18  # events compared at a time, over candidates and histories


@dataclass(frozen=True)
class Examples:
    """Q candidates, and the N events of their users that are in any of H histories."""

    rows: Ints
    """(Q) row of each candidate in the input"""
    times: Ints
    """(Q) as-of times, us"""
    items: Nums
    """(Q) -1 = null"""
    starts: Ints
    """(Q, H) first visible event of each candidate, as an index into the events of a history"""
    ends: Ints
    """(Q, H) end of the visible events, exclusive"""
    max_events: int
    """The model reads at most this many of the newest visible events."""
    lengths: Ints
    """(Q) number of events that the model reads"""
    history_events: Sequence[Ints]
    """(H) which of the N events are in each history, ascending"""
    event_items: Nums
    """(N)"""
    event_times: Ints
    """(N) us"""
    event_values: Doubles | None = None
    """(N, V) standardized values, NaN for null; None = the model reads none"""

    def padded(self, chosen: Ints, length: int) -> PaddedRows:
        """Return the chosen candidates (B) with the events that the model reads, padded to a length."""
        read = newest_events(self.starts[chosen], self.ends[chosen], self.history_events, self.max_events)
        shape = len(chosen), length
        row, k = np.nonzero(read.rank < read.count[:, None])  # each event in each history that has it
        position = read.count[row] - 1 - read.rank[row, k]  # the oldest first
        events, members = np.zeros(shape, np.int64), np.zeros((*shape, len(self.history_events)), np.bool_)
        events[row, position] = read.events[row, k]
        members[row, position, read.histories[row, k]] = True
        ages = np.zeros(shape)
        ages[row, position] = (self.times[chosen[row]] - self.event_times[events[row, position]]) / 1e6
        items = np.repeat(self.items[chosen, None], length, axis=1)  # the padding must not depend on other candidates
        items[row, position] = self.event_items[events[row, position]]
        values = None
        if self.event_values is not None:
            values = np.full((*shape, self.event_values.shape[1]), np.nan, np.float32)
            values[row, position] = self.event_values[events[row, position]]
        return PaddedRows(self.items[chosen], items, members, ages, values)


@dataclass(frozen=True)
class PaddedRows:
    """B candidates with L events each: the oldest first, the newest last, then padding."""

    candidates: Nums
    """(B) items"""
    events: Nums
    """(B, L) items; in the padding the item of the candidate"""
    members: Bools
    """(B, L, H) whether an event is visible in a history; False in the padding"""
    ages: Doubles
    """(B, L) seconds"""
    values: Floats | None = None
    """(B, L, V) NaN for null and in the padding"""


@dataclass(frozen=True)
class NewestEvents:
    """Up to K pairs of an event and a history that has it for each of B candidates, newest first."""

    events: Ints
    """(B, K) ascending by age; an event appears once for each history that has it"""
    histories: Ints
    """(B, K)"""
    rank: Ints
    """(B, K) rank of the event by age, 0 = the newest; a very large number where there is no pair"""
    count: Ints
    """(B) number of events that the model reads"""


def newest_events(starts: Ints, ends: Ints, history_events: Sequence[Ints], max_events: int) -> NewestEvents:
    """Return the newest `max_events` visible events in the union of the histories; starts and ends are (B, H).

    Each of them is among the newest `max_events` of every history that has it, so only those are compared.
    """
    B, H = starts.shape
    reach = np.minimum(ends - starts, max_events)
    back = np.arange(max(1, int(reach.max(initial=0))))
    keys = np.full((B, H, len(back)), -1)  # event and history
    for h, events in enumerate(history_events):
        if len(events):
            indices = np.maximum(ends[:, h, None] - 1 - back, 0)
            keys[:, h] = np.where(back < reach[:, h, None], events[indices] * H + h, -1)
    flat = keys.reshape(B, -1)
    flat.sort(axis=1)
    flat = flat[:, ::-1]
    events, histories = np.divmod(flat, H)  # −1 for no event
    rank = (np.diff(events, axis=1, prepend=-2) != 0).cumsum(1) - 1
    count = np.minimum(np.where(flat >= 0, rank + 1, 0).max(axis=1), max_events)
    return NewestEvents(events, histories, np.where(flat >= 0, rank, np.iinfo(np.int64).max), count)


@dataclass(frozen=True)
class Reading:
    """What a model reads of an event."""

    histories: Sequence[str]
    max_events: int
    """The newest of the events that are in any of the histories"""
    values: Sequence[EventValue] = ()


def build_examples(spec: Spec, reading: Reading, history: History, candidates: Candidates) -> Examples:
    """Return the candidates of a shard with their visible events, strictly before the as-of time."""
    histories, max_events = reading.histories, reading.max_events
    members = [spec.membership(name) for name in histories]
    used_values = [*members, *(value.expression for value in reading.values)]
    history = history.in_order_of([expression for expression in used_values if expression is not None])
    end = visible_end(spec, history, candidates)
    by_history = [visible(spec, name, history, candidates, end) for name in histories]
    used = np.zeros(len(history.times), np.bool_)
    for seen in by_history:
        used[seen.events] = True
    index_among_used = np.cumsum(used) - 1
    history_events = [index_among_used[seen.events] for seen in by_history]
    starts = np.stack([seen.start for seen in by_history], axis=1)
    ends = np.maximum(starts, np.stack([seen.end for seen in by_history], axis=1))
    reach = np.minimum(ends - starts, max_events)
    lengths = reach.max(axis=1)  # right if one history has all events of the others
    undecided = np.flatnonzero(lengths < np.minimum(reach.sum(axis=1), max_events))
    step = max(1, _MAX_KEYS // (len(histories) * max_events))
    for low in range(0, len(undecided), step):
        rows = undecided[low : low + step]
        lengths[rows] = newest_events(starts[rows], ends[rows], history_events, max_events).count
    return Examples(
        rows=candidates.rows,
        times=candidates.times,
        items=candidates.partners,
        starts=starts,
        ends=ends,
        max_events=max_events,
        lengths=lengths,
        history_events=history_events,
        event_items=history.partners[used],
        event_times=history.times[used],
        event_values=_standardized(history, used, reading.values),
    )


def _standardized(history: History, used: Bools, values: Sequence[EventValue]) -> Doubles | None:
    """Return the values of the used events (n, V)."""
    if not values:
        return None
    return np.stack([value.of(history.values[value.expression][used]) for value in values], axis=1)


def fixed_batches(chosen: Ints, lengths: Ints) -> Iterator[tuple[Ints, int]]:
    """Yield batches of candidates (B) with one padded length, the longest first; the last batch repeats its last one.

    The shape of a batch depends on the length alone, so that no score depends on the other candidates.
    """
    length = padded(lengths[chosen])
    order = chosen[np.argsort(-length, kind="stable")]
    length = np.sort(length)[::-1]
    cuts = np.flatnonzero(np.diff(length)) + 1
    for group, size in zip(np.split(order, cuts), np.split(length, cuts), strict=True):
        if not len(group):
            continue
        L = int(size[0])
        B = max(MIN_BATCH_ROWS, BATCH_EVENTS // L // MIN_BATCH_ROWS * MIN_BATCH_ROWS)
        for low in range(0, len(group), B):
            yield group[np.minimum(np.arange(low, low + B), len(group) - 1)], L
