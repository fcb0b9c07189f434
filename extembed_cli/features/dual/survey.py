"""Fits of everybody's events, from shards of items: the events of each step are summed and added up along time.

An event is seen from the first step on that begins after its time and the lag. The events of an item in a step share
one vector, so they are summed first, in order of time; the sums of all items are then added in order of the items' ids
(`kernels/step_sums`). Both orders are the same however the log is split.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from extembed_cli.arrays import Doubles, Ints, Values
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.mapped_arrays import is_mapped, zeros
from extembed_cli.data.shards.matrices import ROWS, places_of
from extembed_cli.errors import DataError, Problems
from extembed_cli.features.dual.everybody import Everybody
from extembed_cli.features.dual.fits import Fit
from extembed_cli.features.technique.protocol import Prepared, Rows, Survey, Surveyed, TableTotals
from extembed_cli.histories.csr import Shard
from extembed_cli.kernels.gramian import eigen
from extembed_cli.kernels.segments import run_starts
from extembed_cli.kernels.step_sums import StepSums, solve_step, variances_of_step
from extembed_cli.spec.durations import duration_us, half_life_us
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Cost
from extembed_cli.system.threads import Mapping

_EVENTS = np.dtype([("step", "i8"), ("item", "i4"), ("events", "i4"), ("weight", "f8"), ("value", "f8")])
_CANDIDATES = np.dtype([("step", "i8"), ("item", "i4")])
_BYTES_PER_DEVIATION = _CANDIDATES.itemsize + 12  # the pair, and its place with the deviation
_PAIRS = 2**17  # of step and item, sorted at a time
_SUMS = 8  # matrices kept at a time


class Needs(NamedTuple):
    """What is needed of a fit."""

    scores: bool
    """At the steps of the candidates"""
    sd: bool
    vectors: bool
    """At the steps that see new events"""


def bytes_of_fit(fit: Fit, needs: Needs, rows: Rows, dim: int) -> int:
    """Return the most bytes that a survey keeps of a fit: sums of events, deviations, and the vectors of its steps."""
    steps = rows.candidates * needs.scores + rows.events * needs.vectors
    if rows.span_us is not None:
        steps = min(steps, rows.span_us // fit.step_us + 3)
    deviations = rows.candidates * needs.sd * _BYTES_PER_DEVIATION
    return rows.events * _EVENTS.itemsize + deviations + 8 * steps * dim


class EverybodySurvey(Survey):
    """The fits of all events, from shards of items."""

    def __init__(self, spec: Spec, needs: dict[Fit, Needs], prepared: Prepared, events: int, candidates: int) -> None:
        self.ids = prepared.vocabulary.ids
        self.fits = [_FitOfAll(spec, fit, need, prepared, events, candidates) for fit, need in needs.items()]
        problems = Problems()
        for each in self.fits:
            with problems.collect():
                each.check()
        problems.raise_any()

    def add(self, shard: Shard) -> None:
        items = places_of(shard.owners, self.ids, -1)
        for each in self.fits:
            each.add(shard, items)

    def result(self, mapped: Mapping) -> Surveyed:
        tally = Tally()
        fitted = {each.fit: each.fitted(mapped, tally) for each in self.fits}
        arrays = [each for fit in fitted.values() for each in (fit.vectors, fit.pairs, fit.deviations)]
        return Surveyed(fitted, tally, sum(each.nbytes for each in arrays if not is_mapped(each)))


class _Part(NamedTuple):
    """The pairs of a shard, ordered by step and item."""

    pairs: Values
    steps: Ints
    """The different steps"""
    bounds: Ints
    """Where the pairs of each begin, and where the last ones end"""


class _Pairs:
    """Pairs of step and item from shards of items, in order of steps and items."""

    def __init__(self, most: int, dtype: DTypeLike, folder: Path | None) -> None:
        self.all, self.used = zeros((most,), dtype, folder), 0
        self.parts: list[_Part] = []

    def add(self, steps: Ints, items: Ints, **columns: Values) -> None:
        """Add the different pairs of a shard, in any order, with further columns."""
        order = np.lexsort((items, steps))
        pairs = self.all[self.used : self.used + len(order)]
        self.used += len(order)
        for name, values in {"step": steps, "item": items, **columns}.items():
            pairs[name] = values[order]
        different, begin = np.unique(steps[order], return_index=True)
        if len(different):
            self.parts.append(_Part(pairs, different, np.append(begin, len(pairs))))

    @property
    def steps(self) -> Ints:
        """The different steps."""
        return np.unique(np.concatenate([part.steps for part in self.parts] or [np.zeros(0, np.int64)]))

    def count(self, steps: Ints) -> int:
        """Return the number of pairs from the first to the last of some steps."""
        return sum(len(_between(part, steps)) for part in self.parts)

    def by_step(self, steps: Ints) -> Iterator[Values]:
        """Yield the pairs of each step from the first to the last of some steps, ordered by item."""
        if not self.count(steps):
            return
        different = self.steps
        counts = sum(
            np.bincount(np.searchsorted(different, p.steps), np.diff(p.bounds), len(different)) for p in self.parts
        )
        ends = np.cumsum(counts)
        low, until = np.searchsorted(different, [steps[0], steps[-1] + 1]).tolist()
        while low < until:
            before = 0 if low == 0 else ends[low - 1]
            high = min(until, max(low + 1, int(np.searchsorted(ends, before + _PAIRS, "right"))))
            some = np.concatenate([_between(part, different[[low, high - 1]]) for part in self.parts])
            some = some[np.lexsort((some["item"], some["step"]))]
            yield from (some[begin:end] for begin, end in pairwise([*run_starts(some["step"]).tolist(), len(some)]))
            low = high


def _between(part: _Part, steps: Ints) -> Values:
    """Return the pairs from the first to the last of some steps."""
    if not len(steps):
        return part.pairs[:0]
    low, high = np.searchsorted(part.steps, [steps[0], steps[-1] + 1])
    return part.pairs[part.bounds[low] : part.bounds[high]]


class _Step(NamedTuple):
    """A step to solve."""

    place: int
    """Among all that are solved"""
    sums: StepSums
    """Over the events that it sees"""
    items: Ints
    """(n) of its candidates, ascending, where deviations are needed"""
    first: int
    """The place of the first of these pairs among those of all steps"""


class _FitOfAll:
    """One fit: what events and candidates need, and then its solution at all steps."""

    def __init__(self, spec: Spec, fit: Fit, needs: Needs, prepared: Prepared, events: int, candidates: int) -> None:
        self.spec, self.fit, self.needs, self.folder = spec, fit, needs, prepared.folder
        self.ids, self.matrix = prepared.vocabulary.ids, prepared.embeddings[fit.matrix]
        self.normalized = spec.table(fit.embedding).normalize
        self.dim = self.matrix.dim + fit.bias
        totals = prepared.totals.get(fit.matrix, TableTotals(0, np.zeros((self.dim, self.dim))))
        self.partners, self.gramian = totals.partners, totals.gramian[: self.dim, : self.dim]
        self.events = _Pairs(events, _EVENTS, self.folder)
        self.candidates = _Pairs(candidates if needs.sd else 0, _CANDIDATES, self.folder)
        self.wanted: Ints = np.zeros(0, np.int64)
        """The steps of the candidates"""

    def check(self) -> None:
        """Raise where the fit is not unique."""
        if self.fit.regularization == 0:
            self.fit.check(eigen(self.gramian).values, self.partners)

    # --- shards in ---

    def add(self, shard: Shard, items: Ints) -> None:
        """Take the events and candidates of some items, whose places in the vocabulary are given."""
        steps = shard.candidates.times // self.fit.step_us
        if self.needs.scores:
            self.wanted = np.union1d(self.wanted, steps)
        if self.needs.sd:
            item = items[shard.candidates.owners]
            first = run_starts(item, steps)  # they are ordered by item and time
            first = first[self.matrix.with_vector[item[first]]]
            self.candidates.add(steps[first], item[first])
        self._add_events(shard, items)

    def _add_events(self, shard: Shard, items: Ints) -> None:
        fit, step_us = self.fit, self.fit.step_us
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
        weight, value = (np.add.reduceat(c, first) if len(first) else c for c in (confidences, values))
        counts = np.diff(np.append(first, len(at)))
        self.events.add(steps[first], item[first], events=counts, weight=weight, value=value)

    # --- solutions out ---

    def fitted(self, mapped: Mapping, tally: Tally) -> Everybody:
        """Return the fit at all steps that need it."""
        seen = self.events.steps
        steps = np.union1d(self.wanted, seen) if self.needs.vectors else self.wanted
        steps = steps[steps >= seen[0]] if len(seen) else steps[:0]
        vectors = zeros((len(steps), self.dim), np.float64, self.folder)
        pairs = zeros((self.candidates.used,), np.int64, self.folder)
        deviations = zeros((self.candidates.used,), np.float32, self.folder)

        def solve(step: _Step) -> Tally:
            place, sums, items, first = step
            began = time.perf_counter()
            prior = self.fit.unobserved_weight * self.gramian
            prior[np.diag_indices(self.dim)] += self.fit.strength(self.partners, sums.events)
            try:
                vectors[place], residual = solve_step(sums, prior)
                if not np.isfinite(vectors[place]).all():
                    raise np.linalg.LinAlgError
                for low in range(0, len(items), ROWS):
                    some = items[low : low + ROWS]
                    at = slice(first + low, first + low + len(some))
                    pairs[at] = place * len(self.ids) + some
                    deviations[at] = np.sqrt(variances_of_step(sums, prior, self._rows(some)))
            except np.linalg.LinAlgError:
                raise DataError(self.fit.singular) from None
            seconds = time.perf_counter() - began
            counts = {"systems": 1, "primal_solves": 1}
            largest, stages = {"relative_residual": residual}, {"solve": Cost(seconds, 1)}
            return Tally(counts=counts, largest=largest, seconds={"dual": seconds}, stages=stages)

        for part in mapped(solve, self._steps(steps, mapped, tally)):
            tally.add(part)
        scored = self.candidates.count(steps)
        return Everybody(steps, np.isin(steps, seen), vectors, pairs[:scored], deviations[:scored], self.ids)

    def _steps(self, steps: Ints, mapped: Mapping, tally: Tally) -> Iterator[_Step]:
        """Yield what is needed to solve each step."""
        if not len(steps):
            return
        items, at, place = self._items_of(steps), int(self.events.steps[0]), 0
        running = StepSums(np.zeros((self.dim, self.dim)), np.zeros(self.dim), 0)
        blocks = self._blocks(steps)
        while some := list(islice(blocks, _SUMS)):
            for step, sums, seconds in mapped(self._sums_of, some):
                tally.add(Tally(seconds={"dual": seconds}))
                while place < len(steps) and steps[place] < step:
                    yield _Step(place, running.decayed(self._decay(int(steps[place]) - at)), *next(items))
                    place += 1
                running, at = running.decayed(self._decay(step - at)).plus(sums), step
        for later in range(place, len(steps)):
            yield _Step(later, running.decayed(self._decay(int(steps[later]) - at)), *next(items))

    def _items_of(self, steps: Ints) -> Iterator[tuple[Ints, int]]:
        """Yield the items of each step's candidates, and how many came before."""
        pairs, before = self.candidates.by_step(steps), 0
        waiting = next(pairs, None)
        for step in steps.tolist():
            items: Ints = np.zeros(0, np.int64)
            if waiting is not None and waiting["step"][0] == step:
                items, waiting = waiting["item"].astype(np.int64), next(pairs, None)
            yield items, before
            before += len(items)

    def _decay(self, steps: int) -> float:
        half_life = half_life_us(self.fit.half_life)
        return 1.0 if half_life is None else float(2.0 ** -(steps * self.fit.step_us / half_life))

    def _blocks(self, steps: Ints) -> Iterator[Values]:
        """Yield the events that these steps see, some items of a step at a time."""
        last = steps[-1:]
        for pairs in self.events.by_step(np.append(self.events.steps[:1], last)) if len(last) else ():
            yield from (pairs[low : low + ROWS] for low in range(0, len(pairs), ROWS))

    def _sums_of(self, pairs: Values) -> tuple[int, StepSums, float]:
        """Return the step of some pairs, their sums, and the seconds that they took."""
        began = time.perf_counter()
        weights, values = pairs["weight"].copy(), pairs["value"].copy()
        sums = StepSums.of(self._rows(pairs["item"]), weights, values, int(pairs["events"].sum()))
        return int(pairs["step"][0]), sums, time.perf_counter() - began

    def _rows(self, items: Ints) -> Doubles:
        """Return the vectors of some items: (n, D)."""
        return self.matrix.exact(self.matrix.slots[items], normalized=self.normalized, bias=self.fit.bias)
