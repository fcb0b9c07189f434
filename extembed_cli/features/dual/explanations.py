"""How the scores of technique 2 come out for one candidate: as a sum over the events of its fit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.errors import DataError, counted
from extembed_cli.features.dual.everybody import EverybodyScores
from extembed_cli.features.dual.fits import FitStatistic, PreparedFit
from extembed_cli.features.dual.shard import DualShard
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.kernels.ridge import DualForm, Form, PrimalForm, longest_dual, solve_logistic, solve_squared
from extembed_cli.spec.durations import shown_time

_SHOWN = 3  # events with the largest contributions


class _Parts(NamedTuple):
    """A score as a sum."""

    places: Ints
    """(n) of the events that the fit is of, in the order of its target"""
    contributions: Doubles
    """(n) what each adds to the score"""
    prior_sd: float
    """The standard deviation of the score without any event"""


def of_owner(candidate: ExplainedCandidate, prepared: PreparedFit, kinds: Sequence[str]) -> dict[Hashable, Explanation]:
    """Return how the score of a fit, and its standard deviation, come out."""
    fit = prepared.fit
    history = fit.history
    shard = DualShard(candidate.work, prepared)
    at = slice(int(shard.start[candidate.place]), int(shard.end[candidate.place]))
    series = {**candidate.vectors(history, fit.matrix), **candidate.targets(history, fit.target)}
    nothing = candidate.without_vector(fit.matrix)
    if nothing is None and at.start == at.stop:
        seen = shown_time(int(shard.candidates.times[candidate.place]))
        nothing = (
            candidate.without_events(history, fit.matrix, fit.target)
            or f"no event is before {seen}, when it was fitted"
        )
    if nothing is not None:
        return {FitStatistic(kind, fit): Explanation(nothing, {}, (), [history], series) for kind in kinds}
    parts, events = _parts(shard, candidate.place, at), counted(at.stop - at.start, "event")
    numbers = {"λ": fit.strength(prepared.basis.partners, at.stop - at.start)}
    added = candidate.spread(history, fit.target, parts.places, parts.contributions)
    order = np.argsort(-np.abs(np.nan_to_num(added)), kind="stable")[:_SHOWN]
    largest = {len(added) - k: added[k] for k in order.tolist() if not np.isnan(added[k])}
    listed = ", ".join(f"{candidate.name(history, number)} {part:+.4g}" for number, part in largest.items())
    score = Explanation(
        f"u·x, a sum over the {events} of the fit{'; its largest parts: ' if listed else ''}{listed}",
        {**numbers, "sum": float(parts.contributions.sum())},
        list(largest),
        [history],
        series,
        added,
    )
    how = f"the standard deviation of u·x after {events}, from that without any"
    sd = Explanation(how, {**numbers, "without any event": parts.prior_sd}, (), [history], series)
    return {FitStatistic(kind, fit): {"score": score, "sd": sd}[kind] for kind in kinds}


def _parts(shard: DualShard, place: int, at: slice) -> _Parts:
    """Return the score of a candidate as a sum over the events [start, stop) of the shard's fit.

    At the minimum u = Σ g P⁻¹ x over the events, g = −loss'(u·x): c (y − u·x), or c s σ(−s u·x). The unknowns of the
    dual form are g.
    """
    fit, n = shard.prepared.fit, at.stop - at.start
    scale = 1 / np.sqrt(shard.prepared.prior(n))
    x = shard.rows(shard.candidate_slots[place : place + 1], scale)
    c = shard.weights[at][None].copy()
    if shard.half_life_us is not None:
        c *= np.exp2((shard.times[at] - shard.candidates.times[place]) / shard.half_life_us)
    y = shard.targets[at][None]
    form: Form
    if is_dual := n <= longest_dual(shard.dim):
        rows = shard.rows(shard.slots[at], scale)[None]
        form, products = DualForm.of(rows), rows[0] @ x[0]
    else:
        form = PrimalForm.of(lambda some: shard.rows(shard.slots[at][some], scale)[None], n, shard.dim)
        products = form.fitted(x)[0]
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if fit.loss == "logistic":
                y = (y > 0).astype(np.float64)
                unknowns = solve_logistic(form, c, y, np.full(1, 1 / scale.min())).unknowns
            else:
                unknowns = solve_squared(form, c, y).unknowns
            f = form.fitted(unknowns)
            g = unknowns if is_dual else c * (y - (f if fit.loss == "squared" else 1 / (1 + np.exp(-f))))
    except np.linalg.LinAlgError:
        raise DataError(fit.singular) from None
    return _Parts(shard.events[at], g[0] * products, float(np.linalg.norm(x)))


def of_everybody(
    candidate: ExplainedCandidate, scores: EverybodyScores, kinds: Sequence[str]
) -> dict[Hashable, Explanation]:
    """Return how the score of the fit of everybody's events, and its standard deviation, come out."""
    fit, everybody = scores.fit, scores.everybody
    step = candidate.as_of // fit.step_us
    when = shown_time(step * fit.step_us)
    how = candidate.without_vector(fit.matrix)
    if how is None and everybody.places(np.array([step]))[0] < 0:
        how = f"no event of {fit.side.words(fit.history)} whose item has a vector is seen before {when}"
    score = how or f"u·x by the model of all users on what is seen before {when}"
    sd = how or f"the standard deviation of u·x by the model of all users on what is seen before {when}"
    return {FitStatistic(kind, fit): Explanation({"score": score, "sd": sd}[kind]) for kind in kinds}
