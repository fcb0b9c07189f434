"""Statistics of the cosines of one table over one list of events, all of which have a vector in the table."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Values
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.features.aggregate.cosine_view import CosineView, Mean
from extembed_cli.features.aggregate.statistics import COSINES
from extembed_cli.features.technique.definitions import Parameters, Statistic
from extembed_cli.histories.batches import Batch, Pieces, Slice, cut
from extembed_cli.histories.event_lists import EventList
from extembed_cli.kernels.cosines import block_cosines, exact_cosines
from extembed_cli.kernels.decay import visible_sums
from extembed_cli.kernels.segments import offsets, spread
from extembed_cli.spec.expressions import Expression
from extembed_cli.system.progress import Cost

PAIRS = 2**18  # visible pairs of a batch: enough to hide Python's overhead, few enough for the processor's cache
FLOATS = 2**19  # vector elements gathered at a time
_CANDIDATES, _FEW_CANDIDATES = 64, 8  # of a piece
_LONG = 4096  # events: candidates that see more are multiplied a few at a time, so that their cosines fit in memory

_STAGES = ("gather", "cosines", "means", "statistics")
_SHORT_MEAN = 1e-2  # a shorter one is summed again in float64


@dataclass(frozen=True)
class _Gathered:
    """Vectors of k pieces of one shape, or of some events of one."""

    slice: Slice
    candidates: Values
    """(k, C, d)"""
    vectors: Values
    """(k, n, K, d) of the events, 0 in the padding"""
    start: Ints
    """(k, C) the first of these events that a candidate sees"""
    end: Ints


class _Sums:
    """Decayed sums of the vectors that the candidates of a batch see, and their products: by place, (A) each."""

    def __init__(self, events: EventList, half_life: str, candidates: Ints, of_batch: Ints) -> None:
        self.heights = events.heights(half_life, of_batch)
        self.total, exponent = np.frexp(events.totals(half_life)[candidates])
        newest = np.maximum(events.seen.end[candidates], 1) - 1
        self.reference = events.clock(half_life)[newest] + exponent
        self.along = np.zeros(len(candidates))
        """q · Σ w v, as `total` relative to the reference"""
        self.square = np.zeros(len(candidates))
        """|Σ w v|²"""
        self.so_far = np.zeros(0)

    def add(self, gathered: _Gathered) -> None:
        """Add events of some pieces."""
        at, shape = gathered.slice.candidates, gathered.start.shape
        heights, reference = self.heights[gathered.slice.events], self.reference[at]
        sums = visible_sums(
            gathered.vectors, heights.reshape(shape[0], -1), reference.reshape(shape), gathered.start, gathered.end
        )
        if gathered.slice.is_part:
            self.so_far = sums + self.so_far if gathered.slice.skipped else sums.astype(np.float64)
            sums = self.so_far.astype(sums.dtype)
        self.along[at] = np.vecdot(sums, gathered.candidates).ravel()
        self.square[at] = np.vecdot(sums, sums).ravel()

    def of(self, batch: Batch) -> tuple[Doubles, Doubles]:
        """(R) q · m, and |m|."""
        at = batch.candidates_at[batch.piece] + batch.within
        return self.along[at] / self.total[at], np.sqrt(self.square[at]) / self.total[at]


class CosineStatistics:
    """Statistics of the cosines c of each candidate q with the events that it sees, of weights w and vectors v.

    The cosines and the decayed means m = Σ w v / Σ w come from one pass over the vectors. Σ w c / Σ w is q · m.
    """

    def __init__(self, statistics: list[Statistic], matrix: EmbeddingMatrix, events: EventList) -> None:
        self.matrix = matrix
        self.events = events
        self.event_slots = matrix.slots_of(events.partners, events.times)
        self.slots = matrix.slots_of(events.candidates.partners, events.candidates.times)
        self.has_vector: Bools = self.slots != matrix.missing
        """(Q) whether the candidate's partner has a vector"""
        self.values: dict[Hashable, Values] = {s: np.full(len(self.slots), np.nan, np.float32) for s in statistics}
        """(Q) each, NaN where undefined"""
        self.columns: dict[tuple[str, str | None, Expression | None], list[Statistic]] = {}
        """Those that differ in their argument alone, together"""
        for statistic in statistics:
            self.columns.setdefault((statistic.name, statistic.half_life, statistic.target), []).append(statistic)
        of_means = [half_life for name, half_life, _ in self.columns if "mean" in COSINES[name].needs]
        self.half_lives = list(dict.fromkeys(half_life for half_life in of_means if half_life is not None))
        """Those of decayed means"""

    def batches(self) -> Iterator[Pieces]:
        """Yield the arguments of the calls of `compute`."""
        candidates, seen = self.events.candidates, self.events.seen
        is_long = seen.end - seen.indptr[candidates.owners] > _LONG  # up to the as-of time of each candidate
        one_shape = _FEW_CANDIDATES, _FEW_CANDIDATES
        pieces = cut(
            candidates.indptr, seen, self.has_vector & ~is_long, *(one_shape if seen.moves else (_CANDIDATES,))
        )
        pieces += cut(candidates.indptr, seen, self.has_vector & is_long, *one_shape)
        pieces = pieces.take(np.lexsort((pieces.shape, pieces.events, pieces.block)))
        pairs = offsets(seen.count)
        return pieces.batches(pairs[pieces.last] - pairs[pieces.first] + pieces.cosines, 3 * PAIRS)

    def compute(self, pieces: Pieces) -> Tally:
        """Compute the statistics of the candidates of some pieces."""
        batch = Batch(pieces, self.events.seen, self.has_vector)
        tally = Tally(passes=len(batch.q), counts={"cosines": int(batch.counts.sum())})
        tally.stages = {stage: Cost() for stage in _STAGES}
        cosines, first, means = self._multiply(batch, tally.stages)
        began = time.perf_counter()
        pairs, low = offsets(batch.counts), 0
        while low < len(batch.q):  # rows that are sorted together
            high = max(low + 1, int(np.searchsorted(pairs, pairs[low] + 4 * PAIRS, "right")) - 1)
            self._fill(CosineView(self.events, batch, slice(low, high), cosines, first[low:high], means, self._exact))
            low = high
        tally.stages["statistics"].add(time.perf_counter() - began, len(batch.q))
        return tally

    def view(self, candidate: int) -> CosineView | None:
        """Return what the statistics of one candidate are computed from, to the bit; None where it has no cosine."""
        for pieces in self.batches():
            with_it = (pieces.first <= candidate) & (candidate < pieces.last)
            if not with_it.any():
                continue
            batch = Batch(pieces.take(with_it), self.events.seen, self.has_vector)
            rows = np.flatnonzero(batch.q == candidate)
            if len(rows):
                stages = {stage: Cost() for stage in _STAGES}
                cosines, first, means = self._multiply(batch, stages)
                at = slice(rows[0], rows[0] + 1)
                return CosineView(self.events, batch, at, cosines, first[at], means, self._exact)
        return None

    # --- products ---------------------------------------------------------------------------------------

    def _multiply(self, batch: Batch, costs: dict[str, Cost]) -> tuple[Floats, Ints, dict[str, Mean]]:
        """Return the cosines of a batch, (R) where those of each row begin, and the decayed means by half-life."""
        pieces = batch.pieces
        cosines_at = offsets(pieces.cosines)
        cosines = np.empty(cosines_at[-1], np.float32)
        candidates, events = batch.candidates()[0], batch.events()[0]
        sums = {half_life: _Sums(self.events, half_life, candidates, events) for half_life in self.half_lives}
        began = time.perf_counter()
        for part in self._gathered(batch):
            (k, n, K, _), C = part.vectors.shape, part.candidates.shape[1]
            gathered = time.perf_counter()
            costs["gather"].add(gathered - began, k * (C + n * K), part.candidates.nbytes + part.vectors.nbytes)
            out = cosines[cosines_at[part.slice.pieces.start] : cosines_at[part.slice.pieces.stop]].reshape(k, C, -1, K)
            low = part.slice.skipped // K
            block_cosines(part.candidates, part.vectors, out[:, :, low : low + n])
            multiplied = time.perf_counter()
            costs["cosines"].add(multiplied - gathered, k * C * n * K)
            for each in sums.values():
                each.add(part)
            began = time.perf_counter()
            costs["means"].add(began - multiplied)
        means = {half_life: self._mean(half_life, batch, each) for half_life, each in sums.items()}
        costs["means"].add(time.perf_counter() - began, len(batch.q))
        return cosines, cosines_at[batch.piece] + batch.within * pieces.events[batch.piece] + batch.hidden, means

    def _gathered(self, batch: Batch, dtype: type[np.floating[Any]] = np.float32) -> Iterator[_Gathered]:
        """Yield the vectors of a batch, part by part."""
        pieces, table, missing = batch.pieces, self.matrix.vectors, self.matrix.missing
        q, padding = batch.candidates()
        slots = np.where(padding, missing, self.slots[q])
        low = spread(pieces.low, pieces.shape)
        start, end = self.events.seen.start[q] - low, self.events.seen.end[q] - low
        events, padding = batch.events()
        event_slots = np.where(padding, missing, self.event_slots[events])
        for part in batch.slices(FLOATS // table.shape[1]):
            at, first = part.candidates, part.pieces.start
            shape = -1, int(pieces.shape[first])
            candidates = table.take(slots[at], axis=0).astype(dtype, copy=False).reshape(*shape, table.shape[1])
            vectors = table.take(event_slots[part.events], axis=0).astype(dtype, copy=False)
            vectors = vectors.reshape(len(candidates), -1, int(pieces.block[first]), table.shape[1])
            yield _Gathered(
                part, candidates, vectors, *(place[at].reshape(shape) - part.skipped for place in (start, end))
            )

    # --- means ------------------------------------------------------------------------------------------

    def _mean(self, half_life: str, batch: Batch, sums: _Sums) -> Mean:
        """Return the decayed mean of all rows; where it is short, summed again in float64."""
        along, length = sums.of(batch)
        short = length < _SHORT_MEAN
        if short.any():
            repeated = Batch(batch.pieces.take(np.unique(batch.piece[short])), self.events.seen, self.has_vector)
            exact = _Sums(self.events, half_life, repeated.candidates()[0], repeated.events()[0])
            for part in self._gathered(repeated, np.float64):
                exact.add(part)
            chosen = np.isin(repeated.q, batch.q[short])
            along[short], length[short] = (values[chosen] for values in exact.of(repeated))
        return Mean(along, length)

    # --- statistics -------------------------------------------------------------------------------------

    def _fill(self, rows: CosineView) -> None:
        """Compute every statistic of some rows."""
        for (name, half_life, target), statistics in self.columns.items():
            arguments = [s.argument for s in statistics if s.argument is not None]
            values = COSINES[name].compute(rows, Parameters(half_life or "none", target, arguments))
            for statistic, column in zip(statistics, values, strict=True):
                self.values[statistic][rows.candidates] = column

    def _exact(self, candidates: Ints, events: Ints) -> Doubles:
        """Return the cosines of candidates with events of the list, in float64: (n), (n) -> (n)."""
        out = np.empty(len(candidates))
        step = max(1, FLOATS // self.matrix.vectors.shape[1])
        for low in range(0, len(candidates), step):
            at = slice(low, low + step)
            slots = self.slots[candidates[at]], self.event_slots[events[at]]
            out[at] = exact_cosines(*(self.matrix.vectors[part] for part in slots))
        return out
