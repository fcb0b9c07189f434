"""Statistics of the cosines of one table over one list of events, all of which have a vector in the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.columns import Statistic
from extembed_cli.features.done import Done
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Pieces, Slice, cut
from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import REFERENCE_STEP, visible_sums, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, run_starts, spread
from extembed_cli.kernels.statistics import cumulate, rank, reaching, share, weighted_percentiles
from extembed_cli.watch import Cost

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

PAIRS = 2**18  # visible pairs of a batch: so many that Python does not show, so few that they stay near the processor
FLOATS = 2**19  # vector elements gathered at a time
_CANDIDATES = 64  # of a piece
# Who sees more events than this is multiplied with few others, in one shape: so many cosines are kept in memory.
_LONG, _LONG_CANDIDATES = 4096, 8

# Relative to the weight summed: a shorter mean is summed again in float64, and one below the second has no direction,
# since it is the rounding of the stored vectors.
_SHORT_MEAN, _ZERO_MEAN = 1e-2, 1e-6


class _Means:
    """Decayed means of the vectors that the candidates of a batch see, and their products: by place, (A) each."""

    def __init__(self, events: EventList, half_life: str, candidates: Ints, of_batch: Ints) -> None:
        self.heights = events.heights(half_life)[of_batch]
        self.total, exponent = np.frexp(events.totals(half_life)[candidates])
        newest = np.maximum(events.seen.end[candidates], 1) - 1
        self.reference = events.clock(half_life)[newest] + exponent
        self.along = np.empty(len(candidates), np.float32)
        """q · Σ w v, as `total` relative to the reference"""
        self.square = np.empty(len(candidates), np.float32)
        """|Σ w v|²"""
        self.so_far: Floats = np.zeros(0, np.float32)

    def add(self, part: Slice, candidates: Floats, vectors: Floats, start: Ints, end: Ints) -> None:
        """Add some events: candidates (k, C, d), vectors (k, n, K, d), start and end (k, C) of what is visible."""
        k, at = len(candidates), part.candidates
        sums = visible_sums(
            vectors, self.heights[part.events].reshape(k, -1), self.reference[at].reshape(k, -1), start, end
        )
        if part.skipped:
            sums += self.so_far
        self.so_far = sums
        np.vecdot(sums, candidates, out=self.along[at].reshape(k, -1))
        np.vecdot(sums, sums, out=self.square[at].reshape(k, -1))


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
        pieces = cut(candidates.indptr, seen, self.wanted & ~is_long, _CANDIDATES)
        pieces += cut(candidates.indptr, seen, self.wanted & is_long, _LONG_CANDIDATES, _LONG_CANDIDATES)
        pieces = pieces.take(np.lexsort((pieces.shape, pieces.events, pieces.block)))
        pairs = offsets(seen.count)
        return pieces.batches(pairs[pieces.last] - pairs[pieces.first] + pieces.cosines, 3 * PAIRS)

    def compute(self, pieces: Pieces) -> Done:
        """Fill in what the candidates of some pieces get."""
        batch = Batch(pieces, self.events.seen, self.wanted)
        done = Done(rows=len(batch.q), cosines=int(pieces.cosines.sum()))
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
        pieces, table, missing = batch.pieces, self.matrix.vectors, self.matrix.missing
        q, padding = batch.candidates()
        slots = np.where(padding, missing, self.slots[q])
        low = spread(pieces.low, pieces.shape)
        start, end = self.events.seen.start[q] - low, self.events.seen.end[q] - low
        events, padding = batch.events()
        event_slots = np.where(padding, missing, self.event_slots[events])
        means = {half_life: _Means(self.events, half_life, q, events) for half_life in self.half_lives}
        cosines_at = offsets(pieces.cosines)
        cosines = np.empty(cosines_at[-1], np.float32)
        for part in batch.slices(FLOATS // table.shape[1]):
            began = time.perf_counter()
            at, C, K = part.candidates, int(pieces.shape[part.pieces.start]), int(pieces.block[part.pieces.start])
            some, others = table.take(slots[at], axis=0), table.take(event_slots[part.events], axis=0)
            gathered = time.perf_counter()
            costs["gather"].add(gathered - began, len(some) + len(others), some.nbytes + others.nbytes)
            some = some.reshape(-1, C, table.shape[1])
            others = others.reshape(len(some), -1, K, table.shape[1])
            out = cosines[cosines_at[part.pieces.start] : cosines_at[part.pieces.stop]].reshape(len(some), C, -1, K)
            block_cosines(some, others, out[:, :, part.skipped // K : part.skipped // K + others.shape[1]])
            multiplied = time.perf_counter()
            costs["cosines"].add(multiplied - gathered, C * (part.events.stop - part.events.start))
            visible = [places[at].reshape(-1, C) - part.skipped for places in (start, end)]
            for mean in means.values():
                mean.add(part, some, others, *visible)
            costs["means"].add(time.perf_counter() - multiplied)
        for half_life, mean in means.items():
            self._put_means(half_life, batch, mean)
        costs["means"].add(rows=len(batch.q))
        return cosines, cosines_at[batch.piece] + batch.within * pieces.events[batch.piece] + batch.hidden

    def _put_means(self, half_life: str, batch: Batch, mean: _Means) -> None:
        """Both cosines with the mean, of all rows."""
        at = batch.candidates_at[batch.piece] + batch.within
        along, length = mean.along[at] / mean.total[at], np.sqrt(mean.square[at]) / mean.total[at]
        for row in np.flatnonzero(length < _SHORT_MEAN).tolist():
            events, weights = self.events.weights_of(half_life, batch.q[row])
            m = weights @ self.matrix.vectors[self.event_slots[events]].astype(np.float64) / weights.sum()
            along[row], length[row] = m @ self.matrix.vectors[self.slots[batch.q[row]]], np.sqrt(m @ m)
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
            heights = events.heights(half_life)[ragged(end - counts, counts)]
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
