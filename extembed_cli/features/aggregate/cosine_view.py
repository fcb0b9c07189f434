"""The cosines that some candidates see, as the statistics read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints
from extembed_cli.histories.batches import Batch
from extembed_cli.histories.event_lists import EventList
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.decay import REFERENCE_STEP, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets, ragged, run_starts
from extembed_cli.kernels.statistics import Cumulative, Ranked, Reaching, cumulate, rank, reaching
from extembed_cli.kernels.targets import Top, log_weighted_mean, relative_logs, top
from extembed_cli.spec.expressions import Expression


class Mean(NamedTuple):
    """The decayed mean m = Σ w v / Σ w of the vectors that R candidates see, with the candidate q."""

    along: Doubles
    """(R) q · m"""
    length: Doubles
    """(R) |m|"""


class RowTargets(NamedTuple):
    """What the events say that R candidates see, one row after another."""

    values: Doubles
    """(n) 0 where an event says nothing"""
    known: Bools
    """(n)"""


class KernelMean(NamedTuple):
    """The mean of what similar events say, (R) each; NaN where none says anything."""

    mean: Doubles
    weight: Doubles
    """Σ w k(c), as of the candidate"""


class TopMean(NamedTuple):
    """The means of the most similar events, (R) each; NaN where there is none."""

    cosine: Doubles
    target: Doubles
    chosen: Top


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
        self._known_heights: dict[str, tuple[Doubles, Doubles]] = {}
        self._cumulative: dict[str, Cumulative] = {}
        self._reaching: dict[tuple[float, ...], list[Reaching]] = {}
        self._targets: dict[Expression, RowTargets] = {}
        self._logs: dict[tuple[str, Expression], tuple[Floats, Doubles]] = {}
        self._kernels: dict[tuple[str, Expression, float], KernelMean] = {}

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
        relative = heights - np.repeat(highest, self.counts)
        return np.exp2(relative, out=relative)

    def heaviest(self, half_life: str) -> Doubles:
        """(R) The largest weight of each row, as of the candidate."""
        return np.exp2(self._heights(half_life)[1] + self.events.absolute_logs(half_life, self.candidates))

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

    # --- targets ----------------------------------------------------------------------------------------

    def kernel(self, half_life: str, target: Expression, temperature: float) -> KernelMean:
        """Return the mean target with weights w k(c), k(c) = exp((c − 1) / temperature), and Σ w k(c)."""
        key = half_life, target, temperature
        if key not in self._kernels:
            targets, (logs, absolute) = self.targets(target), self._target_logs(half_life, target)
            steepness = 1 / (temperature * np.log(2))
            mean, log_total = log_weighted_mean(
                logs + self.cosines * np.float32(steepness), targets.values, self.counts
            )
            weight = np.where(np.isnan(mean), np.nan, np.exp2(log_total + absolute - steepness))
            self._kernels[key] = KernelMean(mean, weight)
        return self._kernels[key]

    def mean_of_reaching(self, half_life: str, target: Expression, reaching: Reaching) -> Doubles:
        """Return (R) the mean target of the events whose cosines reach a threshold; NaN where none does."""
        targets = self.targets(target)
        row, keys = reaching.of(self.ranked)
        event = self.event_of(row, keys)
        if not targets.known.all():
            known = targets.known[event]
            row, event = row[known], event[known]
        counts = np.bincount(row, minlength=len(self.counts))
        out = np.full(len(counts), np.nan)
        if len(row):
            logs, some = self._heights(half_life)[0][event], counts > 0
            out[some] = log_weighted_mean(logs, targets.values[event], counts[some]).mean
        return out

    def top(self, number: float, target: Expression | None) -> TopMean:
        """Return the mean cosine and target of the most similar events that have a target, if one is named."""
        known, values = None, np.full(len(self.ranked.keys), np.nan)
        if target is not None:
            targets, at = self.targets(target), ragged(self.ranked.start, self.ranked.counts)
            event = self.event_of(np.repeat(np.arange(len(self.counts)), self.counts), at)
            values[at] = targets.values[event]
            if not targets.known.all():
                known = np.zeros(len(self.ranked.keys), np.bool_)
                known[at] = targets.known[event]
        chosen = top(self.ranked, int(number), known)
        cosine = chosen.mean(self.ranked.values(chosen.positions))
        return TopMean(cosine, chosen.mean(values[chosen.positions]), chosen)

    def event_of(self, row: Ints, keys: Ints) -> Ints:
        """Return the places of the events of some keys of rows, one row after another."""
        shift = offsets(self.counts)[:-1] - self.batch.place[self.at]
        return self.ranked.places(keys) + shift.take(row)

    def targets(self, target: Expression) -> RowTargets:
        """Return what the events say."""
        if target not in self._targets:
            values = self.events.targets(target).take(self._visible)
            known = ~np.isnan(values)
            values[~known] = 0
            self._targets[target] = RowTargets(values, known)
        return self._targets[target]

    def _target_logs(self, half_life: str, target: Expression) -> tuple[Floats, Doubles]:
        """Return log2 of the weights of the events that say something, relative to the largest of each row: (n), (R).

        The second result is log2 of the largest weight as of the candidate.
        """
        key = half_life, target
        if key not in self._logs:
            logs, highest = relative_logs(self._heights(half_life)[0], self.targets(target).known, self.counts)
            self._logs[key] = logs, highest + self.events.absolute_logs(half_life, self.candidates)
        return self._logs[key]

    # --- weights ----------------------------------------------------------------------------------------

    def _heights(self, half_life: str) -> tuple[Doubles, Doubles]:
        """Return log2 of the weights of all events, one row after another, and (R) the largest of each row."""
        if half_life not in self._known_heights:
            heights = self.events.heights(half_life, self._visible)
            self._known_heights[half_life] = heights, np.maximum.reduceat(heights, offsets(self.counts)[:-1])
        return self._known_heights[half_life]

    @cached_property
    def _visible(self) -> Ints:
        """The places of all events that the rows see, one row after another."""
        return ragged(self.events.seen.end[self.candidates] - self.counts, self.counts)

    def _whole_weights(self, half_life: str) -> tuple[Ints, Ints]:
        """Return whole weights of the events, and (R) the shift from a row's places to the places of its weights.

        Rows of a piece share weights where these can be relative to one moment: a whole number of half-lives after the
        owner's first event, so that weights that are powers of two stay so, and not long after the newest event that
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
