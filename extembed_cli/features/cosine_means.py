"""Means of vectors: the cosine of a candidate with the decayed mean of its history, and the decayed mean of cosines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from extembed_cli.features.done import Done
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Pieces, Slice, cut
from extembed_cli.features.table_statistics import TableStatistics
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.decay import BLOCK, Sum, decayed_sums, visible_sums
from extembed_cli.kernels.segments import rectangle, run_starts
from extembed_cli.watch import Cost

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

# Below this length, relative to the weight summed, the direction of a mean is the rounding of the stored vectors.
_ZERO_MEAN = 1e-6
_CANDIDATES = 2048  # of a user for whom the events are summed up once
_FEW = 16  # candidates: a product for each is then cheaper than sums after every event
_FEW_BLOCK = 32  # events of such a product
FLOATS = 2**19  # vector elements gathered at a time: their sums stay near the processor


class CosineMeans(TableStatistics):
    """Of each candidate, with the decayed sum of the vectors that it sees:

        m = Σ w v,    cos_to_mean = q · m / |m|,    cos_mean = q · m / Σ w

    Sums are float64. Those after every event serve all candidates: what a window shows is a difference of two.
    """

    kinds: ClassVar[set[str]] = {"cos_mean", "cos_to_mean"}

    def batches(self) -> Iterator[Pieces]:
        """What `compute` is to be called with."""
        if not self.found:
            return
        candidates, seen = self.events.candidates, self.events.seen
        few = np.diff(candidates.indptr)[candidates.users] <= _FEW
        for chosen, block in ((few, _FEW_BLOCK), (~few, BLOCK)):
            some = cut(candidates.indptr, seen, self.wanted & chosen, _CANDIDATES, block)
            some = some.take(np.lexsort((some.shape, some.events)))
            floats = (some.events + some.shape) * self.matrix.vectors.shape[1]
            yield from some.batches(floats, 8 * FLOATS)

    def compute(self, pieces: Pieces) -> Done:
        """Fill in what the candidates of some pieces get, which are all few or all many."""
        began = time.perf_counter()
        batch = Batch(pieces, self.events.seen, self.wanted)
        (self._few if pieces.block[0] == _FEW_BLOCK else self._many)(batch)
        return Done(stages={"means": Cost(time.perf_counter() - began, len(batch.q))})

    def _many(self, batch: Batch) -> None:
        """From the sums after every event, which serve all candidates."""
        vectors = self.matrix.vectors
        events, slots = self.slots_of(batch)
        # The first row of a block is kept free for the sum before it.
        blocks = np.insert(slots.reshape(-1, BLOCK), 0, self.matrix.missing, axis=1)
        sums = {half_life: _Sums(batch, self.events, half_life, events) for half_life in self.half_lives}
        for part in batch.slices(FLOATS // vectors.shape[1]):
            values = vectors.take(blocks[part.events.start // BLOCK : part.events.stop // BLOCK], axis=0)
            for half_life, each in sums.items():
                rows, m = each.add(part, values)
                self._project(half_life, batch.q[rows], m)
        for half_life in self.half_lives:
            for q in batch.q[np.isin(batch.q, self.events.totals(half_life)[1])].tolist():
                at, weights = self.events.weights_of(half_life, q)
                m = weights @ vectors[self.event_slots[at]].astype(np.float64)
                self._project(half_life, np.array([q]), m[None])

    def _few(self, batch: Batch) -> None:
        """From a product for each candidate: cheaper than sums after every event where those are for few."""
        pieces, dim = batch.pieces, self.matrix.vectors.shape[1]
        events, slots = self.slots_of(batch)
        before: dict[str, Doubles] = {}
        clocks, weights = {h: self.events.clock(h) for h in self.half_lives}, self.events.weights
        for part in batch.slices(FLOATS // dim):
            values = self.matrix.vectors.take(slots[part.events], axis=0)
            mine = pieces.take(part.pieces)
            starts = run_starts(mine.shape, mine.events).tolist()
            for a, b in pairwise([*starts, len(mine)]):  # pieces of one shape
                low, high = part.pieces.start + a, part.pieces.start + b
                at = part.events if part.is_part else slice(*batch.events_at[[low, high]].tolist())
                some = values[at.start - part.events.start : at.stop - part.events.start]
                q, is_candidate = rectangle(pieces.first[low:high], pieces.last[low:high], int(mine.shape[a]))
                start, end = self.events.seen.start[q], self.events.seen.end[q]
                sees = is_candidate & self.wanted[q] & (end > start)
                origin = pieces.low[low:high, None] + (at.start - batch.events_at[low])
                w = None if weights is None else weights[events[at]].reshape(high - low, -1)
                for half_life, clock in clocks.items():
                    m = visible_sums(
                        some.reshape(high - low, -1, _FEW_BLOCK, dim),
                        clock[events[at]].reshape(high - low, -1),
                        w,
                        clock[np.maximum(end, 1) - 1],
                        start - origin,
                        end - origin,
                    )
                    if at.start > batch.events_at[low]:
                        m += before[half_life]
                    before[half_life] = m
                    self._project(half_life, q[sees], m[sees])

    def _project(self, half_life: str, q: Ints, m: Doubles) -> None:
        """Both cosines of candidates (n) from the sums m (n, d) that they see."""
        candidates = self.matrix.vectors.take(self.slots[q], axis=0).astype(np.float64)
        total, along, length = self.events.totals(half_life)[0][q], np.vecdot(m, candidates), np.sqrt(np.vecdot(m, m))
        directed = length > _ZERO_MEAN * total
        to_mean = np.where(directed, along / np.where(directed, length, 1), np.nan)
        self.put("cos_mean", q, clipped(along / total), half_life)
        self.put("cos_to_mean", q, clipped(to_mean), half_life)


class _Sums:
    """The decayed sums that the rows of a batch see, slice by slice."""

    def __init__(self, batch: Batch, events: EventList, half_life: str, of_batch: Ints) -> None:
        self.batch = batch
        self.clock = events.clock(half_life)[of_batch]
        self.weights = None if events.weights is None else events.weights[of_batch]
        self.last = batch.place + batch.counts - 1
        """(R) the place of the newest event that a row sees"""
        self.hides = bool(batch.hidden.any())
        self.before = batch.place - (batch.hidden > 0)
        """(R) the place of the last event before those that a row sees"""
        left = np.exp2(self.clock[self.before] - self.clock[self.last])
        self.left = np.where(batch.hidden > 0, left, 0)[:, None]
        """(R, 1) how much is left of the sum at that event when the newest one comes"""
        self.blocks = batch.pieces.events // BLOCK
        self.carried: Sum | None = None
        self.older = np.zeros((0, 0))

    def add(self, part: Slice, vectors: Floats) -> tuple[slice, Doubles]:
        """The next slice: the rows whose newest event is in it, and what they see, relative to that event."""
        low, high = part.events.start, part.events.stop
        begin, end = self.batch.events_at[part.pieces.start], self.batch.events_at[part.pieces.stop]
        weights = None if self.weights is None else self.weights[part.events].reshape(-1, BLOCK)
        blocks = np.array([(high - low) // BLOCK]) if part.is_part else self.blocks[part.pieces]
        carried = self.carried if low > begin else None
        sums = decayed_sums(vectors, self.clock[part.events].reshape(-1, BLOCK), weights, blocks, carried)
        self.carried = sums[-1], float(self.clock[high - 1])
        rows = _within(self.last, low, high)
        m = sums.take(self.last[rows] - low, axis=0)
        if self.hides:
            # What a row does not see any more may be of an earlier slice of the same piece.
            mine = _within(self.last, begin, end)
            if low == begin:
                self.older = np.zeros((mine.stop - mine.start, sums.shape[1]))
            new = _within(self.before[mine], low, high)
            self.older[new] = sums.take(self.before[mine][new] - low, axis=0)
            m -= self.left[rows] * self.older[rows.start - mine.start : rows.stop - mine.start]
        return rows, m


def _within(places: Ints, low: int, high: int) -> slice:
    """Which of some ascending places are in [low, high)."""
    return slice(*np.searchsorted(places, [low, high]).tolist())
