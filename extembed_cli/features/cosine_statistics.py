"""The statistics of the cosines of one table over one list of events, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.columns import Statistic
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Pieces, cut, with_padding
from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import REFERENCE_STEP, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, run_starts
from extembed_cli.kernels.statistics import cumulate, rank, reaching, share, weighted_percentiles
from extembed_cli.watch import Cost

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

PAIRS = 2**18  # visible pairs of a batch: so many that Python does not show, so few that they stay near the processor
_CANDIDATES, _BLOCK = 64, 8  # of a product
# Who sees more events than this is multiplied with few others, in one shape: so many cosines are kept in memory.
_LONG, _LONG_CANDIDATES, _LONG_BLOCK = 4096, 8, 64
_EXACT = 2**20  # vector elements computed again in float64 at a time


class CosineStatistics:
    """Statistics of the cosines with one table over one list of events, all of which have a vector in it."""

    def __init__(self, statistics: list[Statistic], matrix: EmbeddingMatrix, events: EventList) -> None:
        self.matrix = matrix
        self.events = events
        self.event_slots = matrix.slots[events.items]
        self.slots = matrix.slots[events.candidates.items]
        self.found = {s: np.full(len(self.slots), np.nan, np.float32) for s in statistics}
        """(Q) each, NaN where undefined"""

    def batches(self) -> Iterator[Pieces]:
        """What `compute` is to be called with."""
        candidates, seen = self.events.candidates, self.events.seen
        is_long = seen.end - seen.indptr[candidates.users] > _LONG  # as far as a candidate knows
        wanted = self.slots != self.matrix.missing
        pieces = cut(candidates.indptr, seen, ~is_long & wanted, _CANDIDATES, _BLOCK)
        pieces += cut(candidates.indptr, seen, is_long & wanted, _LONG_CANDIDATES, _LONG_BLOCK, _LONG_CANDIDATES)
        pieces = pieces.take(np.lexsort((pieces.shape, pieces.events, pieces.block)))
        pairs = offsets(seen.count)
        return pieces.batches(pairs[pieces.last] - pairs[pieces.first] + pieces.cosines, 3 * PAIRS)

    def compute(self, pieces: Pieces) -> tuple[int, int, dict[str, Cost]]:
        """Fill in what the candidates of some pieces get; how many they are, how many cosines, and what it cost."""
        batch = Batch(pieces, self.events.seen, self.slots != self.matrix.missing)
        costs = {stage: Cost() for stage in ("gather", "cosines", "statistics")}
        if not len(batch.q):
            return 0, 0, costs
        cosines, first = self._multiply(batch, costs)
        began = time.perf_counter()
        pairs, low = offsets(batch.counts), 0
        while low < len(batch.q):  # rows that are sorted together
            high = max(low + 1, int(np.searchsorted(pairs, pairs[low] + 4 * PAIRS, "right")) - 1)
            self._rank(batch, slice(low, high), cosines, first[low:high])
            low = high
        costs["statistics"].add(time.perf_counter() - began, len(batch.q))
        costs["cosines"].add(rows=len(cosines))
        return len(batch.q), len(cosines), costs

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

    # --- products ---------------------------------------------------------------------------------------

    def _multiply(self, batch: Batch, costs: dict[str, Cost]) -> tuple[Floats, Ints]:
        """The cosines of a batch, and (R) where those of each row begin."""
        pieces, vectors, missing = batch.pieces, self.matrix.vectors, self.matrix.missing
        cosines_at, asked_at = offsets(pieces.cosines), offsets(pieces.shape)
        cosines = np.empty(cosines_at[-1], np.float32)
        candidates, padding = with_padding(pieces.first, pieces.last, pieces.shape)
        asked = np.where(padding, missing, self.slots[candidates])
        events, padding = batch.events()
        slots = np.where(padding, missing, self.event_slots[events])
        for part in batch.slices(vectors.shape[1]):
            began = time.perf_counter()
            first, last = (int(asked_at[at]) for at in (part.pieces.start, part.pieces.stop))
            some, others = vectors.take(asked[first:last], axis=0), vectors.take(slots[part.events], axis=0)
            gathered = time.perf_counter()
            mine = pieces.take(part.pieces)
            starts = run_starts(mine.shape, mine.events, mine.block).tolist()
            for low, high in pairwise([*starts, len(mine)]):
                at = slice(part.pieces.start + low, part.pieces.start + high)
                q = some[asked_at[at.start] - first : asked_at[at.stop] - first].reshape(high - low, mine.shape[low], -1)
                out = cosines[cosines_at[at.start] : cosines_at[at.stop]].reshape(*q.shape[:2], -1, mine.block[low])
                v = others
                if part.is_part:
                    begin = (part.events.start - batch.events_at[at.start]) // mine.block[low]
                    out = out[:, :, begin : begin + len(v) // mine.block[low]]
                else:
                    v = v[batch.events_at[at.start] - part.events.start : batch.events_at[at.stop] - part.events.start]
                block_cosines(q, v.reshape(high - low, *out.shape[2:], -1), out)
            costs["gather"].add(gathered - began, len(some) + len(others), some.nbytes + others.nbytes)
            costs["cosines"].add(time.perf_counter() - gathered, 0)
        within = batch.q - pieces.first[batch.piece]
        return cosines, cosines_at[batch.piece] + within * pieces.events[batch.piece] + batch.hidden

    # --- ranks ------------------------------------------------------------------------------------------

    def _rank(self, batch: Batch, rows: slice, cosines: Floats, first: Ints) -> None:
        """Everything that the order of the cosines tells, of some rows."""
        q, place, counts = batch.q[rows], batch.place[rows], batch.counts[rows]
        ranked = rank(cosines, first, place, counts)
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

        thresholds = self._wanted("cos_share_ge")
        reached = dict(zip(thresholds, reaching(ranked, thresholds, exact), strict=True))
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
