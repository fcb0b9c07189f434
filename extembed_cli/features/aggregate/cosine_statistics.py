"""Statistics of the cosines of one table over one list of events, all of which have a vector in the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.aggregate.event_lists import EventList
from extembed_cli.features.technique.columns import Statistic
from extembed_cli.features.technique.done import Done
from extembed_cli.histories.batches import Batch, Pieces, Slice, cut
from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import REFERENCE_STEP, visible_sums, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, run_starts, spread
from extembed_cli.kernels.statistics import cumulate, rank, reaching, share, weighted_percentiles
from extembed_cli.system.progress import Cost

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Values = NDArray[np.floating[Any]]  # float32 or float64
Ints = NDArray[np.int64]

PAIRS = 2**18  # visible pairs of a batch: so many that Python does not show, so few that they stay near the processor
FLOATS = 2**19  # vector elements gathered at a time
_CANDIDATES, _FEW_CANDIDATES = 64, 8  # of a piece
_LONG = 4096  # events: who has more behind is multiplied with few others, whose cosines still fit into memory

# A shorter mean is summed again in float64, and one below the second has no direction: it is the rounding of the stored
# vectors.
_SHORT_MEAN, _ZERO_MEAN = 1e-2, 1e-6


@dataclass(frozen=True)
class _Gathered:
    """Vectors of k pieces of one shape, or of some events of one."""

    part: Slice
    candidates: Values
    """(k, C, d)"""
    vectors: Values
    """(k, n, K, d) of the events, 0 in the padding"""
    start: Ints
    """(k, C) the first of these events that a candidate sees"""
    end: Ints


class _Means:
    """Decayed means of the vectors that the candidates of a batch see, and their products: by place, (A) each."""

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

    def add(self, some: _Gathered) -> None:
        """Add events of some pieces."""
        at, shape = some.part.candidates, some.start.shape
        heights, reference = self.heights[some.part.events], self.reference[at]
        sums = visible_sums(some.vectors, heights.reshape(shape[0], -1), reference.reshape(shape), some.start, some.end)
        if some.part.is_part:
            self.so_far = sums + self.so_far if some.part.skipped else sums.astype(np.float64)
            sums = self.so_far.astype(sums.dtype)
        self.along[at] = np.vecdot(sums, some.candidates).ravel()
        self.square[at] = np.vecdot(sums, sums).ravel()

    def of(self, batch: Batch) -> tuple[Doubles, Doubles]:
        """(R) q · m, and |m|."""
        at = batch.candidates_at[batch.piece] + batch.within
        return self.along[at] / self.total[at], np.sqrt(self.square[at]) / self.total[at]


class CosineStatistics:
    """Of each candidate, with the cosines c of the events that it sees, their weights w and vectors v:

        cos_mean = Σ w c / Σ w = q · m,    cos_to_mean = q · m / |m|,    m = Σ w v / Σ w

    and what the order of the cosines tells: smallest, largest, percentiles and shares above a threshold.
    """

    def __init__(self, statistics: list[Statistic], matrix: EmbeddingMatrix, events: EventList) -> None:
        self.matrix = matrix
        self.events = events
        self.event_slots = matrix.slots[events.items]
        self.slots = matrix.slots[events.candidates.items]
        self.wanted: Bools = self.slots != matrix.missing
        """(Q) the candidates that have a vector"""
        self.found = {s: np.full(len(self.slots), np.nan, np.float32) for s in statistics}
        """(Q) each, NaN where undefined"""
        self.half_lives = list(dict.fromkeys(s.half_life for s in statistics if s.half_life is not None))

    def batches(self) -> Iterator[Pieces]:
        """What `compute` is to be called with."""
        candidates, seen = self.events.candidates, self.events.seen
        is_long = seen.end - seen.indptr[candidates.users] > _LONG  # as far as a candidate knows
        one_shape = _FEW_CANDIDATES, _FEW_CANDIDATES
        pieces = cut(candidates.indptr, seen, self.wanted & ~is_long, *(one_shape if seen.moves else (_CANDIDATES,)))
        pieces += cut(candidates.indptr, seen, self.wanted & is_long, *one_shape)
        pieces = pieces.take(np.lexsort((pieces.shape, pieces.events, pieces.block)))
        pairs = offsets(seen.count)
        return pieces.batches(pairs[pieces.last] - pairs[pieces.first] + pieces.cosines, 3 * PAIRS)

    def compute(self, pieces: Pieces) -> Done:
        """Fill in what the candidates of some pieces get."""
        batch = Batch(pieces, self.events.seen, self.wanted)
        done = Done(rows=len(batch.q), cosines=int(batch.counts.sum()))
        done.stages = {stage: Cost() for stage in ("gather", "cosines", "means", "statistics")}
        cosines, first = self._multiply(batch, done.stages)
        began = time.perf_counter()
        pairs, low = offsets(batch.counts), 0
        while low < len(batch.q):  # rows that are sorted together
            high = max(low + 1, int(np.searchsorted(pairs, pairs[low] + 4 * PAIRS, "right")) - 1)
            self._rank(batch, slice(low, high), cosines, first[low:high])
            low = high
        done.stages["statistics"].add(time.perf_counter() - began, len(batch.q))
        return done

    # --- products ---------------------------------------------------------------------------------------

    def _multiply(self, batch: Batch, costs: dict[str, Cost]) -> tuple[Floats, Ints]:
        """The cosines of a batch, and (R) where those of each row begin; the means are done with."""
        pieces = batch.pieces
        cosines_at = offsets(pieces.cosines)
        cosines = np.empty(cosines_at[-1], np.float32)
        candidates, events = batch.candidates()[0], batch.events()[0]
        means = {half_life: _Means(self.events, half_life, candidates, events) for half_life in self.half_lives}
        began = time.perf_counter()
        for some in self._gathered(batch):
            (k, n, K, _), C = some.vectors.shape, some.candidates.shape[1]
            gathered = time.perf_counter()
            costs["gather"].add(gathered - began, k * (C + n * K), some.candidates.nbytes + some.vectors.nbytes)
            out = cosines[cosines_at[some.part.pieces.start] : cosines_at[some.part.pieces.stop]].reshape(k, C, -1, K)
            low = some.part.skipped // K
            block_cosines(some.candidates, some.vectors, out[:, :, low : low + n])
            multiplied = time.perf_counter()
            costs["cosines"].add(multiplied - gathered, k * C * n * K)
            for mean in means.values():
                mean.add(some)
            began = time.perf_counter()
            costs["means"].add(began - multiplied)
        for half_life, mean in means.items():
            self._put_means(half_life, batch, mean)
        costs["means"].add(time.perf_counter() - began, len(batch.q))
        return cosines, cosines_at[batch.piece] + batch.within * pieces.events[batch.piece] + batch.hidden

    def _gathered(self, batch: Batch, dtype: type[np.floating[Any]] = np.float32) -> Iterator[_Gathered]:
        """The vectors of a batch, part by part."""
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

    def _put_means(self, half_life: str, batch: Batch, mean: _Means) -> None:
        """Both cosines with the mean, of all rows."""
        along, length = mean.of(batch)
        short = length < _SHORT_MEAN
        if short.any():
            again = Batch(batch.pieces.take(np.unique(batch.piece[short])), self.events.seen, self.wanted)
            exact = _Means(self.events, half_life, again.candidates()[0], again.events()[0])
            for some in self._gathered(again, np.float64):
                exact.add(some)
            chosen = np.isin(again.q, batch.q[short])
            along[short], length[short] = (values[chosen] for values in exact.of(again))
        directed = length > _ZERO_MEAN
        to_mean = np.where(directed, along / np.where(directed, length, 1), np.nan)
        self._put("cos_mean", batch.q, clipped(along), half_life)
        self._put("cos_to_mean", batch.q, clipped(to_mean), half_life)

    # --- ranks ------------------------------------------------------------------------------------------

    def _rank(self, batch: Batch, rows: slice, cosines: Floats, first: Ints) -> None:
        """Everything that the order of the cosines tells, of some rows."""
        q, place, counts = batch.q[rows], batch.place[rows], batch.counts[rows]
        ranked = rank(cosines, first, place, counts)
        self._put("cos_min", q, ranked.smallest)
        self._put("cos_max", q, ranked.largest)
        events = batch.pieces.low[batch.piece[rows]] - batch.events_at[batch.piece[rows]]

        def exact(row: Ints, place: Ints) -> Doubles:
            slots, asked = self.event_slots[place + events[row]], self.slots[q[row]]
            out = np.empty(len(row))
            step = max(1, FLOATS // self.matrix.vectors.shape[1])
            for low in range(0, len(row), step):
                at = slice(low, low + step)
                out[at] = exact_cosines(self.matrix.vectors[asked[at]], self.matrix.vectors[slots[at]])
            return out

        thresholds = self._arguments("cos_share_ge")
        reached = dict(zip(thresholds, reaching(ranked, thresholds, exact), strict=True))
        for half_life in self.half_lives:
            percentiles, thresholds = self._arguments("cos_p", half_life), self._arguments("cos_share_ge", half_life)
            if percentiles or thresholds:
                cumulative = cumulate(ranked, *self._whole_weights(batch, rows, half_life))
                for p, values in zip(percentiles, weighted_percentiles(ranked, cumulative, percentiles), strict=True):
                    self._put("cos_p", q, values, half_life, p)
                for t in thresholds:
                    self._put("cos_share_ge", q, share(cumulative, reached[t]), half_life, t)

    def _whole_weights(self, batch: Batch, rows: slice, half_life: str) -> tuple[Ints, Ints]:
        """Whole weights of the events of some rows, and by how much a row's places are shifted to find its own.

        Rows of a piece share weights where these can be relative to one moment: a whole number of half-lives after the
        user's first event, so that weights that are powers of two stay so, and not long after the newest event that
        weighs anything.
        """
        events, piece = self.events, batch.piece[rows]
        clock, low = events.clock(half_life), batch.pieces.low[piece]
        end = events.seen.end[batch.q[rows]]
        newest = clock[end - 1]
        if events.weights is not None:
            counts = batch.counts[rows]
            heights = events.heights(half_life, ragged(end - counts, counts))
            newest = np.maximum.reduceat(heights, offsets(counts)[:-1])
        step = np.floor(newest / REFERENCE_STEP)
        bits = whole_bits(end - low)
        first = run_starts(piece, step, bits)
        last = np.append(first[1:], len(piece)) - 1
        lengths = end[last] - low[first]
        at, reference = ragged(low[first], lengths), (step[first] + 1) * REFERENCE_STEP
        ages = np.repeat(reference, lengths) - clock[at]
        whole = whole_weights(
            None if events.weights is None else events.weights[at], ages, np.repeat(bits[first], lengths)
        )
        shift = np.repeat(offsets(lengths)[:-1], np.diff(np.append(first, len(piece)))) - batch.events_at[piece]
        return whole, shift

    # --- columns ----------------------------------------------------------------------------------------

    def _arguments(self, kind: str, half_life: str | None = None) -> list[float]:
        """Percentiles or thresholds of a kind, with one half-life or any."""
        found = (s for s in self.found if s.kind == kind and half_life in {None, s.half_life})
        return list(dict.fromkeys(s.argument for s in found if s.argument is not None))

    def _put(
        self,
        kind: str,
        candidates: Ints,
        values: NDArray[Any],
        half_life: str | None = None,
        argument: float | None = None,
    ) -> None:
        """Take the values of some candidates."""
        for s, out in self.found.items():
            if (s.kind, s.half_life, s.argument) == (kind, half_life, argument):
                out[candidates] = values
