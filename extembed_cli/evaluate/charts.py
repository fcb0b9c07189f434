"""The charts of a report as Vega-Lite specs. Field names are ours; what comes from data is values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from extembed_cli.evaluate.bootstrap import FEWEST_USERS
from extembed_cli.evaluate.columns import BASELINE, TECHNIQUES
from extembed_cli.evaluate.schema import TITLES, Distribution, Report

_STEPS = [BASELINE, *TECHNIQUES]
_COLOURS = ["#8a8f98", "#b07d2b", "#2f7de1", "#d1495b", "#2a9d78"]  # readable on white and on near black
_POSITIVE, _NEGATIVE, _PERMUTED = "#2f7de1", "#d9822b", "#8a8f98"
_MOST_FEATURES, _MOST_TOLD = 20, 6
_SHORTENED = "slice(datum.label, 0, 7) + '…' + slice(datum.label, 8 - letters)"  # what differs is mostly the end
_ROW = 22  # pixels
_GAIN = "gain over the step before"


@dataclass(frozen=True)
class Panel:
    """One Vega-Lite spec of a figure."""

    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart, and what it shows for those who do not see it."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    headings: list[str]
    rows: list[list[str]]
    """The same as text."""

    @property
    def alternative(self) -> str:
        """For a screen reader: what the chart says first; the table has the rest."""
        heading = self.headings[-1 if self.name == "lengths" else 1]
        first = "; ".join(f"{row[0]}, {heading} {row[self.headings.index(heading)]}" for row in self.rows[:_MOST_TOLD])
        more = len(self.rows) - _MOST_TOLD
        return f"{self.title}: {first}{f'; and {more} more' if more > 0 else ''}. The table below has all of it."


def figures(report: Report) -> list[Figure]:
    """All charts that the report has data for."""
    made = [_ladder(report), _gains(report), _features(report), _distributions(report), _lengths(report)]
    return [figure for figure in made if figure is not None and figure.rows]


def _number(value: float | None, form: str = ".4f") -> str:
    return "–" if value is None else format(value, form).replace("-", "−")


def _interval(bounds: Sequence[float | None] | None, form: str = ".4f") -> str:
    if bounds is None or None in bounds:
        return "–"
    return " to ".join(_number(bound, form) for bound in bounds)


def _bounds(bounds: Sequence[float | None] | None) -> dict[str, float | None]:
    low, high = bounds if bounds is not None else (None, None)
    return {"low": low, "high": high}


def _chart(rows: list[dict[str, Any]]) -> Any:  # altair's own types do not survive layering
    return alt.Chart({"values": rows})


def _step_colour(present: Sequence[str], legend: alt.Legend | None = None) -> alt.Color:
    scale = alt.Scale(domain=present, range=[_COLOURS[_STEPS.index(step)] for step in present])
    return alt.Color("step:N", scale=scale, legend=legend)


def _panel(chart: Any, height: int, title: str = "") -> Panel:
    """A chart as wide as the page lets it be."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)  # the page's, light or dark
    return Panel(title, spec)


def _ladder(report: Report) -> Figure:
    metric = TITLES[report.ladder[0].metric]
    rows = [{"step": rung.step, "value": rung.value, **_bounds(rung.value_ci)} for rung in report.ladder]
    steps = [rung.step for rung in report.ladder]
    others = [name for name in report.ladder[0].metrics if name != report.ladder[0].metric]
    y = alt.Y("step:N", sort=steps, title=None)
    base = _chart(rows).encode(y=y, color=_step_colour(steps))
    bars, points = _intervals(base, metric, "step")
    return Figure(
        "ladder",
        f"The ladder: {metric} on the test rows",
        "Each step has the columns of all steps above it. Bars are 95 % intervals.",
        [_panel(bars + points, 2 * _ROW * len(rows))],
        ["step", metric, "95 % interval", *others],
        [
            [
                rung.step,
                _number(rung.value),
                _interval(rung.value_ci),
                *(_number(rung.metrics[name]) for name in others),
            ]
            for rung in report.ladder
        ],
    )


def _gains(report: Report) -> Figure | None:
    permuted = report.permuted()
    rungs = [rung for rung in report.ladder if rung.delta is not None]
    rows: list[dict[str, Any]] = []
    for rung in rungs:
        rows.append({"step": rung.step, "columns": "as they are", "value": rung.delta, **_bounds(rung.delta_ci)})
        if rung.step in permuted:
            control = permuted[rung.step]
            rows.append({"step": rung.step, "columns": "permuted", "value": control.value, **_bounds(control.ci)})
    colour = alt.Color(
        "columns:N",
        scale=alt.Scale(domain=["as they are", "permuted"], range=[_POSITIVE, _PERMUTED]),
        legend=alt.Legend(title=None, orient="top"),
    )
    y = alt.Y("step:N", sort=[rung.step for rung in rungs], title=None)
    base = _chart(rows).encode(y=y, yOffset=alt.YOffset("columns:N"), color=colour)
    bars, points = _intervals(base, _GAIN, "step", "columns")
    return Figure(
        "gains",
        "What each step adds",
        "The gain over the step before, with 95 % intervals over users, and what the same columns add when their rows "
        "are permuted: nothing, if all is well.",
        [_panel(_zero() + bars + points, 3 * _ROW * len(rungs))],
        ["step", "gain", "95 % interval", "permuted", "95 % interval", "verdict"],
        [
            [
                rung.step,
                _number(rung.delta, "+.4f"),
                _interval(rung.delta_ci, "+.4f"),
                _number(permuted[rung.step].value, "+.4f") if rung.step in permuted else "–",
                _interval(permuted[rung.step].ci, "+.4f") if rung.step in permuted else "–",
                rung.verdict or "–",
            ]
            for rung in rungs
        ],
    )


