"""The statistics of technique 1, one entry for each: its column, its meaning, and the function that computes it.

They are of the cosines c between the candidate and the events that it sees, with their weights w, vectors v and targets
y. Similar events weigh more by the kernel k(c) = exp((c − 1) / τ).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from extembed_cli.arrays import Values
from extembed_cli.features.aggregate.cosine_view import CosineView
from extembed_cli.features.technique.definitions import Arguments, Definition
from extembed_cli.histories.event_lists import EventList
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.statistics import deviations, share, weighted_percentiles
from extembed_cli.spec.durations import hundredths_label
from extembed_cli.spec.groups import AggregateGroup

ZERO_MEAN = 1e-6  # a mean this short has no direction: it is the rounding of the stored vectors

TABLE_COUNTERS: dict[str, Definition[EventList, AggregateGroup]] = {
    "vector_count": Definition(
        "{e}__{h}__{n}vector_count",
        "visible events of {h} whose {partner} has a vector in {t}",
        lambda events, _: [events.seen.count],
        dtype="UInt32",
        decays=False,
    ),
}
"""Of the visible events of a history whose item has a vector in a table"""


def _by_hundredths(numbers: Iterable[float]) -> Mapping[str, float]:
    return {hundredths_label(number): round(number, 2) for number in numbers}


_PERCENTILES: Arguments[AggregateGroup] = Arguments("PP", lambda group: {f"{p:02d}": p for p in group.percentiles})
_THRESHOLDS: Arguments[AggregateGroup] = Arguments("TTT", lambda group: _by_hundredths(group.thresholds))
_TEMPERATURES: Arguments[AggregateGroup] = Arguments("TTT", lambda group: _by_hundredths(group.temperatures))
_TOP: Arguments[AggregateGroup] = Arguments("K", lambda group: {str(number): number for number in group.top})

COSINES: dict[str, Definition[CosineView, AggregateGroup]] = {
    "cos_min": Definition(
        "{e}__{h}__{n}cos_min",
        "smallest c over visible events of {h} in {t}",
        lambda view, _: [view.ranked.smallest],
        decays=False,
        needs=("order",),
    ),
    "cos_max": Definition(
        "{e}__{h}__{n}cos_max",
        "largest c over visible events of {h} in {t}",
        lambda view, _: [view.ranked.largest],
        decays=False,
        needs=("order",),
    ),
    "cos_to_mean": Definition(
        "{e}__{h}__{n}cos_to_mean{d}",
        "cosine of the candidate with Σ w v / Σ w over {h} in {t}, {d}",
        lambda view, p: [_cosine_to_mean(view, p.half_life)],
        needs=("mean",),
    ),
    "cos_mean": Definition(
        "{e}__{h}__{n}cos_mean{d}",
        "Σ w c / Σ w over {h} in {t}, {d}",
        lambda view, p: [clipped(view.mean(p.half_life).along)],
        needs=("mean",),
    ),
    "cos_sd": Definition(
        "{e}__{h}__{n}cos_sd{d}",
        "√(Σ w (c − m)² / Σ w) with m = Σ w c / Σ w over {h} in {t}, {d}",
        lambda view, p: [deviations(view.cosines, view.weights(p.half_life), view.counts)],
        needs=("weights",),
        enabled=lambda group: group.sd,
    ),
    "cos_p": Definition(
        "{e}__{h}__{n}cos_p{a}{d}",
        "smallest c of {h} in {t} whose cumulative weight ≥ {a} % of Σ w, {d}",
        lambda view, p: weighted_percentiles(view.ranked, view.cumulative(p.half_life), p.arguments),
        arguments=_PERCENTILES,
        needs=("order", "weights"),
    ),
    "cos_share_ge": Definition(
        "{e}__{h}__{n}cos_share_ge_{a}{d}",
        "Σ w [c ≥ {a}] / Σ w over {h} in {t}, {d}",
        lambda view, p: [share(view.cumulative(p.half_life), each) for each in view.reaching(p.arguments)],
        arguments=_THRESHOLDS,
        needs=("order", "weights"),
    ),
    "cos_top_mean": Definition(
        "{e}__{h}__{n}cos_top{a}_mean",
        "mean of the {a} largest c over visible events of {h} in {t}; of equal ones the newest first",
        lambda view, p: [view.top(number, None).cosine for number in p.arguments],
        decays=False,
        arguments=_TOP,
        needs=("order",),
        enabled=lambda group: group.target is None,
    ),
    "target_cos_top_mean": Definition(
        "{e}__{h}__{n}cos_top{a}_mean",
        "mean of the {a} largest c over visible events of {h} in {t} that have y; of equal ones the newest first; "
        "y = {y}",
        lambda view, p: [view.top(number, p.y).cosine for number in p.arguments],
        decays=False,
        arguments=_TOP,
        needs=("order", "target"),
    ),
    "target_top_mean": Definition(
        "{e}__{h}__{n}target_top{a}_mean",
        "mean y of the {a} visible events of {h} with the largest c in {t}, of equal ones the newest; y = {y}",
        lambda view, p: [view.top(number, p.y).target for number in p.arguments],
        decays=False,
        arguments=_TOP,
        needs=("order", "target"),
    ),
    "target_kernel_mean": Definition(
        "{e}__{h}__{n}target_kernel_mean_t{a}{d}",
        "Σ w k(c) y / Σ w k(c) with k(c) = exp((c − 1) / {a}) over {h} in {t}, {d}, y = {y}",
        lambda view, p: [view.kernel(p.half_life, p.y, temperature).mean for temperature in p.arguments],
        arguments=_TEMPERATURES,
        needs=("weights", "target"),
    ),
    "target_kernel_weight": Definition(
        "{e}__{h}__{n}target_kernel_weight_t{a}{d}",
        "Σ w k(c) with k(c) = exp((c − 1) / {a}) over events of {h} in {t} that have y, {d}, y = {y}",
        lambda view, p: [view.kernel(p.half_life, p.y, temperature).weight for temperature in p.arguments],
        arguments=_TEMPERATURES,
        needs=("weights", "target"),
    ),
    "target_share_ge": Definition(
        "{e}__{h}__{n}target_share_ge_{a}{d}",
        "Σ w y / Σ w over the events of {h} with c ≥ {a} in {t}, {d}, y = {y}",
        lambda view, p: [view.mean_of_reaching(p.half_life, p.y, each) for each in view.reaching(p.arguments)],
        arguments=_THRESHOLDS,
        needs=("order", "weights", "target"),
    ),
}
"""Of the cosines with these events"""


def _cosine_to_mean(view: CosineView, half_life: str) -> Values:
    mean = view.mean(half_life)
    directed = mean.length > ZERO_MEAN
    return clipped(np.where(directed, mean.along / np.where(directed, mean.length, 1), np.nan))
