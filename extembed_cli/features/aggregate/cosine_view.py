"""The cosines that some candidates see, as the statistics read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles, Floats, Ints
from extembed_cli.features.aggregate.event_lists import EventList
from extembed_cli.histories.batches import Batch
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.decay import REFERENCE_STEP, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, run_starts, spread
from extembed_cli.kernels.statistics import Cumulative, Ranked, Reaching, cumulate, rank, reaching


class Mean(NamedTuple):
    """The decayed mean m = Σ w v / Σ w of the vectors that R candidates see, with the candidate q."""

    along: Doubles
    """(R) q · m"""
    length: Doubles
    """(R) |m|"""


class CosineView:
    """R candidates of a batch that see at least one event. Attributes are computed when they are first read."""

    def __init__(
        self,
        events: EventList,
        batch: Batch,
        at: slice,
        cosines: Floats,
        first: Ints,
        means: dict[str, Mean],
        exact: Callable[[Ints, Ints], Doubles],
    ) -> None:
        """`first` (R): where the cosines of each row begin; `exact`: float64 cosines of candidates with events."""
        self.events, self.batch, self.at = events, batch, at
        self.candidates = batch.q[at]
        """(R) their places among the candidates of the shard"""
        self.counts = batch.counts[at]
        """(R) the events that they see"""
        self.piece = batch.piece[at]
        self._cosines, self._first, self._means, self._exact = cosines, first, means, exact
        self._cumulative: dict[str, Cumulative] = {}
        self._reaching: dict[tuple[float, ...], list[Reaching]] = {}

    @cached_property
    def ranked(self) -> Ranked:
        """The cosines in order."""
        return rank(self._cosines, self._first, self.batch.place[self.at], self.counts)

    @cached_property
    def cosines(self) -> Floats:
        """The cosines in the order of the events, one row after another."""
        return clipped(self._cosines.take(ragged(self._first, self.counts)))

    def weights(self, half_life: str) -> Doubles:
        """Return the weights of the same events, relative to the heaviest of the row; no other row matters.

        Whole weights are for sums that must be exact: they round those of very old events to 0.
        """
        heights, highest = self._heights(half_life)
        heights -= highest.take(spread(np.arange(len(highest)), self.counts))
        return np.exp2(heights, out=heights)

    def mean(self, half_life: str) -> Mean:
        """Return the decayed mean of the vectors."""
        mean = self._means[half_life]
        return Mean(mean.along[self.at], mean.length[self.at])

    def cumulative(self, half_life: str) -> Cumulative:
        """Return the cumulative weights in the order of the cosines."""
        if half_life not in self._cumulative:
            self._cumulative[half_life] = cumulate(self.ranked, *self._whole_weights(half_life))
        return self._cumulative[half_life]

    def reaching(self, thresholds: Sequence[float]) -> list[Reaching]:
        """Return for each threshold which cosines are at least that."""
        key = tuple(thresholds)
        if key not in self._reaching:
            shift = self.batch.pieces.low[self.piece] - self.batch.events_at[self.piece]
            self._reaching[key] = reaching(
                self.ranked, thresholds, lambda row, place: self._exact(self.candidates[row], place + shift[row])
            )
        return self._reaching[key]

    def _heights(self, half_life: str) -> tuple[Doubles, Doubles]:
        """Return log2 of the weights of all events, one row after another, and (R) the largest of each row."""
        end = self.events.seen.end[self.candidates]
        heights = self.events.heights(half_life, ragged(end - self.counts, self.counts))
        return heights, np.maximum.reduceat(heights, offsets(self.counts)[:-1])

    def _whole_weights(self, half_life: str) -> tuple[Ints, Ints]:
        """Return whole weights of the events, and (R) the shift from a row's places to the places of its weights.

        Rows of a piece share weights where these can be relative to one moment: a whole number of half-lives after the
        user's first event, so that weights that are powers of two stay so, and not long after the newest event that
        weighs anything.
        """
        events, piece = self.events, self.piece
        clock, low = events.clock(half_life), self.batch.pieces.low[piece]
        end = events.seen.end[self.candidates]
        newest = clock[end - 1]
        if events.weights is not None:
            newest = self._heights(half_life)[1]
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
        repeats = np.diff(np.append(first, len(piece)))
        return whole, np.repeat(offsets(lengths)[:-1], repeats) - self.batch.events_at[piece]
