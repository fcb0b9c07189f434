"""Technique 2 on one slice of users: which systems there are, solving them, scoring the candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Ints, Nums
from extembed_cli.features.dual.fits import Model, is_additive, sees_prefixes
from extembed_cli.features.dual.systems import (
    BATCH_FLOATS,
    Group,
    Solves,
    Systems,
    alike,
    distinct,
    groups,
    in_pieces,
    sessions,
    whole_blocks,
)
from extembed_cli.features.technique.protocol import ShardWork
from extembed_cli.histories.visibility import visible
from extembed_cli.kernels.prefix_form import PrefixForm
from extembed_cli.kernels.prefixes import BLOCK, MOST_DECAY, Past, segment_length, solve_prefixes
from extembed_cli.kernels.ridge import (
    GRADIENT,
    Dual,
    Form,
    Primal,
    Running,
    kernels,
    longest_dual,
    solve_logistic,
    solve_squared,
)
from extembed_cli.kernels.segments import offsets, padded, ragged, rectangle, run_starts
from extembed_cli.spec.durations import half_life_us

NOT_CONVERGED = "not_converged"
"""Why users are flagged whose logistic fit has a gradient above 1e-6"""
_MOST_CANDIDATES = 512  # that share one factor of all prefixes
_SEGMENT_CANDIDATES = 256  # scored at a time in the later segments of a long history
_RUNNING_EVENTS = 64  # of a long history, taken up together
_MOST_SYSTEMS = 64  # that share the factor of a Newton step


class DualShard:
    """One fit for the candidates of a shard (or, `of_users`, for its users): what to solve, and what comes of it.

    Where the matrix of an as-of time is that of an earlier one with more events (`is_additive`), a user's as-of times
    share one factor of all prefixes of the history (`prefixes`); with decay those of a session do, between which events
    decay by less than a thousandth, and long histories are running sums. With logistic loss they share the factor that
    conditions Newton's steps (`prefix_form`). Else each distinct as-of time is a system of its own: up to about as many
    events as there are dimensions in the dual form, of which a user's systems share the kernel matrix, beyond that in
    the primal form.
    """

    def __init__(self, work: ShardWork, model: Model, *, sd: bool = False, of_users: bool = False) -> None:
        spec, fit = work.spec, model.fit
        target = fit.target_expression
        history = work.history.in_order_of([] if target is None else [target])
        candidates = fit.as_of(work.users if of_users else work.candidates)
        end = None if of_users or fit.refit_every is not None else work.end
        seen = visible(spec, fit.history, history, candidates, end)
        slots = model.matrix.slots[history.items]
        usable = slots != model.matrix.missing
        if target is not None:
            usable = usable & ~np.isnan(history.values[target])
        seen = seen.only(usable)
        events = seen.events

        self.model, self.candidates = model, candidates
        self.dim = model.dim
        self.start, self.end = seen.start, seen.end
        """(Q) the usable events that a candidate sees; positions here and below count usable events alone."""
        self.slots = slots[events]
        self.times = history.times[events]
        self.weights = np.ones(len(events)) if history.weights is None else history.weights[events]
        self.targets = np.ones(len(events)) if target is None else history.values[target][events]
        self.candidate_slots = model.matrix.slots[candidates.items]
        self.half_life_us = half_life_us(fit.half_life)
        self.first_event = seen.indptr[:-1]
        """(U) the first usable event of each user"""
        self.segment = segment_length(self.dim)

        rows = len(candidates.rows)
        self.score = np.full(rows, np.nan, np.float32)
        self.sd = np.full(rows if sd else 0, np.nan, np.float32)
        self.of_users = of_users
        self.vectors = np.full((rows if of_users else 0, self.dim), np.nan, np.float32)
        """(U, D) in the coordinates of the basis; NaN where there is nothing to fit."""

        self.prefixes, self.additive = sees_prefixes(spec, fit), is_additive(spec, fit)
        self.systems = 0
        """Distinct pairs of user and as-of time with an event to fit, once the tasks are made."""
        self.not_converged = work.flagged.setdefault(NOT_CONVERGED, set())
        """Users with a logistic fit whose gradient is above 1e-6."""

    # --- which systems there are ---

    def tasks(self) -> Iterator[Callable[[], Solves]]:
        """Pieces of work; each fills in its part of `score`, `sd` and `vectors`."""
        systems = distinct(self.candidates.users, self.candidates.times, self.start, self.end)
        self.systems = len(systems.first)
        together: Iterable[Callable[[], Solves]] = ()
        beyond = systems.length > self.segment
        if self.prefixes:
            runs = self._sessions(systems, np.log2(1 + MOST_DECAY) if self.additive else 1)
            together = (self._prefixes if self.additive else self._newton_prefixes)(systems, runs)
            several = np.repeat(np.diff(runs) > 1, np.diff(runs))
            if self.additive and self.half_life_us is None:
                for user in np.unique(self.candidates.users[systems.first[several & beyond]]).tolist():
                    yield partial(self._solve_segments, user)
                beyond &= ~several
            systems = systems.take(~several | beyond)
        # Systems that share a kernel matrix are solved in the dual form for longer than those that share nothing.
        most = self.dim if self.additive else longest_dual(self.dim)
        long = systems.take(systems.length > most)
        each = run_starts(self.candidates.users[long.first]) if self.additive else np.arange(len(long.first))
        solve = self._solve_running if self.additive else self._solve_primal
        for low, high in pairwise([*each.tolist(), len(long.first)]):  # the longest tasks first
            yield partial(solve, long.take(np.arange(low, high)))
        yield from together
        systems = systems.take(systems.length <= most)
        # Scaling makes the prior, and with it the kernel, depend on the length.
        alone = np.ones(len(systems.first), np.bool_) if self.model.fit.scaling else self._alone(systems)
        each_group = groups(systems, self.candidates.users[systems.first], self.dim, alone)
        yield from (partial(self._solve_group, group) for group in each_group)

    def _alone(self, systems: Systems) -> Bools:
        """Which systems are of users with candidates at one as-of time, be there events to fit before others or not."""
        users = self.candidates.users
        counts = np.bincount(users[run_starts(users, self.candidates.times)])
        return np.asarray(counts[users[systems.first]] == 1)

    def _sessions(self, systems: Systems, half_lives: float) -> Ints:
        """Runs of systems of a user whose as-of times are within so many half-lives: all without decay."""
        span = None if self.half_life_us is None else int(half_lives * self.half_life_us)
        return sessions(self.candidates.users[systems.first], self.candidates.times[systems.first], span)

    def _prefixes(self, systems: Systems, runs: Ints) -> Iterator[Callable[[], Solves]]:
        """Sessions of more than one as-of time, up to one segment of events, with pieces of their candidates."""
        run = np.flatnonzero(np.diff(runs) > 1)
        begin = systems.first[runs[run]]
        owner, first, last = in_pieces(begin, systems.last[runs[run + 1] - 1], _MOST_CANDIDATES)
        low = self.first_event[self.candidates.users[first]]
        high = np.minimum(self.end[last - 1], low + self.segment)
        cut, since = Systems(first, last, low, high), self.candidates.times[begin[owner]]
        for chosen, shape in alike(padded(last - first), whole_blocks(cut.length), self.dim):
            yield partial(self._solve_prefixes, cut.take(chosen), since[chosen], *shape)

    def _newton_prefixes(self, systems: Systems, runs: Ints) -> Iterator[Callable[[], Solves]]:
        """Sessions of more than one as-of time, in pieces; without those that see more than one segment."""
        run = np.flatnonzero(np.diff(runs) > 1)
        owner, first, last = in_pieces(runs[run], runs[run + 1], _MOST_SYSTEMS)
        since = self.candidates.times[systems.first[runs[run][owner]]]
        beyond = offsets((systems.length > self.segment).astype(np.int64))
        last = last - (beyond[last] - beyond[first])
        first, last, since = (values[last > first] for values in (first, last, since))
        length = whole_blocks(systems.length[last - 1])
        # A step of conjugate gradients keeps about a dozen arrays of their size.
        for chosen, (_, H) in alike(np.full(len(first), 4 * _MOST_SYSTEMS), length, self.dim):
            parts = [systems.take(np.arange(first[i], last[i])) for i in chosen]
            yield partial(self._solve_newton_prefixes, parts, since[chosen], H)

    # --- solving them ---

    def _solve_group(self, group: Group) -> Solves:
        """Systems of users with matrices of one size, those of like length at a time."""
        length = int(group.parts[0].length[0])  # of all, where the prior depends on it
        scale = 1 / np.sqrt(self.model.prior(length))
        high = np.array([part.high[-1] for part in group.parts])
        events, inside = rectangle(group.low, high, group.length)
        rows = self._rows(np.where(inside, self.slots[events], self.model.matrix.missing), scale)
        kernel = kernels(rows, group.length if group.alone else BLOCK)
        systems = Systems.concat(group.parts)
        owner = np.repeat(np.arange(len(group.parts)), [len(part.first) for part in group.parts])
        begin = systems.low - group.low[owner]
        widths = systems.length if group.alone else padded(systems.length)
        order = np.argsort(widths, kind="stable")
        done = Solves()
        for low, high in pairwise([*run_starts(widths[order]).tolist(), len(order)]):
            H = int(widths[order[low]])
            step = max(1, BATCH_FLOATS // H**2)
            for at in range(low, high, step):
                chosen = order[at : min(at + step, high)]
                some = systems.take(chosen)
                if group.alone:
                    matrices = kernel[owner[chosen]]
                else:
                    matrices = np.zeros((len(chosen), H, H))
                    for out, b, first, h in zip(matrices, owner[chosen], begin[chosen], some.length, strict=True):
                        out[:h, :h] = kernel[b, first : first + h, first : first + h]
                views = [
                    rows[b, first : first + h]
                    for b, first, h in zip(owner[chosen], begin[chosen], some.length, strict=True)
                ]
                done.add(self._solve(Dual(matrices, views), some, H, scale))
                done.dual += len(chosen)
        return done

    def _solve_newton_prefixes(self, parts: list[Systems], since: Ints, H: int) -> Solves:
        """Systems of one user each, whose Newton steps share a factor: that of the weights as of a moment."""
        scale = 1 / np.sqrt(self.model.prior(0))
        low, high = np.array([(part.low[0], part.high[-1]) for part in parts]).T
        events, inside = rectangle(low, high, H)
        rows = self._rows(np.where(inside, self.slots[events], self.model.matrix.missing), scale)
        confidences = np.where(inside, self.weights[events], 0)
        if self.half_life_us is not None:
            confidences *= np.exp2((self.times[events] - since[:, None]) / self.half_life_us)
        ends = np.zeros((len(parts), _MOST_SYSTEMS), np.int64)
        for out, part in zip(ends, parts, strict=True):
            out[: len(part.first)] = part.length
        form = PrefixForm.of(rows, confidences, ends).take(np.flatnonzero(ends))
        systems = Systems.concat(parts)
        done = self._solve(form, systems, H, scale)
        done.dual += len(systems.first)
        return done

    def _solve_primal(self, systems: Systems) -> Solves:
        """One system of many events, which are looked at in blocks."""
        length = int(systems.length[0])
        scale = 1 / np.sqrt(self.model.prior(length))
        form = Primal.of(
            lambda at: self._rows(self.slots[systems.low[0] + np.arange(length)[at]], scale)[None], length, self.dim
        )
        done = self._solve(form, systems, length, scale)
        done.primal += 1
        return done

    def _solve(self, form: Form, systems: Systems, H: int, scale: Doubles) -> Solves:
        """Solve systems of up to H events each, and score their candidates."""
        events, inside = rectangle(systems.low, systems.high, H)
        confidences = np.where(inside, self.weights[events], 0)
        if self.half_life_us is not None:
            ages = self.candidates.times[systems.first, None] - self.times[events]
            confidences *= np.exp2(-ages / self.half_life_us)
        targets = self.targets[events]
        done = Solves()
        if self.model.fit.loss == "logistic":
            # In the table's coordinates the gradient is at most this much longer than in the whitened ones.
            stretch = np.full(len(events), 1 / scale.min())
            solved = solve_logistic(form, confidences, (targets > 0).astype(np.float64), stretch)
            done.gradient = float(solved.error.max())
            failed = systems.first[solved.error > GRADIENT]
            self.not_converged.update(self.candidates.users[failed].tolist())
        else:
            solved = solve_squared(form, confidences, targets)
            done.residual = float(solved.error.max())
        vectors = _finite(form.vectors(solved.unknowns))
        done.rows = self._score(systems, vectors, scale)
        if len(self.sd):
            self._deviate(systems, form.variances(solved.weights, self._candidate_rows(systems, scale)))
        return done

    def _solve_running(self, systems: Systems) -> Solves:
        """The systems of one user with a long history, one as-of time after another."""
        scale = 1 / np.sqrt(self.model.prior(0))
        begin, done, running = int(systems.low[0]), Solves(primal=len(systems.first)), Running(self.dim)
        unit = self.half_life_us or np.inf
        origin = self.times[begin]

        def events(low: int, high: int) -> tuple[Doubles, Doubles, Doubles, Doubles]:
            at = slice(low, high)
            return (
                self._rows(self.slots[at], scale),
                self.weights[at],
                self.targets[at],
                (self.times[at] - origin) / unit,
            )

        taken = begin
        for index, (end, first) in enumerate(zip(systems.high.tolist(), systems.first.tolist(), strict=True)):
            while taken + _RUNNING_EVENTS <= end:
                running.add(*events(taken, taken + _RUNNING_EVENTS))
                taken += _RUNNING_EVENTS
            matrix, right = running.at((self.candidates.times[first] - origin) / unit, *events(taken, end))
            matrix[np.diag_indices(self.dim)] += 1
            u = np.linalg.solve(matrix, right)
            size = float(np.linalg.norm(right))
            done.residual = max(done.residual, float(np.linalg.norm(matrix @ u - right)) / (size or 1.0))
            one = systems.take(np.array([index]))
            done.rows += self._score(one, _finite(u[None]), scale)
            if len(self.sd):
                [x] = self._candidate_rows(one, scale)
                self._deviate(one, [np.einsum("cd,dc->c", x, np.linalg.solve(matrix, x.T))])
        return done

    def _candidate_rows(self, systems: Systems, scale: Doubles) -> list[Doubles]:
        """The whitened vectors of the candidates of each system: (c, d) each."""
        slots = self.candidate_slots
        return [self._rows(slots[a:b], scale) for a, b in zip(systems.first, systems.last, strict=True)]

    def _score(self, systems: Systems, vectors: Doubles, scale: Doubles) -> int:
        """Take the vectors of systems, or score the candidates of each; how many that are."""
        if self.of_users:
            self.vectors[systems.first] = vectors * scale
            return len(systems.first)
        counts = systems.last - systems.first
        candidates, owner = ragged(systems.first, counts), np.repeat(np.arange(len(counts)), counts)
        step = max(1, BATCH_FLOATS // self.dim)
        for low in range(0, len(candidates), step):
            at = slice(low, low + step)
            x = self._rows(self.candidate_slots[candidates[at]], scale)
            score = np.vecdot(x, vectors[owner[at]])
            self._put(candidates[at], np.ones(len(score), np.bool_), score, None)
        return len(candidates)

    def _deviate(self, systems: Systems, variances: list[Doubles]) -> None:
        candidates = ragged(systems.first, systems.last - systems.first)
        known = self.candidate_slots[candidates] != self.model.matrix.missing
        variance = np.concatenate(variances)[known]
        self.sd[candidates[known]] = np.sqrt(np.maximum(_finite(variance), 0))

    def _solve_prefixes(self, histories: Systems, since: Ints, C: int, H: int) -> Solves:
        """First segments, up to H events, each with up to C candidates from a time on; others see more, or nothing."""
        scale = 1 / np.sqrt(self.model.prior(0))
        events, is_event = rectangle(histories.low, histories.high, H)
        candidates, is_candidate = rectangle(histories.first, histories.last, C)
        rows = self._rows(self.slots[events], scale)
        x = self._rows(self.candidate_slots[candidates], scale)
        confidences = np.where(is_event, self.weights[events], 0)
        growth = None
        if self.half_life_us is not None:
            confidences *= np.exp2((self.times[events] - since[:, None]) / self.half_life_us)
            growth = np.exp2((self.candidates.times[candidates] - since[:, None]) / self.half_life_us) - 1
        targets = np.where(is_event, self.targets[events], 0)
        ends = self.end[candidates] - histories.low[:, None]
        found = solve_prefixes(rows, rows.transpose(0, 2, 1), x.transpose(0, 2, 1), confidences, targets, ends, growth)
        variance = np.einsum("bcd,bcd->bc", x, x) - found.explained
        mine = is_candidate & (ends > 0) & (ends <= self.segment)
        self._put(candidates, mine, found.score, variance)
        return Solves(int(np.count_nonzero(mine)), dual=len(rows), residual=float(found.residual.max()))

    def _solve_segments(self, user: int) -> Solves:
        """The later segments of one long history, each relative to the fit on all before it."""
        past, done = Past(self.dim), Solves()
        scale = 1 / np.sqrt(self.model.prior(0))
        candidates = np.arange(self.candidates.indptr[user], self.candidates.indptr[user + 1])
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
            x = self._rows(self.candidate_slots[candidates[some]], scale)
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

    def _rows(self, slots: Nums, scale: Doubles) -> Doubles:
        """Whitened vectors of items: (...) -> (..., D)."""
        return np.multiply(self.model.basis.vectors.take(slots, axis=0), scale, dtype=np.float64)

    def _put(self, candidates: Ints, chosen: Bools, score: Doubles, variance: Doubles | None) -> None:
        chosen = chosen & (self.candidate_slots[candidates] != self.model.matrix.missing)
        at = candidates[chosen]
        self.score[at] = _finite(score[chosen])
        if variance is not None and len(self.sd):
            self.sd[at] = np.sqrt(np.maximum(_finite(variance[chosen]), 0))


def _finite(values: Doubles) -> Doubles:
    """The values; what overflowed was as good as singular."""
    if not np.isfinite(values).all():
        raise np.linalg.LinAlgError
    return values
