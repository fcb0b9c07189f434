"""Means of vectors: the cosine of a candidate with the decayed mean of its history, and the decayed mean of cosines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from extembed_cli.features.done import Done
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Pieces, Slice, cut
from extembed_cli.features.table_statistics import TableStatistics
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.decay import BLOCK, Sum, decayed_sums
from extembed_cli.watch import Cost

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

# Below this length, relative to the weight summed, the direction of a mean is the rounding of the stored vectors.
_ZERO_MEAN = 1e-6
_CANDIDATES = 2048  # of a user for whom the events are summed up once
FLOATS = 2**19  # vector elements gathered at a time: their sums stay near the processor


class CosineMeans(TableStatistics):
    """Of each candidate, with the decayed sum of the vectors that it sees:

        m = Σ w v,    cos_to_mean = q · m / |m|,    cos_mean = q · m / Σ w

    Sums after every event are float64: what a window shows is a difference of two of them.
    """

    kinds: ClassVar[set[str]] = {"cos_mean", "cos_to_mean"}

    def batches(self) -> Iterator[Pieces]:
        """What `compute` is to be called with."""
        if not self.found:
            return iter(())
        pieces = cut(self.events.candidates.indptr, self.events.seen, self.wanted, _CANDIDATES, BLOCK)
        dim = self.matrix.vectors.shape[1]
        return pieces.batches((pieces.events + pieces.last - pieces.first) * dim, 8 * FLOATS)

    def compute(self, pieces: Pieces) -> Done:
        """Fill in what the candidates of some pieces get."""
        began = time.perf_counter()
        vectors = self.matrix.vectors
        batch = Batch(pieces, self.events.seen, self.wanted)
        events, slots = self.slots_of(batch)
        # The first row of a block is kept free for the sum before it.
        blocks = np.insert(slots.reshape(-1, BLOCK), 0, self.matrix.missing, axis=1)
        sums = {half_life: _Sums(batch, self.events, half_life, events) for half_life in self.half_lives}
        for part in batch.slices(FLOATS // vectors.shape[1]):
            values = vectors.take(blocks[part.events.start // BLOCK : part.events.stop // BLOCK], axis=0)
            for each in sums.values():
                rows, m = each.add(part, values)
                each.project(rows, m, vectors.take(self.slots[batch.q[rows]], axis=0))
        for half_life, each in sums.items():
            totals, unsure = self.events.totals(half_life)
            for row in np.flatnonzero(np.isin(batch.q, unsure)).tolist():
                at, weights = self.events.weights_of(half_life, int(batch.q[row]))
                m = weights @ vectors[self.event_slots[at]].astype(np.float64)
                each.project(slice(row, row + 1), m[None], vectors[self.slots[batch.q[row]]][None])
            total = totals[batch.q]
            directed = each.length > _ZERO_MEAN * total
            to_mean = np.where(directed, each.along / np.where(directed, each.length, 1), np.nan)
            self.put("cos_mean", batch.q, clipped(each.along / total), half_life)
            self.put("cos_to_mean", batch.q, clipped(to_mean), half_life)
        return Done(stages={"means": Cost(time.perf_counter() - began, len(batch.q))})


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
        self.along, self.length = np.empty(len(batch.q)), np.empty(len(batch.q))
        """(R) q · m and |m|, relative to the newest event"""
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
        sums = sums.reshape(high - low, -1)
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

    def project(self, rows: slice, m: Doubles, candidates: Floats) -> None:
        """Take down what is needed of the sums m (n, d) that some rows see, whose candidates are (n, d)."""
        self.along[rows] = np.vecdot(m, candidates.astype(np.float64))
        self.length[rows] = np.sqrt(np.vecdot(m, m))


def _within(places: Ints, low: int, high: int) -> slice:
    """Which of some ascending places are in [low, high)."""
    return slice(*np.searchsorted(places, [low, high]).tolist())
