"""How the counters of a history come out for one candidate."""

from __future__ import annotations

import numpy as np

from extembed_cli.features.technique.definitions import Statistic
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import HEAVIEST, Explanation, Series


def explanation(candidate: ExplainedCandidate, statistic: Statistic) -> Explanation:
    """Return how a counter comes out."""
    history, target, half_life = statistic.history, statistic.target, statistic.half_life
    series = candidate.targets(history, target)
    if half_life is not None:
        series |= candidate.weights(history, half_life)
    nothing = candidate.without_events(history, target=target)
    if nothing is not None:
        return Explanation(nothing, {}, (), [history], series)
    if half_life is None:
        newest = f"seconds since {candidate.name(history, 1)}"
        how = newest if statistic.name == "age_last_s" else "the visible events"
        return Explanation(how, {}, [1] if how == newest else [], [history], series)
    w = series[Series(history, "weight", half_life)]
    if target is None:
        numbers = {"Σ w": float(np.sum(w)), HEAVIEST: candidate.heaviest(history, half_life)}
        return Explanation(f"Σ w of the relative weights, times the {HEAVIEST}", numbers, (), [history], series)
    y = series[Series(history, "target", target.meaning)]
    known = ~np.isnan(y)
    numbers = {"Σ w y": float(np.sum((w * y)[known])), "Σ w": float(np.sum(w[known]))}
    how = f"Σ w y / Σ w: {np.count_nonzero(known):,} of {len(y):,} visible events have y"
    return Explanation(how, numbers, (), [history], series)
