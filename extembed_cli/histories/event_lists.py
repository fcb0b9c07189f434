"""The events that count for a statistic, their decayed weights and targets, and what each candidate sees of them."""

from __future__ import annotations

from functools import cached_property
from threading import Lock

import numpy as np

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.histories.visibility import Seen
from extembed_cli.kernels.decay import BLOCK, decayed_totals
from extembed_cli.kernels.segments import offsets, ragged
from extembed_cli.spec.durations import half_life_us
from extembed_cli.spec.expressions import Expression

# Where a window hides so many times the visible weight, the visible sum is not taken as a difference of sums.
_HIDDEN = 1e6
_SMALL_TARGET = 1e-3


class EventList:
    """All n events of a history, or some of them: those whose partner has a vector in a table, or with a target."""

    def __init__(self, history: History, candidates: Candidates, seen: Seen) -> None:
        self.history = history
        self.seen = seen
        self.candidates = candidates
        self.times = history.times[seen.events]
        self.partners = history.partners[seen.events]
        lengths = np.diff(seen.indptr)
        self.owners = np.repeat(np.arange(len(lengths)), lengths)
        self.exponents = np.zeros(len(lengths), np.int64)
        """(U) the weight of an event is 2 to this power times `weights`"""
        self.weights: Doubles | None = None
        """(n) relative to the owner's first event"""
        if history.weights is not None:
            weights = history.weights[seen.events]
            first = seen.indptr[:-1][lengths > 0]
            self.exponents[lengths > 0] = np.clip(np.frexp(weights[first])[1], -200, 200)
            self.weights = np.ldexp(weights, -self.exponents[self.owners])
        self._ages: dict[str, Doubles] = {}
        self._targets: dict[Expression, Doubles] = {}
        self._totals: dict[str, tuple[Doubles, Ints]] = {}
        self._lock = Lock()

    def clock(self, half_life: str) -> Doubles:
        """(n) times in half-lives since the owner's first event; all 0 without decay."""
        if half_life not in self._ages:
            us = half_life_us(half_life)
            first = self.times[self.seen.indptr[self.owners]]
            since = self.times - first if us else np.zeros(len(self.times))
            self._ages[half_life] = since / (us or 1)
        return self._ages[half_life]

    def heights(self, half_life: str, at: Ints) -> Doubles:
        """Return log2 of the weights of the events `at`, relative to one moment of the owner."""
        clock: Doubles = self.clock(half_life)[at]
        return clock if self.weights is None else clock + self.logs[at]

    def absolute_logs(self, half_life: str, candidates: Ints) -> Doubles:
        """Return log2 of a weight as of some candidates that sees an event with height 0: (n) -> (n)."""
        us = half_life_us(half_life)
        owners = self.candidates.owners[candidates]
        exponents: Doubles = self.exponents[owners].astype(np.float64)
        if us is None:
            return exponents
        return exponents - (self.candidates.times[candidates] - self.times[self.seen.indptr[owners]]) / us

    def totals(self, half_life: str) -> Doubles:
        """(Q) the weight that each candidate sees, decayed to the newest event of it; 0 where there is none."""
        return self._totals_of(half_life)[0]

    def target_means(self, half_life: str, target: Expression) -> Doubles:
        """(Q) Σ w y / Σ w over the events that each candidate sees, all of which have a target; NaN for none."""
        values = self.targets(target)
        totals = self._totals_of(half_life)
        weighted, _ = self._sum(half_life, values if self.weights is None else self.weights * values, totals)
        sees = totals[0] > 0
        means: Doubles = np.where(sees, weighted, np.nan) / np.where(sees, totals[0], 1)
        return means

    def _totals_of(self, half_life: str) -> tuple[Doubles, Ints]:
        with self._lock:  # several threads may be the first to need it
            if half_life not in self._totals:
                weights = np.ones(len(self.times)) if self.weights is None else self.weights
                self._totals[half_life] = self._sum(half_life, weights)
        return self._totals[half_life]

    def targets(self, target: Expression) -> Doubles:
        """(n) what the events say; NaN = nothing."""
        if target not in self._targets:
            self._targets[target] = self.history.values[target][self.seen.events]
        return self._targets[target]

    def _sum(
        self, half_life: str, numbers: Doubles, totals: tuple[Doubles, Ints] | None = None
    ) -> tuple[Doubles, Ints]:
        """Return the sum of the numbers (n) that each candidate sees, decayed to the newest event of it: (Q).

        A window's sum is the difference of two. The second result are candidates whose window hides so much that theirs
        is summed up again. For numbers that are not weights `totals` is the result of the weights.
        """
        clock, seen = self.clock(half_life), self.seen
        out = np.zeros(len(seen.start))
        if not len(clock):
            return out, np.zeros(0, np.int64)
        owners = np.flatnonzero(np.diff(seen.indptr))
        lengths = np.diff(seen.indptr)[owners]
        blocks = -(-lengths // BLOCK)
        at = ragged(BLOCK * offsets(blocks)[:-1], lengths)  # of each event, its owner's in whole blocks
        filled = np.zeros(BLOCK * int(blocks.sum()))
        filled[at], times = numbers, None
        if half_life_us(half_life) is not None:
            padded = np.repeat(clock[seen.indptr[owners + 1] - 1], BLOCK * blocks)
            padded[at] = clock
            times = padded.reshape(-1, BLOCK)
        sums = decayed_totals(filled.reshape(-1, BLOCK), times, blocks).reshape(-1)[at]
        sees = np.flatnonzero(seen.count)
        out[sees] = sums[seen.end[sees] - 1]
        hides = sees[seen.start[sees] > seen.indptr[self.candidates.owners[sees]]]
        left = np.exp2(clock[seen.start[hides] - 1] - clock[seen.end[hides] - 1])
        hidden = sums[seen.start[hides] - 1] * left
        out[hides] -= hidden
        visible_size = np.abs(out[hides])
        if totals is not None:  # targets of both signs may sum up to nothing
            visible_size = np.maximum(visible_size, _SMALL_TARGET * totals[0][hides])
        far = hides[np.abs(hidden) > _HIDDEN * visible_size]
        far = far if totals is None else np.union1d(far, totals[1])
        for q in far.tolist():
            visible = slice(seen.start[q], seen.end[q])
            out[q] = np.exp2(clock[visible] - clock[visible.stop - 1]) @ numbers[visible]
        return out, far

    def decayed_count(self, half_life: str) -> Doubles:
        """(Q) Σ w of what each candidate sees, as of its own time."""
        total = np.ldexp(self.totals(half_life), self.exponents[self.candidates.owners])
        us = half_life_us(half_life)
        if us is None or not len(self.times):
            return total
        return np.where(total > 0, total * np.exp2(-np.maximum(self.age, 0) / us), 0)

    @property
    def age(self) -> Ints:
        """(Q) us since the newest event that each candidate sees; arbitrary where there is none."""
        newest = np.append(self.times, 0)[np.where(self.seen.count > 0, self.seen.end - 1, -1)]
        age: Ints = self.candidates.times - newest
        return age

    @cached_property
    def logs(self) -> Doubles:
        """(n) log2 of the weights."""
        assert self.weights is not None
        logs: Doubles = np.log2(self.weights)
        return logs
