"""What the order of the cosines tells: smallest, largest, percentiles and shares above a threshold."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from extembed_cli.features.done import Done
from extembed_cli.features.pieces import Batch, Pieces, cut, with_padding
from extembed_cli.features.table_statistics import TableStatistics
from extembed_cli.kernels.cosines import block_cosines, exact_cosines
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
_FLOATS = 2**20  # vector elements gathered at a time


class CosineRanks(TableStatistics):
    """Of each candidate, with the cosines c of the events that it sees in a list, all of which have a vector."""

    kinds: ClassVar[set[str]] = {"cos_min", "cos_max", "cos_p", "cos_share_ge"}

    def batches(self) -> Iterator[Pieces]:
        """What `compute` is to be called with."""
        candidates, seen = self.events.candidates, self.events.seen
        is_long = seen.end - seen.indptr[candidates.users] > _LONG  # as far as a candidate knows
        pieces = cut(candidates.indptr, seen, self.wanted & ~is_long, _CANDIDATES, _BLOCK)
        pieces += cut(candidates.indptr, seen, self.wanted & is_long, _LONG_CANDIDATES, _LONG_BLOCK, _LONG_CANDIDATES)
        pieces = pieces.take(np.lexsort((pieces.shape, pieces.events, pieces.block)))
        pairs = offsets(seen.count)
        return pieces.batches(pairs[pieces.last] - pairs[pieces.first] + pieces.cosines, 3 * PAIRS)

    def compute(self, pieces: Pieces) -> Done:
        """Fill in what the candidates of some pieces get."""
        batch = Batch(pieces, self.events.seen, self.wanted)
        done = Done(rows=len(batch.q), stages={"gather": Cost(), "cosines": Cost()})
        cosines, first = self._multiply(batch, done.stages)
        done.cosines = done.stages["cosines"].rows = len(cosines)
        began = time.perf_counter()
        pairs, low = offsets(batch.counts), 0
        while low < len(batch.q):  # rows that are sorted together
            high = max(low + 1, int(np.searchsorted(pairs, pairs[low] + 4 * PAIRS, "right")) - 1)
            self._rank(batch, slice(low, high), cosines, first[low:high])
            low = high
        done.stages["statistics"] = Cost(time.perf_counter() - began, len(batch.q))
        return done

    # --- products ---------------------------------------------------------------------------------------

    def _multiply(self, batch: Batch, costs: dict[str, Cost]) -> tuple[Floats, Ints]:
        """The cosines of a batch, and (R) where those of each row begin."""
        pieces, vectors, missing = batch.pieces, self.matrix.vectors, self.matrix.missing
        cosines_at, asked_at = offsets(pieces.cosines), offsets(pieces.shape)
        cosines = np.empty(cosines_at[-1], np.float32)
        candidates, padding = with_padding(pieces.first, pieces.last, pieces.shape)
        asked = np.where(padding, missing, self.slots[candidates])
        _, slots = self.slots_of(batch)
        for part in batch.slices(_FLOATS // vectors.shape[1]):
            began = time.perf_counter()
            first, last = (int(asked_at[at]) for at in (part.pieces.start, part.pieces.stop))
            some, others = vectors.take(asked[first:last], axis=0), vectors.take(slots[part.events], axis=0)
            gathered = time.perf_counter()
            mine = pieces.take(part.pieces)
            starts = run_starts(mine.shape, mine.events, mine.block).tolist()
            for low, high in pairwise([*starts, len(mine)]):
                at = slice(part.pieces.start + low, part.pieces.start + high)
                k, C, K = high - low, int(mine.shape[low]), int(mine.block[low])
                q = some[asked_at[at.start] - first : asked_at[at.stop] - first]
                out = cosines[cosines_at[at.start] : cosines_at[at.stop]].reshape(k, C, -1, K)
                begin, end = (int(place) - part.events.start for place in batch.events_at[[at.start, at.stop]])
                if part.is_part:
                    out, begin, end = out[:, :, -begin // K : (len(others) - begin) // K], 0, len(others)
                block_cosines(q.reshape(k, C, -1), others[begin:end].reshape(k, -1, K, others.shape[1]), out)
            costs["gather"].add(gathered - began, len(some) + len(others), some.nbytes + others.nbytes)
            costs["cosines"].add(time.perf_counter() - gathered)
        within = batch.q - pieces.first[batch.piece]
        return cosines, cosines_at[batch.piece] + within * pieces.events[batch.piece] + batch.hidden

    # --- ranks ------------------------------------------------------------------------------------------

    def _rank(self, batch: Batch, rows: slice, cosines: Floats, first: Ints) -> None:
        """Everything that the order of the cosines tells, of some rows."""
        q, place, counts = batch.q[rows], batch.place[rows], batch.counts[rows]
        ranked = rank(cosines, first, place, counts)
        self.put("cos_min", q, ranked.smallest)
        self.put("cos_max", q, ranked.largest)
        events = batch.pieces.low[batch.piece[rows]] - batch.events_at[batch.piece[rows]]

        def exact(row: Ints, place: Ints) -> Doubles:
            slots, asked = self.event_slots[place + events[row]], self.slots[q[row]]
            out = np.empty(len(row))
            step = max(1, _FLOATS // self.matrix.vectors.shape[1])
            for low in range(0, len(row), step):
                at = slice(low, low + step)
                out[at] = exact_cosines(self.matrix.vectors[asked[at]], self.matrix.vectors[slots[at]])
            return out

        thresholds = self.arguments("cos_share_ge")
        reached = dict(zip(thresholds, reaching(ranked, thresholds, exact), strict=True))
        for half_life in self.half_lives:
            percentiles, thresholds = self.arguments("cos_p", half_life), self.arguments("cos_share_ge", half_life)
            if percentiles or thresholds:
                cumulative = cumulate(ranked, *self._whole_weights(batch, rows, half_life))
                for p, values in zip(percentiles, weighted_percentiles(ranked, cumulative, percentiles), strict=True):
                    self.put("cos_p", q, values, half_life, p)
                for t in thresholds:
                    self.put("cos_share_ge", q, share(cumulative, reached[t]), half_life, t)

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
