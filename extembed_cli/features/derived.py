"""Vectors of users from their own histories: the decayed mean of the item vectors, as of any moment.

    v(u, t) = Σ w y x, w = weight · 2^(−age / half_life), over the visible events of u at t whose item has a vector x

divided by its norm. Without a target y = 1. A sum whose norm is that of rounding has no direction, and is no vector.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.histories.batches import Batch, Pieces, cut
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.histories.event_lists import EventList
from extembed_cli.histories.visibility import visible, visible_end
from extembed_cli.kernels.decay import visible_sums
from extembed_cli.kernels.segments import offsets, run_starts, spread
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import DerivedSpec
from extembed_cli.system.threads import Mapping

_CANDIDATES, _FEW_CANDIDATES = 64, 8  # of a piece
_FLOATS = 2**18  # vector elements gathered at a time
_EVENTS = 2**18  # of a batch
_ZERO = 1e-6  # a sum this short against Σ w |y| is the rounding of the stored vectors


def moments_of(history: History, candidates: Candidates) -> Candidates:
    """Return one candidate for each owner and time of an event or a candidate, without a partner."""
    owners = np.append(np.repeat(np.arange(len(history.indptr) - 1), np.diff(history.indptr)), candidates.owners)
    times = np.append(history.times, candidates.times)
    order = np.lexsort((times, owners))
    first = order[run_starts(owners[order], times[order])]
    counts = np.bincount(owners[first], minlength=len(history.indptr) - 1)
    return Candidates(offsets(counts), np.arange(len(first)), times[first], np.full(len(first), -1, np.int32))


def derive_vectors(
    spec: Spec,
    derived: DerivedSpec,
    matrix: EmbeddingMatrix,
    history: History,
    moments: Candidates,
    out: Floats,
    mapped: Mapping = map,
) -> Doubles:
    """Write the unit vectors of the owners of a shard at some moments to `out`; return the norms of the sums.

    out (Q + ..., d)  zeros; the first rows get the vectors
    returns (Q)       0 where there is no vector
    """
    target = derived.target_expression
    used = [each for each in (target, spec.membership(derived.history)) if each is not None]
    history = history.in_order_of(used)
    seen = visible(spec, derived.history, history, moments, visible_end(spec, history, moments, mapped))
    seen = seen.only(matrix.with_vector[history.partners])
    if target is not None:
        seen = seen.only(~np.isnan(history.values[target]))
    sums = _Sums(EventList(history, moments, seen), derived, matrix, out)
    for _ in mapped(sums.compute, sums.batches()):
        pass
    return sums.norms


class _Sums:
    """Decayed sums of what the events of a list say in each direction, in float64."""

    def __init__(self, events: EventList, derived: DerivedSpec, matrix: EmbeddingMatrix, out: Floats) -> None:
        self.events, self.half_life, self.matrix = events, derived.half_life, matrix
        target = derived.target_expression
        self.targets = None if target is None else events.targets(target)
        self.slots = matrix.slots[events.partners]
        rows = len(events.candidates.rows)
        self.wanted: Bools = np.ones(rows, np.bool_)
        self.out = out
        self.norms = np.zeros(rows)
        """(Q) of Σ w y x, relative to the heaviest moment of the events that a candidate sees"""

    def batches(self) -> Iterator[Pieces]:
        """Yield the arguments of the calls of `compute`."""
        seen = self.events.seen
        shape = (_FEW_CANDIDATES, _FEW_CANDIDATES) if seen.moves else (_CANDIDATES,)
        pieces = cut(self.events.candidates.indptr, seen, self.wanted, *shape)
        pieces = pieces.take(np.lexsort((pieces.shape, pieces.events, pieces.block)))
        return pieces.batches(pieces.cosines, _EVENTS)

    def compute(self, pieces: Pieces) -> None:
        """Sum up what the candidates of some pieces see."""
        events, seen = self.events, self.events.seen
        batch = Batch(pieces, seen, self.wanted)
        q, _ = batch.candidates()
        of_batch, padding = batch.events()
        heights = events.heights(self.half_life, of_batch)
        said = np.where(padding, 0.0, 1.0 if self.targets is None else self.targets[of_batch])
        _, exponent = np.frexp(events.totals(self.half_life)[q])
        reference = events.clock(self.half_life)[np.maximum(seen.end[q], 1) - 1] + exponent
        low = spread(pieces.low, pieces.shape)
        start, end = seen.start[q] - low, seen.end[q] - low
        d = self.matrix.vectors.shape[1]
        sums = np.zeros((len(q), d + 1))
        for part in batch.slices(_FLOATS // (d + 1)):
            at, first = part.candidates, part.pieces.start
            shape, y = (-1, int(pieces.shape[first])), said[part.events]
            vectors = self.matrix.vectors.take(self.slots[of_batch[part.events]], axis=0) * y[:, None]
            values = np.column_stack([vectors, np.abs(y)])
            begin, stop = (place[at].reshape(shape) - part.skipped for place in (start, end))
            values = values.reshape(len(begin), -1, int(pieces.block[first]), d + 1)
            weights = heights[part.events].reshape(len(begin), -1)
            summed = visible_sums(values, weights, reference[at].reshape(shape), begin, stop)
            sums[at] += summed.reshape(-1, d + 1)
        rows = batch.candidates_at[batch.piece] + batch.within
        norms = np.sqrt(np.vecdot(sums[rows, :d], sums[rows, :d]))
        norms[norms <= _ZERO * sums[rows, d]] = 0
        self.out[batch.q] = sums[rows, :d] / np.where(norms > 0, norms, np.inf)[:, None]
        self.norms[batch.q] = norms
