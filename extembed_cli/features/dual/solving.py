"""Solving the systems of one fit on a shard: a function for each way in which systems share work."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.features.dual.shard import DualShard, finite
from extembed_cli.features.dual.systems import BATCH_FLOATS, MOST_SYSTEMS, Solves, SystemGroup, Systems
from extembed_cli.kernels.prefix_form import PrefixForm
from extembed_cli.kernels.prefixes import BLOCK, Past, solve_prefixes
from extembed_cli.kernels.ridge import (
    GRADIENT,
    DualForm,
    Form,
    PrimalForm,
    RunningSums,
    kernels,
    solve_logistic,
    solve_squared,
)
from extembed_cli.kernels.segments import padded, rectangle, run_starts

_SEGMENT_CANDIDATES = 256  # scored at a time in the later segments of a long history
_RUNNING_EVENTS = 64  # of a long history, added at a time


def solve_group(shard: DualShard, group: SystemGroup) -> Solves:
    """Solve systems of owners with kernel matrices of one size; those of like length are solved together."""
    length = int(group.parts[0].length[0])  # of all, where the prior depends on it
    scale = 1 / np.sqrt(shard.prepared.prior(length))
    high = np.array([part.high[-1] for part in group.parts])
    events, inside = rectangle(group.low, high, group.length)
    rows = shard.rows(np.where(inside, shard.slots[events], shard.prepared.matrix.missing), scale)
    kernel = kernels(rows, group.length if group.alone else BLOCK)
    systems = Systems.concat(group.parts)
    owner = np.repeat(np.arange(len(group.parts)), [len(part.first) for part in group.parts])
    begin = systems.low - group.low[owner]
    widths = systems.length if group.alone else padded(systems.length)
    order = np.argsort(widths, kind="stable")
    solves = Solves()
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
            solves.add(_solve(shard, DualForm(matrices, views), some, H, scale))
            solves.dual += len(chosen)
    return solves


def solve_newton_prefixes(shard: DualShard, parts: list[Systems], since: Ints, H: int) -> Solves:
    """Solve systems whose Newton steps share a factor with others of the same owner: of the weights at one moment."""
    scale = 1 / np.sqrt(shard.prepared.prior(0))
    low, high = np.array([(part.low[0], part.high[-1]) for part in parts]).T
    events, inside = rectangle(low, high, H)
    rows = shard.rows(np.where(inside, shard.slots[events], shard.prepared.matrix.missing), scale)
    confidences = np.where(inside, shard.weights[events], 0)
    if shard.half_life_us is not None:
        confidences *= np.exp2((shard.times[events] - since[:, None]) / shard.half_life_us)
    ends = np.zeros((len(parts), MOST_SYSTEMS), np.int64)
    for out, part in zip(ends, parts, strict=True):
        out[: len(part.first)] = part.length
    form = PrefixForm.of(rows, confidences, ends).take(np.flatnonzero(ends))
    systems = Systems.concat(parts)
    solves = _solve(shard, form, systems, H, scale)
    solves.dual += len(systems.first)
    return solves


def solve_primal(shard: DualShard, systems: Systems) -> Solves:
    """Solve one system of many events, which are read in blocks."""
    length = int(systems.length[0])
    scale = 1 / np.sqrt(shard.prepared.prior(length))
    form = PrimalForm.of(
        lambda at: shard.rows(shard.slots[systems.low[0] + np.arange(length)[at]], scale)[None], length, shard.dim
    )
    solves = _solve(shard, form, systems, length, scale)
    solves.primal += 1
    return solves


def _solve(shard: DualShard, form: Form, systems: Systems, H: int, scale: Doubles) -> Solves:
    """Solve systems of up to H events each, and score their candidates."""
    events, inside = rectangle(systems.low, systems.high, H)
    confidences = np.where(inside, shard.weights[events], 0)
    if shard.half_life_us is not None:
        ages = shard.candidates.times[systems.first, None] - shard.times[events]
        confidences *= np.exp2(-ages / shard.half_life_us)
    targets = shard.targets[events]
    solves = Solves()
    if shard.prepared.fit.loss == "logistic":
        # In the table's coordinates the gradient is at most this much longer than in the whitened ones.
        stretch = np.full(len(events), 1 / scale.min())
        solved = solve_logistic(form, confidences, (targets > 0).astype(np.float64), stretch)
        solves.gradient = float(solved.error.max())
        failed = systems.first[solved.error > GRADIENT]
        shard.not_converged.update(shard.candidates.owners[failed].tolist())
    else:
        solved = solve_squared(form, confidences, targets)
        solves.residual = float(solved.error.max())
    vectors = finite(form.vectors(solved.unknowns))
    solves.rows = shard.take_vectors(systems, vectors, scale)
    if len(shard.sd):
        shard.take_variances(systems, form.variances(solved.weights, shard.candidate_rows(systems, scale)))
    return solves


def solve_running(shard: DualShard, systems: Systems) -> Solves:
    """Solve the systems of one owner with a long history, one as-of time after another."""
    scale = 1 / np.sqrt(shard.prepared.prior(0))
    begin, solves, running = int(systems.low[0]), Solves(primal=len(systems.first)), RunningSums(shard.dim)
    unit = shard.half_life_us or np.inf
    origin = shard.times[begin]

    def events(low: int, high: int) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        at = slice(low, high)
        return (
            shard.rows(shard.slots[at], scale),
            shard.weights[at],
            shard.targets[at],
            (shard.times[at] - origin) / unit,
        )

    taken = begin
    for index, (end, first) in enumerate(zip(systems.high.tolist(), systems.first.tolist(), strict=True)):
        while taken + _RUNNING_EVENTS <= end:
            running.add(*events(taken, taken + _RUNNING_EVENTS))
            taken += _RUNNING_EVENTS
        matrix, right = running.at((shard.candidates.times[first] - origin) / unit, *events(taken, end))
        matrix[np.diag_indices(shard.dim)] += 1
        u = np.linalg.solve(matrix, right)
        size = float(np.linalg.norm(right))
        solves.residual = max(solves.residual, float(np.linalg.norm(matrix @ u - right)) / (size or 1.0))
        one = systems.take(np.array([index]))
        solves.rows += shard.take_vectors(one, finite(u[None]), scale)
        if len(shard.sd):
            [x] = shard.candidate_rows(one, scale)
            shard.take_variances(one, [np.einsum("cd,dc->c", x, np.linalg.solve(matrix, x.T))])
    return solves


def solve_session(shard: DualShard, histories: Systems, since: Ints, C: int, H: int) -> Solves:
    """Score the candidates of sessions that see at most the first segment: up to C candidates and H events each."""
    scale = 1 / np.sqrt(shard.prepared.prior(0))
    events, is_event = rectangle(histories.low, histories.high, H)
    candidates, is_candidate = rectangle(histories.first, histories.last, C)
    rows = shard.rows(shard.slots[events], scale)
    x = shard.rows(shard.candidate_slots[candidates], scale)
    confidences = np.where(is_event, shard.weights[events], 0)
    growth = None
    if shard.half_life_us is not None:
        confidences *= np.exp2((shard.times[events] - since[:, None]) / shard.half_life_us)
        growth = np.exp2((shard.candidates.times[candidates] - since[:, None]) / shard.half_life_us) - 1
    targets = np.where(is_event, shard.targets[events], 0)
    ends = shard.end[candidates] - histories.low[:, None]
    fits = solve_prefixes(rows, rows.transpose(0, 2, 1), x.transpose(0, 2, 1), confidences, targets, ends, growth)
    variance = np.einsum("bcd,bcd->bc", x, x) - fits.explained
    inside = is_candidate & (ends > 0) & (ends <= shard.segment)
    shard.take_scores(candidates, inside, fits.score, variance)
    return Solves(int(np.count_nonzero(inside)), dual=len(rows), residual=float(fits.residual.max()))


def solve_segments(shard: DualShard, owner: int) -> Solves:
    """Score the candidates of the later segments of a long history, each relative to the fit on what precedes it."""
    past, solves = Past(shard.dim), Solves()
    scale = 1 / np.sqrt(shard.prepared.prior(0))
    candidates = np.arange(shard.candidates.indptr[owner], shard.candidates.indptr[owner + 1])
    begin = int(shard.first_event[owner])
    ends = shard.end[candidates] - begin
    for low in range(0, int(ends[-1]), shard.segment):
        inside = np.arange(begin + low, begin + min(low + shard.segment, int(ends[-1])))
        missing = shard.segment - len(inside)
        rows = np.pad(shard.rows(shard.slots[inside], scale), ((0, missing), (0, 0)))
        confidences = np.pad(shard.weights[inside], (0, missing))
        targets = np.pad(shard.targets[inside], (0, missing))
        of_segment = candidates[slice(*np.searchsorted(ends, [low + 1, low + shard.segment + 1]))]
        if low and len(of_segment):
            data = Segment(rows, confidences, targets, of_segment, shard.end[of_segment] - (begin + low))
            solves.add(_solve_segment(shard, past, data, scale))
        past.add(rows, confidences, targets)
    return solves


class Segment(NamedTuple):
    """H events of a long history, and the C candidates that see some of them, but nothing later."""

    rows: Doubles
    """(H, D)"""
    confidences: Doubles
    targets: Doubles
    candidates: Ints
    ends: Ints
    """(C) events of the segment that each sees"""


def _solve_segment(shard: DualShard, past: Past, segment: Segment, scale: Doubles) -> Solves:
    """Score the candidates of one segment, a fixed number at a time: a candidate's bits do not depend on the others."""
    rows, candidates = segment.rows, segment.candidates
    inverse = past.inverse()
    mean, residual = past.vector(inverse)
    images = inverse @ rows.T
    solves = Solves(len(candidates), primal=1, residual=residual)
    for low in range(0, len(candidates), _SEGMENT_CANDIDATES):
        chosen = np.arange(low, low + _SEGMENT_CANDIDATES)
        some = np.minimum(chosen, len(candidates) - 1)
        x = shard.rows(shard.candidate_slots[candidates[some]], scale)
        cross = inverse @ x.T
        fits = solve_prefixes(
            rows[None],
            images[None],
            cross[None],
            segment.confidences[None],
            (segment.targets - rows @ mean)[None],
            segment.ends[None, some],
        )
        score = x @ mean + fits.score[0]
        variance = np.einsum("cd,dc->c", x, cross) - fits.explained[0]
        shard.take_scores(candidates[some], chosen < len(candidates), score, variance)
        solves.add(Solves(dual=1, residual=float(fits.residual[0])))
    return solves
