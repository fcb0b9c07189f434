"""The numbers of each chart as a table of text, for readers who do not see the chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from extembed_cli.evaluate.bootstrap import MIN_USERS
from extembed_cli.evaluate.numbers import number_text
from extembed_cli.evaluate.schema import TITLES, Report, Segment

_EMPTY = "–"


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text."""

    headings: list[str]
    rows: list[list[str]]
    """The first cell of a row is its heading."""


def ladder_table(report: Report) -> TextTable:
    """Return the metrics of each step."""
    metric = report.ladder[0].metric
    other_metrics = [name for name in report.ladder[0].metrics if name != metric]
    return TextTable(
        ["step", TITLES[metric], "95 % interval", *other_metrics],
        [
            [
                rung.step,
                _number(rung.value),
                _interval(rung.value_ci),
                *(_number(rung.metrics[name]) for name in other_metrics),
            ]
            for rung in report.ladder
        ],
    )


def gains_table(report: Report) -> TextTable:
    """Return the gain of each step after the first, with its columns as they are and permuted."""
    permuted = report.permuted()
    return TextTable(
        ["step", "gain", "95 % interval", "permuted", "95 % interval", "verdict"],
        [
            [
                rung.step,
                _number(rung.delta, "+.4f"),
                _interval(rung.delta_ci, "+.4f"),
                _number(permuted[rung.step].value, "+.4f") if rung.step in permuted else _EMPTY,
                _interval(permuted[rung.step].ci, "+.4f") if rung.step in permuted else _EMPTY,
                rung.verdict or _EMPTY,
            ]
            for rung in report.ladder
            if rung.delta is not None
        ],
    )


def features_table(report: Report) -> TextTable:
    """Return the statistics of each feature."""
    return TextTable(
        [
            "feature",
            "step",
            "gain share",
            "AUC alone",
            "95 % interval",
            "coverage",
            "drift",
            "correlation",
            "short list",
        ],
        [
            [
                feature.name,
                feature.step,
                f"{feature.gain_share:.1%}",
                _number(feature.auc),
                _interval(feature.auc_ci),
                f"{feature.coverage:.1%}",
                _number(feature.drift, ".3f"),
                _number(feature.correlation, ".2f"),
                "yes" if feature.in_short_list else "",
            ]
            for feature in report.features
        ],
    )


def distributions_table(report: Report) -> TextTable:
    """Return the mean of each charted cosine for positives and for negatives."""
    return TextTable(
        ["feature", "mean of positives", "mean of negatives"],
        [
            [
                distribution.name,
                _number(_mean(distribution.edges, distribution.positives)),
                _number(_mean(distribution.edges, distribution.negatives)),
            ]
            for distribution in report.distributions
        ],
    )


def segments_table(report: Report, segments: Sequence[Segment], what: str) -> TextTable:
    """Return the gain of each step by number of events."""
    steps = [rung.step for rung in report.ladder if rung.delta is not None]
    first = report.ladder[0].step
    return TextTable(
        [what, "rows", "users", first, *(f"{step}, 95 % interval" for step in steps)],
        [
            [
                segment.events,
                f"{segment.rows:,}",
                f"{segment.users:,}",
                _number(segment.values[first]),
                *(_gain_of(segment, step) for step in steps),
            ]
            for segment in segments
        ],
    )


def _gain_of(segment: Segment, step: str) -> str:
    if segment.users < MIN_USERS:
        return "too few users"
    if segment.gains[step] is None:
        return "labels of one class"
    return f"{_number(segment.gains[step], '+.4f')} ({_interval(segment.gains_ci[step], '+.4f')})"


def _number(value: float | None, form: str = ".4f") -> str:
    return _EMPTY if value is None else number_text(value, form).replace("-", "−")


def _interval(bounds: Sequence[float | None] | None, form: str = ".4f") -> str:
    if bounds is None or None in bounds:
        return _EMPTY
    return " to ".join(_number(bound, form) for bound in bounds)


def _mean(edges: Sequence[float], shares: Sequence[float]) -> float:
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return sum(middle * share for middle, share in zip(middles, shares, strict=True))
