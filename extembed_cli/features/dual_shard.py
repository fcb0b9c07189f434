"""Technique 2 on one slice of users: which systems there are, solving them, scoring the candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch, Tiles, batches, padded
from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.done import Solves
from extembed_cli.features.dual import Model, is_nested
from extembed_cli.features.visibility import visible
from extembed_cli.kernels.prefixes import BLOCK, Past, segment_length, solve_prefixes
from extembed_cli.kernels.ridge import GRADIENT, Dual, Form, Primal, solve_logistic, solve_squared
from extembed_cli.spec import Spec, half_life_us

Doubles = NDArray[np.floating[Any]]  # float64
Ints = NDArray[np.int64]

_MOST_CANDIDATES = 512  # that share one factor of all prefixes
_SEGMENT_CANDIDATES = 256  # scored at a time in the later segments of a long history
_BATCH_FLOATS = 2**19  # float64 and squares of it: a batch stays near the processor's cache


class DualShard:
    """One fit for the candidates of a shard (or, `with_vectors`, for its users): what to solve, and what comes of it.

    Where confidences and λ do not change with the as-of time, a user's as-of times share one factor of all prefixes of
    the history (`prefixes`); else each distinct as-of time is a system of its own (`systems`).
    """

    def __init__(
        self,
        spec: Spec,
        model: Model,
        history: History,
        asked: Candidates,
        *,
        sd: bool = False,
        with_vectors: bool = False,
    ) -> None:
        fit = model.fit
        asked = fit.asked(asked)
        seen = visible(spec, fit.history, history, asked)
        slots = model.matrix.slots[history.items]
        usable = slots != model.matrix.missing
        if fit.target is not None:
            usable = usable & ~np.isnan(history.targets[fit.target])
        seen = seen.only(usable)
        events = seen.events

        self.model, self.asked = model, asked
        self.dim = model.dim
        self.start, self.end = seen.start, seen.end
        """(Q) the usable events that a candidate sees; positions here and below count usable events alone."""
        self.slots = slots[events]
        self.times = history.times[events]
        self.weights = np.ones(len(events)) if history.weights is None else history.weights[events]
        self.targets = np.ones(len(events)) if fit.target is None else history.targets[fit.target][events]
        self.asked_slots = model.matrix.slots[asked.items]
        self.half_life_us = half_life_us(fit.half_life)
        self.first_event = seen.indptr[:-1]
        """(U) the first usable event of each user"""
        self.segment = segment_length(self.dim)

        rows = len(asked.rows)
        self.score = np.full(rows, np.nan, np.float32)
        self.sd = np.full(rows if sd else 0, np.nan, np.float32)
        self.with_vectors = with_vectors
        self.vectors = np.full((rows if with_vectors else 0, self.dim), np.nan, np.float32)
        """(U, D) in the coordinates of the basis; NaN where there is nothing to fit."""

        self.nested = is_nested(spec, fit)
        self.systems = 0
        """Distinct pairs of user and as-of time with an event to fit, once the tasks are made."""
        self.not_converged: set[int] = set()
        """Users with a logistic fit whose gradient is above 1e-6."""

    # --- which systems there are: no event after an as-of time decides how it is solved ---

    def tasks(self) -> Iterator[Callable[[], Solves]]:
        """Pieces of work; each fills in its part of `score`, `sd` and `vectors`."""
        users = self.asked.users
        if not len(users):
            return
        cut = np.flatnonzero((np.diff(users) != 0) | (np.diff(self.asked.times) != 0)) + 1
        first, last = np.append(0, cut), np.append(cut, len(users))
        filled = self.end[first] > self.start[first]
        self.systems = int(np.count_nonzero(filled))
        if self.nested:
            several = np.bincount(users[first], minlength=len(self.first_event)) > 1
            chosen = np.flatnonzero(several)
            for make in self._histories(chosen):
                yield partial(self._solve_prefixes, make)
            last_seen = self.end[self.asked.indptr[chosen + 1] - 1]
            for user in chosen[last_seen > self.first_event[chosen] + self.segment]:
                yield partial(self._solve_segments, user)
            filled &= ~several[users[first]]
        first, last = first[filled], last[filled]
        low, high = self.start[first], self.end[first]
        C = padded(last - first)
        tiles = Tiles(first, last, low, high, C, high - low, C, high - low)
        for make in batches(tiles, self.dim, _BATCH_FLOATS):
            yield partial(self._solve_systems, make)

    def _histories(self, users: Ints) -> Iterator[Callable[[], Batch]]:
        """Histories of users, up to one segment of events, with pieces of their candidates."""
        low, high = self.asked.indptr[users], self.asked.indptr[users + 1]
        pieces = -(-(high - low) // _MOST_CANDIDATES)
        owner = np.repeat(np.arange(len(users)), pieces)
        piece = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        first = low[owner] + piece * _MOST_CANDIDATES
        last = np.where(piece + 1 == pieces[owner], high[owner], first + _MOST_CANDIDATES)
        begin = self.first_event[users[owner]]
        end = np.minimum(self.end[last - 1], begin + self.segment)
        seen = end > begin
        first, last, begin, end = first[seen], last[seen], begin[seen], end[seen]
        C = padded(last - first)
        H = -(-(end - begin) // BLOCK) * BLOCK
        tiles = Tiles(first, last, begin, end, C, H, C, H)
        return batches(tiles, self.segment, _BATCH_FLOATS)

    # --- solving them ---

    def _solve_systems(self, make: Callable[[], Batch]) -> Solves:
        """Systems of one length, each with a few candidates or one vector to write."""
        batch = make()
        length = batch.events.shape[1]
        first = batch.candidates[:, 0]
        scale = 1 / np.sqrt(self.model.prior(length))

        def rows(at: slice) -> Doubles:
            return self._rows(self.slots[batch.events[:, at]], scale)

        confidences = self.weights[batch.events]
        if self.half_life_us is not None:
            ages = self.asked.times[first, None] - self.times[batch.events]
            confidences = confidences * np.exp2(-ages / self.half_life_us)
        targets = self.targets[batch.events]
        in_dual = length <= self.dim
        form: Form = Dual.of(rows(slice(None))) if in_dual else Primal.of(rows, length, self.dim)
        done = Solves(rows=int(np.count_nonzero(batch.is_candidate)))
        done.dual, done.primal = (len(first), 0) if in_dual else (0, len(first))
        if self.model.fit.loss == "logistic":
            # In the table's coordinates the gradient is at most this much longer than in the whitened ones.
            stretch = np.full(len(first), 1 / scale.min())
            solved = solve_logistic(form, confidences, (targets > 0).astype(np.float64), stretch)
            done.gradient = float(solved.error.max())
            self.not_converged.update(self.asked.users[first[solved.error > GRADIENT]].tolist())
        else:
            solved = solve_squared(form, confidences, targets)
            done.residual = float(solved.error.max())
        vectors = _finite(form.vectors(solved.unknowns))
        if self.with_vectors:
            self.vectors[first] = vectors * scale
            return done
        step = max(1, _BATCH_FLOATS // (len(first) * self.dim))
        for low in range(0, batch.candidates.shape[1], step):
            at = slice(low, low + step)
            asked = batch.candidates[:, at]
            x = self._rows(self.asked_slots[asked], scale)
            score = (x @ vectors[:, :, None])[..., 0]
            variance = form.variance(solved.weights, x) if len(self.sd) else None
            self._put(asked, batch.is_candidate[:, at], score, variance)
        return done

    def _solve_prefixes(self, make: Callable[[], Batch]) -> Solves:
        """First segments of one padded length, each with the candidates of its user; those that see more come later."""
        batch = make()
        scale = 1 / np.sqrt(self.model.prior(0))
        rows = self._rows(self.slots[batch.events], scale)
        x = self._rows(self.asked_slots[batch.candidates], scale)
        confidences = np.where(batch.is_event, self.weights[batch.events], 0)
        targets = np.where(batch.is_event, self.targets[batch.events], 0)
        ends = self.end[batch.candidates] - batch.first_event
        found = solve_prefixes(rows, rows.transpose(0, 2, 1), x.transpose(0, 2, 1), confidences, targets, ends)
        variance = np.einsum("bcd,bcd->bc", x, x) - found.explained
        mine = batch.is_candidate & (ends > 0) & (ends <= self.segment)
        self._put(batch.candidates, mine, found.score, variance)
        return Solves(int(np.count_nonzero(mine)), dual=len(rows), residual=float(found.residual.max()))

    def _solve_segments(self, user: int) -> Solves:
        """The later segments of one long history, each relative to the fit on all before it."""
        past, done = Past(self.dim), Solves()
        scale = 1 / np.sqrt(self.model.prior(0))
        candidates = np.arange(self.asked.indptr[user], self.asked.indptr[user + 1])
        begin = int(self.first_event[user])
        ends = self.end[candidates] - begin
        for low in range(0, int(ends[-1]), self.segment):
            inside = np.arange(begin + low, begin + min(low + self.segment, int(ends[-1])))
            missing = self.segment - len(inside)
            rows = np.pad(self._rows(self.slots[inside], scale), ((0, missing), (0, 0)))
            confidences = np.pad(self.weights[inside], (0, missing))
            targets = np.pad(self.targets[inside], (0, missing))
            asked = candidates[slice(*np.searchsorted(ends, [low + 1, low + self.segment + 1]))]
            if low and len(asked):
                inner = self.end[asked] - (begin + low)
                done.add(self._solve_segment(past, rows, confidences, targets, asked, inner, scale))
            past.add(rows, confidences, targets)
        return done

    def _solve_segment(
        self,
        past: Past,
        rows: Doubles,
        confidences: Doubles,
        targets: Doubles,
        candidates: Ints,
        ends: Ints,
        scale: Doubles,
    ) -> Solves:
        """The candidates of one segment, as many at a time in every one: a fixed shape keeps their bits apart."""
        inverse = past.inverse()
        mean, residual = past.vector(inverse)
        images = inverse @ rows.T
        done = Solves(len(candidates), primal=1, residual=residual)
        for low in range(0, len(candidates), _SEGMENT_CANDIDATES):
            chosen = np.arange(low, low + _SEGMENT_CANDIDATES)
            some = np.minimum(chosen, len(candidates) - 1)
            x = self._rows(self.asked_slots[candidates[some]], scale)
            cross = inverse @ x.T
            found = solve_prefixes(
                rows[None],
                images[None],
                cross[None],
                confidences[None],
                (targets - rows @ mean)[None],
                ends[None, some],
            )
            score = x @ mean + found.score[0]
            variance = np.einsum("cd,dc->c", x, cross) - found.explained[0]
            self._put(candidates[some], chosen < len(candidates), score, variance)
            done.add(Solves(dual=1, residual=float(found.residual[0])))
        return done

    def _rows(self, slots: NDArray[np.int32], scale: Doubles) -> Doubles:
        """Whitened vectors of items: (...) -> (..., D)."""
        return np.multiply(self.model.basis.vectors.take(slots, axis=0), scale, dtype=np.float64)

    def _put(self, candidates: Ints, chosen: NDArray[np.bool_], score: Doubles, variance: Doubles | None) -> None:
        chosen = chosen & (self.asked_slots[candidates] != self.model.matrix.missing)
        at = candidates[chosen]
        self.score[at] = _finite(score[chosen])
        if variance is not None and len(self.sd):
            self.sd[at] = np.sqrt(np.maximum(_finite(variance[chosen]), 0))


def _finite(values: Doubles) -> Doubles:
    """The values; what overflowed was as good as singular."""
    if not np.isfinite(values).all():
        raise np.linalg.LinAlgError
    return values
