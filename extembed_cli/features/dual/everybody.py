"""Fits of everybody's events: one linear model over the vectors of items, fitted anew at every step of time.

An event is seen from the first step on that begins after its time and the lag. The events of an item in a step share
one vector, so they are summed first, in order of time; the sums of all items are then added in order of the items' ids
(`kernels/step_sums`). Both orders are the same however the log is split.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Ints, Nums, Values
from extembed_cli.data.mapped_arrays import ArrayFolder, zeros
from extembed_cli.data.matrices import ROWS, EmbeddingMatrix, places_of
from extembed_cli.data.shard_results import Tally
from extembed_cli.errors import DataError, Problems
from extembed_cli.features.dual.fits import Fit, FitStatistic
from extembed_cli.features.technique.protocol import Prepared, ShardWork, Survey, Surveyed, TableTotals, Task
from extembed_cli.histories.csr import Shard
from extembed_cli.kernels.gramian import eigen
from extembed_cli.kernels.segments import run_starts
from extembed_cli.kernels.step_sums import StepSums, root_of_step, solve_step
from extembed_cli.spec.durations import duration_us, half_life_us
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Cost
from extembed_cli.system.threads import Mapping

PAIR_BYTES = 32  # of an item in a step
_PAIR = np.dtype([("step", "i8"), ("item", "i4"), ("events", "i4"), ("weight", "f8"), ("value", "f8")])
_PAIRS = 2**17  # sorted at a time
_SUMS = 8  # matrices kept at a time
_FLOATS = 2**18  # vector elements gathered at a time


@dataclass(frozen=True)
class Everybody:
    """One fit at all steps where it is needed."""

    steps: Ints
    """(K) steps since 1970, ascending; none before the first event is seen"""
    is_new: Bools
    """(K) whether a step sees new events"""
    vectors: Doubles
    """u (K, D) in the coordinates of the table"""
    roots: Doubles
    """R (K, D, D): |R x| is the standard deviation of a score; (0, D, D) where none is needed"""

    def places(self, steps: Ints) -> Ints:
        """Return the place of each step; -1 where no event is seen."""
        place = np.searchsorted(self.steps, steps)
        known = np.append(self.steps, -1)[place] == steps
        return np.where(known, place, -1)

    def save(self, arrays: ArrayFolder, name: str) -> dict[str, Any]:
        """Keep it in mapped files; returns what `open` needs."""
        return {
            part: arrays.put(f"{name}.{part}", getattr(self, part)) for part in ("steps", "is_new", "vectors", "roots")
        }

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any]) -> Everybody:
        """Open what `save` kept."""
        return cls(**{part: arrays.get(kept) for part, kept in about.items()})


# --- fit ---------------------------------------------------------------------------------------------


class Needs(NamedTuple):
    """What is needed of a fit."""

    scores: bool
    """At the steps of the candidates"""
    sd: bool
    vectors: bool
    """At the steps that see new events"""


class EverybodySurvey(Survey):
    """The fits of all events, from shards of items."""

    def __init__(self, spec: Spec, needs: dict[Fit, Needs], prepared: Prepared, events: int) -> None:
        self.items = prepared.vocabulary.ids
        loaded = {fit: each for fit, each in needs.items() if fit.matrix in prepared.embeddings}
        self.sums = [_ItemSums(spec, fit, each, prepared, events) for fit, each in loaded.items()]
        problems = Problems()
        for each in self.sums:
            with problems.collect():
                each.check()
        problems.raise_any()

    def add(self, shard: Shard) -> None:
        items = places_of(shard.owners, self.items, -1)
        for each in self.sums:
            each.add(shard, items)

    def result(self, mapped: Mapping) -> Surveyed:
        tally = Tally()
        return Surveyed({each.fit: each.fitted(mapped, tally) for each in self.sums}, tally)


class _Part(NamedTuple):
    """The pairs of a shard, ordered by step and item."""

    pairs: Values
    steps: Ints
    """The different steps"""
    bounds: Ints
    """Where the pairs of each begin, and where the last ones end"""


class _ItemSums:
    """What the events of each item in each step add to one fit."""

    def __init__(self, spec: Spec, fit: Fit, needs: Needs, prepared: Prepared, events: int) -> None:
        self.spec, self.fit, self.needs, self.folder = spec, fit, needs, prepared.folder
        self.matrix = prepared.embeddings[fit.matrix]
        self.normalized = spec.table(fit.embedding).normalize
        self.dim = self.matrix.dim + fit.bias
        totals = prepared.totals.get(fit.matrix, TableTotals(0, np.zeros((self.dim, self.dim))))
        self.partners, self.gramian = totals.partners, totals.gramian[: self.dim, : self.dim]
        self.pairs = zeros((events,), _PAIR, self.folder)
        self.parts: list[_Part] = []
        self.wanted: Ints = np.zeros(0, np.int64)
        """The steps of the candidates"""

    def check(self) -> None:
        """Raise where the fit is not unique."""
        if self.fit.regularization == 0:
            self.fit.check(eigen(self.gramian).values, self.partners)

    # --- events and candidates in ---

    def add(self, shard: Shard, items: Ints) -> None:
        """Take the events and candidates of some items, whose places in the vocabulary are given."""
        fit, step_us = self.fit, self.fit.step_us
        self.wanted = np.union1d(self.wanted, shard.candidates.times // step_us)
        where = self.spec.membership(fit.history)
        history = shard.history.in_order_of([each for each in (fit.target, where) if each is not None])
        of_event = items[np.repeat(np.arange(len(items)), np.diff(history.indptr))]
        chosen = self.matrix.with_vector[of_event]
        if where is not None:
            chosen &= history.values[where]
        if fit.target is not None:
            chosen &= ~np.isnan(history.values[fit.target])
        at = np.flatnonzero(chosen)
        item, times = of_event[at], history.times[at]
        steps = (times + duration_us(self.spec.lag)) // step_us + 1
        confidences = np.ones(len(at)) if history.weights is None else history.weights[at]
        half_life = half_life_us(fit.half_life)
        if half_life is not None:
            confidences = confidences * np.exp2((times - steps * step_us) / half_life)
        values = confidences if fit.target is None else confidences * history.values[fit.target][at]
        first = run_starts(item, steps)
        used = sum(len(part.pairs) for part in self.parts)
        pairs = self.pairs[used : used + len(first)]
        order = np.lexsort((item[first], steps[first]))
        if len(first):
            pairs["step"], pairs["item"] = steps[first][order], item[first][order]
            pairs["events"] = np.diff(np.append(first, len(at)))[order]
            pairs["weight"], pairs["value"] = (np.add.reduceat(c, first)[order] for c in (confidences, values))
        different, begin = np.unique(steps[first][order], return_index=True)
        self.parts.append(_Part(pairs, different, np.append(begin, len(pairs))))

    # --- fits out ---

    def fitted(self, mapped: Mapping, tally: Tally) -> Everybody:
        """Return the fit at all steps that need it."""
        seen = np.unique(np.concatenate([part.steps for part in self.parts] or [self.wanted]))
        steps = self.wanted if self.needs.scores else self.wanted[:0]
        steps = np.union1d(steps, seen) if self.needs.vectors else steps
        steps = steps[steps >= seen[0]] if len(seen) else steps[:0]
        vectors = np.zeros((len(steps), self.dim))
        roots = zeros((len(steps) if self.needs.sd else 0, self.dim, self.dim), np.float64, self.folder)

        def solve(place_and_sums: tuple[int, StepSums]) -> Tally:
            place, sums = place_and_sums
            began = time.perf_counter()
            prior = self.fit.unobserved_weight * self.gramian
            prior[np.diag_indices(self.dim)] += self.fit.strength(self.partners, sums.events)
            try:
                vectors[place], residual = solve_step(sums, prior)
                if not np.isfinite(vectors[place]).all():
                    raise np.linalg.LinAlgError
                if len(roots):
                    roots[place] = root_of_step(sums, prior)
            except np.linalg.LinAlgError:
                raise DataError(self.fit.singular) from None
            seconds = time.perf_counter() - began
            counts = {"systems": 1, "primal_solves": 1}
            largest, stages = {"relative_residual": residual}, {"solve": Cost(seconds, 1)}
            return Tally(counts=counts, largest=largest, seconds={"dual": seconds}, stages=stages)

        for part in mapped(solve, self._sums_at(steps, mapped, tally)):
            tally.add(part)
        return Everybody(steps, np.isin(steps, seen), vectors, roots)

    def _sums_at(self, steps: Ints, mapped: Mapping, tally: Tally) -> Iterator[tuple[int, StepSums]]:
        """Yield the place of each step, and the sums over the events that it sees."""
        running, at, place = StepSums(np.zeros((self.dim, self.dim)), np.zeros(self.dim), 0), 0, 0
        blocks = self._blocks(int(steps[-1]) if len(steps) else 0)
        while some := list(islice(blocks, _SUMS)):
            for step, sums, seconds in mapped(self._sums_of, some):
                tally.add(Tally(seconds={"dual": seconds}))
                while place < len(steps) and steps[place] < step:
                    yield place, running.decayed(self._decay(int(steps[place]) - at))
                    place += 1
                running, at = running.decayed(self._decay(step - at)).plus(sums), step
        for later in range(place, len(steps)):
            yield later, running.decayed(self._decay(int(steps[later]) - at))

    def _decay(self, steps: int) -> float:
        half_life = half_life_us(self.fit.half_life)
        return 1.0 if half_life is None else 2.0 ** -(steps * self.fit.step_us / half_life)

    def _blocks(self, last: int) -> Iterator[Values]:
        """Yield the pairs of each step up to the last, ordered by item, some at a time."""
        parts = [part for part in self.parts if len(part.steps)]
        if not parts:
            return
        steps, of = np.unique(np.concatenate([part.steps for part in parts]), return_inverse=True)
        ends = np.cumsum(np.bincount(of, np.concatenate([np.diff(part.bounds) for part in parts])))
        low, until = 0, int(np.searchsorted(steps, last, "right"))
        while low < until:
            before = 0 if low == 0 else ends[low - 1]
            high = min(until, max(low + 1, int(np.searchsorted(ends, before + _PAIRS, "right"))))
            some = np.concatenate([_between(part, int(steps[low]), int(steps[high - 1])) for part in parts])
            some = some[np.lexsort((some["item"], some["step"]))]
            bounds = np.append(run_starts(some["step"]), len(some)).tolist()
            for begin, end in pairwise(bounds):
                yield from (some[at : min(at + ROWS, end)] for at in range(begin, end, ROWS))
            low = high

    def _sums_of(self, pairs: Values) -> tuple[int, StepSums, float]:
        """Return the step of some pairs, their sums, and the seconds that they took."""
        began = time.perf_counter()
        rows = self.matrix.exact(self.matrix.slots[pairs["item"]], normalized=self.normalized, bias=self.fit.bias)
        sums = StepSums.of(rows, pairs["weight"].copy(), pairs["value"].copy(), int(pairs["events"].sum()))
        return int(pairs["step"][0]), sums, time.perf_counter() - began


def _between(part: _Part, first: int, last: int) -> Values:
    """Return the pairs of the steps [first, last]."""
    low, high = np.searchsorted(part.steps, [first, last + 1])
    return part.pairs[part.bounds[low] : part.bounds[high]]


# --- score -------------------------------------------------------------------------------------------


class EverybodyScores:
    """The scores of candidates by one fit, and their standard deviations."""

    def __init__(self, fit: Fit, everybody: Everybody, matrix: EmbeddingMatrix, *, normalized: bool) -> None:
        self.fit, self.everybody, self.matrix, self.normalized = fit, everybody, matrix, normalized

    def tasks(self, work: ShardWork, statistics: Sequence[FitStatistic]) -> Iterator[Task]:
        """Yield tasks that score the candidates of some steps and items; those of one step and item are scored once."""
        candidates = work.candidates
        values = {s.kind: np.full(len(candidates.rows), np.nan, np.float32) for s in statistics if s.fit == self.fit}
        work.values.update({FitStatistic(kind, self.fit): each for kind, each in values.items()})
        places = self.everybody.places(candidates.times // self.fit.step_us)
        slots = self.matrix.slots_of(candidates.partners, candidates.times)
        known = np.flatnonzero((places >= 0) & (slots != self.matrix.missing))
        order = known[np.lexsort((slots[known], places[known]))]
        bounds = np.append(run_starts(places[order], slots[order]), len(order))
        pairs = max(1, _FLOATS // self.everybody.vectors.shape[1])
        for low in range(0, len(bounds) - 1, pairs):
            yield partial(self._score, values, places, slots, order, bounds[low : low + pairs + 1])

    def _score(self, values: dict[str, Values], places: Ints, slots: Nums, order: Ints, bounds: Ints) -> Tally:
        """Score the candidates between the first and the last of some bounds of `order`."""
        began = time.perf_counter()
        first, rows, counts = order[bounds[:-1]], order[bounds[0] : bounds[-1]], np.diff(bounds)
        place = places[first]
        vectors = self.matrix.exact(slots[first], normalized=self.normalized, bias=self.fit.bias)
        if "score" in values:
            scores = np.einsum("nd,nd->n", vectors, self.everybody.vectors[place])
            values["score"][rows] = np.repeat(scores, counts)
        if "sd" in values:
            deviations = np.zeros(len(first))
            for low, high in pairwise(np.append(run_starts(place), len(place)).tolist()):
                # One product of a fixed shape for each row: its bits do not depend on the other candidates.
                images = np.matmul(self.everybody.roots[place[low]], vectors[low:high, :, None])[..., 0]
                deviations[low:high] = np.sqrt(np.einsum("nd,nd->n", images, images))
            values["sd"][rows] = np.repeat(deviations, counts)
        return Tally(seconds={"dual": time.perf_counter() - began})
