"""The statistics of the cosines of one table over one list of events, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.columns import Statistic
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Pieces, Slice, batches, pieces
from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import BLOCK, REFERENCE_STEP, decayed_sums, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, run_starts
from extembed_cli.kernels.statistics import cumulate, rank, reaching, share, weighted_percentiles
from extembed_cli.watch import Cost

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

# Below this length, relative to the weight summed, the direction of a mean is the rounding of the stored vectors.
ZERO_MEAN = 1e-6
_EXACT = 2**20  # vector elements computed again in float64 at a time


class CosineStatistics:
    """Statistics of the cosines with one table over one list of events, all of which have a vector in it."""

    def __init__(self, statistics: list[Statistic], matrix: EmbeddingMatrix, events: EventList) -> None:
        self.matrix = matrix
        self.events = events
        self.event_slots = matrix.slots[events.items]
        self.slots = matrix.slots[events.candidates.items]
        self.pieces = pieces(events.candidates.indptr, events.seen)
        self.found = {s: np.full(len(self.slots), np.nan, np.float32) for s in statistics}
        """(Q) each, NaN where undefined"""

    def batches(self) -> Iterator[Pieces]:
        """What `compute` is to be called with."""
        return batches(self.pieces, self.events.seen)

    def compute(self, pieces: Pieces) -> tuple[int, int, dict[str, Cost]]:
        """Fill in what the candidates of some pieces get; how many they are, how many cosines, and what it cost."""
        batch = Batch(pieces, self.events.seen, self.slots != self.matrix.missing)
        costs = {stage: Cost() for stage in ("gather", "cosines", "statistics")}
        cosines = int(batch.cosines_at[-1]) if len(batch.q) else 0
        if cosines:
            computed = self._multiply(batch, costs)
            began = time.perf_counter()
            for rows in batch.chunks():
                self._rank(batch, rows, computed)
            costs["statistics"].add(time.perf_counter() - began, len(batch.q))
            costs["cosines"].add(rows=cosines)
        return len(batch.q), cosines, costs

    def _put(self, kind: str, half_life: str | None, argument: float | None, at: Ints, values: Floats) -> None:
        for s, out in self.found.items():
            if (s.kind, s.half_life, s.argument) == (kind, half_life, argument):
                out[at] = values

    def _wanted(self, kind: str, half_life: str | None = None) -> list[float]:
        """The percentiles or thresholds of a kind."""
        found = (s for s in self.found if s.kind == kind and half_life in {None, s.half_life})
        return list(dict.fromkeys(s.argument for s in found if s.argument is not None))

    @property
    def half_lives(self) -> list[str]:
        return list(dict.fromkeys(s.half_life for s in self.found if s.half_life is not None))

    # --- products and means -----------------------------------------------------------------------------

    def _multiply(self, batch: Batch, costs: dict[str, Cost]) -> Floats:
        """The cosines of a batch; means of vectors are taken on the way, while these are at hand."""
        vectors, missing = self.matrix.vectors, self.matrix.missing
        cosines = np.empty(batch.cosines_at[-1], np.float32)
        q, no_candidate = batch.candidates()
        events, no_event = batch.events()
        asked = np.where(no_candidate, missing, self.slots[q])
        slots = np.where(no_event, missing, self.event_slots[events])
        means = [Means(self.events, batch, events, half_life) for half_life in self.half_lives]
        for part in batch.slices(vectors.shape[1]):
            began = time.perf_counter()
            first = int(batch.candidates_at[part.pieces.start])
            some = vectors.take(asked[first : batch.candidates_at[part.pieces.stop]], axis=0)
            others = vectors.take(slots[part.events], axis=0)
            gathered = time.perf_counter()
            for of, with_, out in batch.products(part, cosines):
                k, C, n, K = out.shape
                left = some[of.start - first : of.stop - first].reshape(k, C, -1)
                right = others[with_.start - part.events.start : with_.stop - part.events.start].reshape(k, n, K, -1)
                block_cosines(left, right, out)
            multiplied = time.perf_counter()
            exact = others.astype(np.float64)
            for mean in means:
                mean.add(part, exact, some, first)
            costs["gather"].add(gathered - began, len(some) + len(others), some.nbytes + others.nbytes)
            costs["cosines"].add(multiplied - gathered)
            costs["statistics"].add(time.perf_counter() - multiplied)
        for mean in means:
            cos_mean, to_mean = mean.finish(vectors, self.event_slots, self.slots)
            self._put("cos_mean", mean.half_life, None, batch.q, cos_mean)
            self._put("cos_to_mean", mean.half_life, None, batch.q, to_mean)
        return cosines

    # --- ranks ------------------------------------------------------------------------------------------

    def _rank(self, batch: Batch, rows: slice, cosines: Floats) -> None:
        """Everything that the order of the cosines tells, of some rows."""
        q, place, counts = batch.q[rows], batch.place[rows], batch.counts[rows]
        ranked = rank(cosines, batch.cosine[rows], place, counts)
        self._put("cos_min", None, None, q, ranked.smallest)
        self._put("cos_max", None, None, q, ranked.largest)
        events = batch.pieces.low[batch.piece[rows]] - batch.events_at[batch.piece[rows]]

        def exact(row: Ints, place: Ints) -> Doubles:
            slots, asked = self.event_slots[place + events[row]], self.slots[q[row]]
            out = np.empty(len(row))
            step = max(1, _EXACT // self.matrix.vectors.shape[1])
            for low in range(0, len(row), step):
                at = slice(low, low + step)
                out[at] = exact_cosines(self.matrix.vectors[asked[at]], self.matrix.vectors[slots[at]])
            return out

        reached = {t: reaching(ranked, t, exact) for t in self._wanted("cos_share_ge")}
        for half_life in self.half_lives:
            percentiles, thresholds = self._wanted("cos_p", half_life), self._wanted("cos_share_ge", half_life)
            if percentiles or thresholds:
                cumulative = cumulate(ranked, *self._whole_weights(batch, rows, half_life))
                for p, values in zip(percentiles, weighted_percentiles(ranked, cumulative, percentiles), strict=True):
                    self._put("cos_p", half_life, p, q, values)
                for t in thresholds:
                    self._put("cos_share_ge", half_life, t, q, share(cumulative, reached[t]))

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
            heights = (clock + events.logs)[ragged(end - counts, counts)]
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


class Means:
    """Of each row of a batch, its cosine with the decayed mean of the vectors that it sees, and the mean cosine.

        m = Σ w v,    cos_to_mean = q . m / |m|,    cos_mean = q . m / Σ w

    Sums after every event are in float64: a window is a difference of two.
    """

    def __init__(self, events: EventList, batch: Batch, of_batch: Ints, half_life: str) -> None:
        self.events = events
        self.half_life = half_life
        self.batch = batch
        self.clock = events.clock(half_life)[of_batch]
        self.weights = None if events.weights is None else events.weights[of_batch]
        first = batch.events_at[batch.piece]
        self.last = batch.place + batch.counts - 1
        """(R) the place of the newest event that a row sees"""
        self.before = np.maximum(batch.place - 1, first)
        """(R) the place of the last event before those that a row sees"""
        self.hides = bool((batch.place > first).any())
        self.left = np.where(batch.place > first, np.exp2(self.clock[self.before] - self.clock[self.last]), 0)
        """(R) how much of the sum before is in the sum until the newest event"""
        self.total, self.unsure = events.totals(half_life)
        self.along, self.length = np.zeros(len(batch.q)), np.zeros(len(batch.q))
        """(R) q . m and |m|, in the weights relative to the newest event"""
        self._carried: tuple[Doubles, float] | None = None
        self._older = np.zeros((0, 0))

    def add(self, part: Slice, vectors: Doubles, candidates: Floats, first: int) -> None:
        """Take up the vectors of a slice; those of the batch's candidates begin with its `first`."""
        low, high = part.events.start, part.events.stop
        blocks = self.batch.pieces.events[part.pieces] // BLOCK
        if part.is_part:
            blocks = np.array([(high - low) // BLOCK])
            if low == self.batch.events_at[part.pieces.start]:
                self._carried = None
        weights = None if self.weights is None else self.weights[part.events]
        carried = self._carried if part.is_part else None
        sums = decayed_sums(vectors, self.clock[part.events], weights, blocks, carried)
        rows = _within(self.last, low, high)
        mean = sums.take(self.last[rows] - low, axis=0)
        if self.hides:
            older = self._kept(part, sums, rows) if part.is_part else sums.take(self.before[rows] - low, axis=0)
            mean -= self.left[rows, None] * older
        q = candidates.take(self.batch.candidate[rows] - first, axis=0).astype(np.float64)
        self.along[rows] = np.einsum("rd,rd->r", mean, q)
        self.length[rows] = np.sqrt(np.einsum("rd,rd->r", mean, mean))
        if part.is_part:
            self._carried = sums[-1], float(self.clock[high - 1])

    def _kept(self, part: Slice, sums: Doubles, rows: slice) -> Doubles:
        """The sums before what some rows see, where a piece is too long for one slice: they may be of an earlier one."""
        low, high = self.batch.events_at[part.pieces.start : part.pieces.stop + 1]
        of_piece = _within(self.last, low, high)
        if part.events.start == low:
            self._older = np.zeros((of_piece.stop - of_piece.start, sums.shape[1]))
        before = self.before[of_piece]
        new = _within(before, part.events.start, part.events.stop)
        self._older[new] = sums.take(before[new] - part.events.start, axis=0)
        return self._older[rows.start - of_piece.start : rows.stop - of_piece.start]

    def finish(self, vectors: Floats, event_slots: Ints, slots: Ints) -> tuple[Floats, Floats]:
        """cos_mean and cos_to_mean: (R) each."""
        q, total = self.batch.q, self.total[self.batch.q]
        for row in np.flatnonzero(np.isin(q, self.unsure)).tolist():
            at, weights = self.events.weights_of(self.half_life, int(q[row]))
            mean = weights @ vectors[event_slots[at]].astype(np.float64)
            self.along[row], self.length[row] = mean @ vectors[slots[q[row]]], np.sqrt(mean @ mean)
        directed = self.length > ZERO_MEAN * total
        to_mean = np.where(directed, self.along / np.where(directed, self.length, 1), np.nan)
        return clipped(self.along / total), clipped(to_mean)


def _within(places: Ints, low: int, high: int) -> slice:
    """Which of some ascending places are in [low, high)."""
    return slice(*np.searchsorted(places, [low, high]).tolist())
