"""How the statistics of technique 1 come out for one candidate, an entry for each, from the view that they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from extembed_cli.arrays import Doubles, Ints
from extembed_cli.features.aggregate.cosine_view import CosineView
from extembed_cli.features.aggregate.statistics import TABLE_COUNTERS, ZERO_MEAN
from extembed_cli.features.technique.definitions import Parameters, Statistic
from extembed_cli.features.technique.explained import ExplainedCandidate, label
from extembed_cli.features.technique.explanation import HEAVIEST, Explanation, Series
from extembed_cli.histories.visibility import Seen
from extembed_cli.kernels.statistics import percentile_keys


class Outcome(NamedTuple):
    """How a value comes out of the events that the only row of a view sees."""

    how: str
    """`{}` stands for the event that it is of"""
    numbers: dict[str, float]
    events: Ints
    """Their places among those that the row sees"""


def explanation(
    candidate: ExplainedCandidate, statistic: Statistic, seen: Seen, view: CosineView | None
) -> Explanation:
    """Return how a statistic comes out for the candidate of a view.

    seen  which of the events with a vector candidates see; ties in the order of the statistic's target
    """
    history, target, matrix, half_life = statistic.history, statistic.target, statistic.matrix, statistic.half_life
    assert matrix is not None
    places = seen.events[seen.start[candidate.place] : seen.end[candidate.place]]
    series = {**candidate.vectors(history, matrix), **candidate.targets(history, target)}
    if half_life is not None:
        series |= candidate.weights(history, half_life)
    if view is not None:
        series[Series(history, "cosine", label(matrix))] = candidate.spread(history, target, places, view.cosines)

    def found(how: str | None, numbers: dict[str, float], events: Sequence[int] = ()) -> Explanation:
        return Explanation(how, numbers, events, [history], series)

    if statistic.name in TABLE_COUNTERS:
        visible, word = len(candidate.visible(history)), candidate.work.spec.side.partner
        return found(f"visible events whose {word} has a vector in {matrix.words}", {"visible events": visible})
    if view is None:
        return found(candidate.without_vector(matrix) or candidate.without_events(history, matrix) or "", {})
    nothing = candidate.without_events(history, matrix, target)
    if nothing is not None or statistic.name not in OUTCOMES:
        return found(nothing, {})
    arguments = [] if statistic.argument is None else [statistic.argument]
    outcome = OUTCOMES[statistic.name](view, Parameters(half_life or "none", target, arguments))
    events = [candidate.number(history, target, place) for place in places[outcome.events].tolist()]
    how = outcome.how.replace("{}", candidate.name(history, events[0])) if "{}" in outcome.how else outcome.how
    return found(how, outcome.numbers, events)


_NO_EVENTS = np.zeros(0, np.int64)


def _extreme(view: CosineView, which: str, key: Ints) -> Outcome:
    return Outcome(f"the cosine of {{}}, the {which} of {len(view.cosines):,}", {}, _events_of(view, key))


def _to_mean(view: CosineView, p: Parameters) -> Outcome:
    [along], [length] = view.mean(p.half_life)
    how = "q·m / |m|, m = Σ w v / Σ w and q the vector of the candidate"
    if length <= ZERO_MEAN:
        how = "m = Σ w v / Σ w has no direction: its length is the rounding of the vectors"
    return Outcome(how, {"q·m": float(along), "|m|": float(length)}, _NO_EVENTS)


def _mean(view: CosineView, p: Parameters) -> Outcome:
    w = view.weights(p.half_life)
    return _ratio("Σ w c / Σ w", {"Σ w c": w * view.cosines, "Σ w": w})


def _sd(view: CosineView, p: Parameters) -> Outcome:
    w, c = view.weights(p.half_life), view.cosines.astype(np.float64)
    mean = float(np.sum(w * c) / np.sum(w))
    numbers = {"m": mean, "Σ w (c − m)²": float(np.sum(w * (c - mean) ** 2)), "Σ w": float(np.sum(w))}
    return Outcome("√(Σ w (c − m)² / Σ w)", numbers, _NO_EVENTS)


def _percentile(view: CosineView, p: Parameters) -> Outcome:
    [percent] = p.arguments
    cumulative = view.cumulative(p.half_life)
    key = percentile_keys(view.ranked, cumulative, p.arguments)[0]
    total = float(np.sum(view.weights(p.half_life)))
    before, upto = (float(cumulative.below(at)[0] / cumulative.total[0]) * total for at in (key, key + 1))
    how = f"the cosine of {{}}, where the weight up to it, by rising cosine, reaches {percent:g} % of Σ w"
    numbers = {"weight before it": before, "up to it": upto, "needed": percent / 100 * total, "Σ w": total}
    return Outcome(how, numbers, _events_of(view, key))


def _share(view: CosineView, p: Parameters) -> Outcome:
    events, w = _reaching(view, p), view.weights(p.half_life)
    how = f"Σ w of those that reach {p.arguments[0]:g} / Σ w: {_of(events, view)} do"
    return Outcome(how, {"Σ w of those": float(np.sum(w[events])), "Σ w": float(np.sum(w))}, events)


def _top(view: CosineView, p: Parameters, what: str) -> Outcome:
    [number] = p.arguments
    chosen = view.top(number, p.target).chosen
    events = _events_of(view, chosen.positions[0][chosen.real[0]])
    return Outcome(f"the mean {what} of the {len(events):,} most similar of {len(view.cosines):,} events", {}, events)


def _kernel(view: CosineView, p: Parameters, how: str) -> Outcome:
    targets, w = view.targets(p.y), _kernel_weights(view, p)
    return _ratio(how, {"Σ w k(c) y": w * targets.values, "Σ w k(c)": w})


def _kernel_weight(view: CosineView, p: Parameters) -> Outcome:
    heaviest = view.heaviest(p.half_life)
    numbers = {"Σ w k(c)": float(np.sum(_kernel_weights(view, p))), HEAVIEST: float(heaviest[0])}
    return Outcome(f"Σ w k(c) of the relative weights, times the {HEAVIEST}", numbers, _NO_EVENTS)


def _kernel_weights(view: CosineView, p: Parameters) -> Doubles:
    """Return w k(c) of all events, 0 where one says nothing."""
    kernel = np.exp((view.cosines.astype(np.float64) - 1) / p.arguments[0])
    weights: Doubles = view.weights(p.half_life) * kernel * view.targets(p.y).known
    return weights


def _target_share(view: CosineView, p: Parameters) -> Outcome:
    targets, events = view.targets(p.y), _reaching(view, p)
    events = events[targets.known[events]]
    w, y = view.weights(p.half_life)[events], targets.values[events]
    how = f"Σ w y / Σ w: {_of(events, view)} have y and reach {p.arguments[0]:g}"
    return _ratio(how, {"Σ w y": w * y, "Σ w": w}, events)


def _ratio(how: str, sums: dict[str, Doubles], events: Ints = _NO_EVENTS) -> Outcome:
    return Outcome(how, {name: float(np.sum(values)) for name, values in sums.items()}, events)


def _reaching(view: CosineView, p: Parameters) -> Ints:
    """Return the events whose cosines reach the threshold, the newest first."""
    return np.sort(_events_of(view, view.reaching(p.arguments)[0].of(view.ranked)[1]))[::-1]


def _events_of(view: CosineView, keys: Ints) -> Ints:
    return view.event_of(np.zeros(len(keys), np.int64), keys)


def _of(events: Ints, view: CosineView) -> str:
    return f"{len(events):,} of {len(view.cosines):,} events"


OUTCOMES: dict[str, Callable[[CosineView, Parameters], Outcome]] = {
    "cos_min": lambda view, _: _extreme(view, "smallest", view.ranked.start),
    "cos_max": lambda view, _: _extreme(view, "largest", view.ranked.start + view.ranked.counts - 1),
    "cos_to_mean": _to_mean,
    "cos_mean": _mean,
    "cos_sd": _sd,
    "cos_p": _percentile,
    "cos_share_ge": _share,
    "cos_top_mean": lambda view, p: _top(view, p, "cosine"),
    "target_cos_top_mean": lambda view, p: _top(view, p, "cosine"),
    "target_top_mean": lambda view, p: _top(view, p, "y"),
    "target_kernel_mean": lambda view, p: _kernel(view, p, "Σ w k(c) y / Σ w k(c)"),
    "target_kernel_weight": _kernel_weight,
    "target_share_ge": _target_share,
}
