"""Statistics of the cosines of one table over one list of events, all of which have a vector in the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.columns import Statistic
from extembed_cli.features.done import Done
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Pieces, cut, with_padding
from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import REFERENCE_STEP, visible_sums, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, rectangle, run_starts
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


@dataclass(frozen=True)
class _Gathered:
    """The vectors of k pieces of one shape, or of a part of the events of one."""

    pieces: slice
    """Places among the pieces of the batch"""
    events: Ints
    """(k, nK) places in the list"""
    skipped: int
    """Events of the piece that came before"""
    is_last: bool
    """No more events of the pieces follow"""
    candidates: Floats
    """(k, C, d)"""
    vectors: Floats
    """(k, n, K, d) of the events, 0 in the padding"""


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
        costs = {stage: Cost() for stage in ("gather", "cosines", "means", "statistics")}
        cosines_at = offsets(pieces.cosines)
        cosines = np.empty(cosines_at[-1], np.float32)
        sums: dict[str, Floats] = {}
        began = time.perf_counter()
        for some in self._gathered(batch):
            gathered = time.perf_counter()
            costs["gather"].add(
                gathered - began,
                rows=some.candidates.size // self.matrix.vectors.shape[1] + some.events.size,
                bytes=some.candidates.nbytes + some.vectors.nbytes,
            )
            k, _, block, _ = some.vectors.shape
            out = cosines[cosines_at[some.pieces.start] : cosines_at[some.pieces.stop]].reshape(
                k, some.candidates.shape[1], -1, block
            )
            done = some.skipped // block
            block_cosines(some.candidates, some.vectors, out[:, :, done : done + some.vectors.shape[1]])
            multiplied = time.perf_counter()
            costs["cosines"].add(multiplied - gathered, rows=some.candidates.shape[1] * some.events.size)
            self._means(batch, some, sums)
            began = time.perf_counter()
            costs["means"].add(began - multiplied)
        within = batch.q - pieces.first[batch.piece]
        first = cosines_at[batch.piece] + within * pieces.events[batch.piece] + batch.hidden
        pairs, low = offsets(batch.counts), 0
        while low < len(batch.q):  # rows that are sorted together
            high = max(low + 1, int(np.searchsorted(pairs, pairs[low] + 4 * PAIRS, "right")) - 1)
            self._rank(batch, slice(low, high), cosines, first[low:high])
            low = high
        costs["statistics"].add(time.perf_counter() - began, len(batch.q))
        return Done(rows=len(batch.q), cosines=len(cosines), stages=costs)

    # --- products ---------------------------------------------------------------------------------------

    def _gathered(self, batch: Batch) -> Iterator[_Gathered]:
        """The vectors of a batch, those of pieces of one shape together."""
        pieces, table, missing = batch.pieces, self.matrix.vectors, self.matrix.missing
        q, padding = with_padding(pieces.first, pieces.last, pieces.shape)
        slots = np.where(padding, missing, self.slots[q])
        events, padding = batch.events()
        event_slots = np.where(padding, missing, self.event_slots[events])
        rows_at = offsets(pieces.shape)
        for part in batch.slices(FLOATS // table.shape[1]):
            mine = pieces.take(part.pieces)
            rows = slice(*rows_at[[part.pieces.start, part.pieces.stop]])
            candidates = table.take(slots[rows], axis=0)
            vectors = table.take(event_slots[part.events], axis=0)
            starts = run_starts(mine.shape, mine.events, mine.block)
            for low, high in pairwise([*(part.pieces.start + starts).tolist(), part.pieces.stop]):
                k, shape, block = high - low, int(pieces.shape[low]), int(pieces.block[low])
                a, b = (rows_at[[low, high]] - rows.start).tolist()
                begin, end = batch.events_at[[low, high]].tolist()
                at = part.events if part.is_part else slice(begin, end)
                some = vectors[at.start - part.events.start : at.stop - part.events.start]
                yield _Gathered(
                    pieces=slice(low, high),
                    events=events[at].reshape(k, -1),
                    skipped=at.start - begin,
                    is_last=at.stop == end,
                    candidates=candidates[a:b].reshape(k, shape, -1),
                    vectors=some.reshape(k, -1, block, some.shape[1]),
                )

    # --- means ------------------------------------------------------------------------------------------

    def _means(self, batch: Batch, some: _Gathered, sums: dict[str, Floats]) -> None:
        """Both cosines with the mean; `sums` are those of the events before, where these are a part."""
        pieces, seen = batch.pieces.take(some.pieces), self.events.seen
        q, is_candidate = rectangle(pieces.first, pieces.last, some.candidates.shape[1])
        start, end = seen.start[q], seen.end[q]
        sees = is_candidate & self.wanted[q] & (end > start)
        origin = pieces.low[:, None] + some.skipped
        for half_life in self.half_lives:
            mass, exponent = np.frexp(self.events.totals(half_life)[q])
            reference = self.events.clock(half_life)[np.maximum(end, 1) - 1] + exponent
            heights = self.events.heights(half_life)[some.events]
            m = visible_sums(some.vectors, heights, reference, start - origin, end - origin)
            if some.skipped:
                m += sums[half_life]
            sums[half_life] = m
            if not some.is_last:
                continue
            along, length = (
                np.vecdot(m, some.candidates)[sees] / mass[sees],
                np.sqrt(np.vecdot(m, m)[sees]) / mass[sees],
            )
            self._put_means(half_life, q[sees], along, length)

    def _put_means(self, half_life: str, q: Ints, along: Doubles, length: Doubles) -> None:
        """Take the products of candidates with means, and the lengths of means."""
        for row in np.flatnonzero(length < _SHORT_MEAN).tolist():
            at, weights = self.events.weights_of(half_life, q[row])
            mean = weights @ self.matrix.vectors[self.event_slots[at]].astype(np.float64) / weights.sum()
            along[row], length[row] = mean @ self.matrix.vectors[self.slots[q[row]]], np.sqrt(mean @ mean)
        directed = length > _ZERO_MEAN
        self._put("cos_mean", q, clipped(along), half_life)
        to_mean = np.where(directed, along / np.where(directed, length, 1), np.nan)
        self._put("cos_to_mean", q, clipped(to_mean), half_life)

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