def _intervals(base: Any, title: str, *names: str) -> tuple[Any, Any]:
    """A line from low to high, and a point at the value."""
    x = alt.X("low:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6, format=".4~f"))
    tooltips = _tooltips(*names, "value", "low", "high")
    return (
        base.mark_rule(strokeWidth=3).encode(x=x, x2=alt.X2("high:Q"), tooltip=tooltips),
        base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("value:Q"), tooltip=tooltips),
    )


def _zero() -> Any:
    return _chart([{"zero": 0}]).mark_rule(strokeDash=[4, 4], color=_PERMUTED).encode(x="zero:Q")


def _tooltips(*names: str) -> list[alt.Tooltip]:
    texts = {"step", "columns", "feature", "events", "label"}
    return [alt.Tooltip(f"{name}:N") if name in texts else alt.Tooltip(f"{name}:Q", format=".4f") for name in names]


def _features(report: Report) -> Figure:
    shown = report.features[:_MOST_FEATURES]
    rows = [
        {"feature": one.name, "step": one.step, "share": one.gain_share, "auc": one.auc, **_bounds(one.auc_ci)}
        for one in shown
    ]
    steps = [step for step in _STEPS if any(one.step == step for one in shown)]
    colour = _step_colour(steps, alt.Legend(title=None, orient="top"))
    letters = alt.param(name="letters", value=60)  # that there is room for: the page sets fewer on a phone
    labels = f"length(datum.label) > letters ? {_SHORTENED} : datum.label"
    bars = (
        _chart(rows)
        .mark_bar()
        .add_params(letters)
        .encode(
            y=alt.Y("feature:N", sort=[one.name for one in shown], title=None, axis=alt.Axis(labelExpr=labels)),
            x=alt.X("share:Q", title="share of the gain", axis=alt.Axis(format="%", tickCount=6)),
            color=colour,
            tooltip=_tooltips("feature", "step", "share", "auc", "low", "high"),
        )
    )
    more = f" The first {len(shown)} of {len(report.features)}." if len(report.features) > len(shown) else ""
    return Figure(
        "features",
        "Features, strongest in the ranker first",
        "Of the loss that the last ranker took off, the share by splits on each column." + more,
        [_panel(bars, _ROW * len(shown))],
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
                one.name,
                one.step,
                f"{one.gain_share:.1%}",
                _number(one.auc),
                _interval(one.auc_ci),
                f"{one.coverage:.1%}",
                _number(one.drift, ".3f"),
                _number(one.correlation, ".2f"),
                "yes" if one.in_short_list else "",
            ]
            for one in report.features
        ],
    )


def _distributions(report: Report) -> Figure:
    colour = alt.Color(
        "label:N",
        scale=alt.Scale(domain=["positives", "negatives"], range=[_POSITIVE, _NEGATIVE]),
        legend=alt.Legend(title=None, orient="top"),
    )

    def panel(one: Distribution) -> Panel:
        rows = [
            {"label": label, "cosine": (low + high) / 2, "share": share}
            for label, shares in {"positives": one.positives, "negatives": one.negatives}.items()
            for (low, high), share in zip(pairwise(one.edges), shares, strict=True)
        ]
        areas = (
            _chart(rows)
            .mark_area(opacity=0.3, line=True, interpolate="monotone")
            .encode(
                x=alt.X("cosine:Q", scale=alt.Scale(zero=False)),
                y=alt.Y("share:Q", stack=None, title="share of rows", axis=alt.Axis(format="%")),
                color=colour,
                tooltip=_tooltips("label", "cosine", "share"),
            )
        )
        return _panel(areas, 6 * _ROW, one.name)

    return Figure(
        "distributions",
        "Cosines of positives and of negatives",
        "Test rows with a label above 0, and the others: the further apart, the more a ranker learns from the column.",
        [panel(one) for one in report.distributions],
        ["feature", "mean of positives", "mean of negatives"],
        [
            [one.name, _number(_mean(one.edges, one.positives)), _number(_mean(one.edges, one.negatives))]
            for one in report.distributions
        ],
    )


def _mean(edges: Sequence[float], shares: Sequence[float]) -> float:
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return sum(middle * share for middle, share in zip(middles, shares, strict=True))


def _lengths(report: Report) -> Figure:
    steps = [rung.step for rung in report.ladder if rung.delta is not None]
    events = [bucket.events for bucket in report.by_history_length]

    def panel(step: str) -> Panel:
        rows = [
            {"events": bucket.events, "step": step, "value": bucket.gains[step], **_bounds(bucket.gains_ci[step])}
            for bucket in report.by_history_length
        ]
        y = alt.Y("events:N", sort=events, scale=alt.Scale(domain=events), title="visible events")
        bars, points = _intervals(_chart(rows).encode(y=y, color=_step_colour([step])), _GAIN, "events")
        return _panel(_zero() + bars + points, 2 * _ROW * len(events), step)

    return Figure(
        "lengths",
        "For whom it pays: gain by length of the history",
        "Gains over the step before among test rows whose users had so many visible events: the sum of "
        f"{', '.join(report.history_length_of)}. Bands of fewer than {FEWEST_USERS} users have no interval.",
        [panel(step) for step in steps],
        ["visible events", "rows", "users", *(f"{step}, 95 % interval" for step in steps)],
        [
            [
                bucket.events,
                f"{bucket.rows:,}",
                f"{bucket.users:,}",
                *(
                    "too few users"
                    if bucket.users < FEWEST_USERS
                    else f"{_number(bucket.gains[step], '+.4f')} ({_interval(bucket.gains_ci[step], '+.4f')})"
                    for step in steps
                ),
            ]
            for bucket in report.by_history_length
        ],
    )
