"""The charts of a report as Vega-Lite specs. Field names are ours; data only ever enters as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from extembed_cli.evaluate.bootstrap import MIN_USERS
from extembed_cli.evaluate.columns import BASELINE, feature_steps
from extembed_cli.evaluate.schema import TITLES, Distribution, Report, Segment
from extembed_cli.evaluate.tables import (
    TextTable,
    distributions_table,
    features_table,
    gains_table,
    ladder_table,
    segments_table,
)

_COLOURS = [
    "#8a8f98",
    "#b07d2b",
    "#2f7de1",
    "#d1495b",
    "#2a9d78",
    "#8e5bd6",
    "#c2571a",
    "#3a9bb5",
]  # readable on white and on near black
_POSITIVE, _NEGATIVE, _PERMUTED = "#2f7de1", "#d9822b", "#8a8f98"
_MAX_FEATURES, _MAX_SPOKEN_ROWS = 20, 6
# Shortens a long label in the middle: names differ mostly at the end.
_SHORTENED = "slice(datum.label, 0, 7) + '…' + slice(datum.label, 8 - letters)"
_ROW = 22  # pixels
_GAIN = "gain over the step before"


@dataclass(frozen=True)
class Panel:
    """One Vega-Lite spec of a figure."""

    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart of one or more panels, and its numbers as a table."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    table: TextTable

    @property
    def alternative(self) -> str:
        """The text for a screen reader: the first rows of the table."""
        headings, rows = self.table.headings, self.table.rows
        heading = headings[-1 if self.name in {"lengths", "items"} else 1]
        column = headings.index(heading)
        spoken = "; ".join(f"{row[0]}, {heading} {row[column]}" for row in rows[:_MAX_SPOKEN_ROWS])
        more = len(rows) - _MAX_SPOKEN_ROWS
        return f"{self.title}: {spoken}{f'; and {more} more' if more > 0 else ''}. The table below has all values."


def figures(report: Report) -> list[Figure]:
    """Return all figures that the report has data for."""
    draw = (_ladder, _gains, _features, _distributions, _lengths, _items)
    candidates = [figure(report) for figure in draw]
    return [figure for figure in candidates if figure.panels and figure.table.rows]


def _bounds(bounds: Sequence[float | None] | None) -> dict[str, float | None]:
    low, high = bounds if bounds is not None else (None, None)
    return {"low": low, "high": high}


def _chart(rows: list[dict[str, Any]]) -> Any:  # altair's own types do not survive layering
    return alt.Chart({"values": rows})


def _steps() -> list[str]:
    """Return all steps of the ladder."""
    return [BASELINE, *feature_steps()]


def _step_colour(steps: Sequence[str], legend: alt.Legend | None = None) -> alt.Color:
    known = _steps()
    scale = alt.Scale(domain=steps, range=[_COLOURS[known.index(step) % len(_COLOURS)] for step in steps])
    return alt.Color("step:N", scale=scale, legend=legend)


def _panel(chart: Any, height: int, title: str = "") -> Panel:
    """Return a panel that takes the width of its place on the page."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)  # the page sets it, light or dark
    return Panel(title, spec)


def _ladder(report: Report) -> Figure:
    metric = TITLES[report.ladder[0].metric]
    rows = [{"step": rung.step, "value": rung.value, **_bounds(rung.value_ci)} for rung in report.ladder]
    steps = [rung.step for rung in report.ladder]
    y = alt.Y("step:N", sort=steps, title=None)
    base = _chart(rows).encode(y=y, color=_step_colour(steps))
    bars, points = _intervals(base, metric, "step")
    return Figure(
        "ladder",
        f"The ladder: {metric} on the test rows",
        "Each step adds its columns to those of the steps above it. Bars are 95 % intervals.",
        [_panel(bars + points, 2 * _ROW * len(rows))],
        ladder_table(report),
    )


def _gains(report: Report) -> Figure:
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
        "The gain over the step before, and the gain of the same columns with their rows permuted, which should be "
        "about 0. Bars are 95 % intervals.",
        [_panel(_zero() + bars + points, 3 * _ROW * len(rungs))],
        gains_table(report),
    )


def _intervals(base: Any, title: str, *names: str) -> tuple[Any, Any]:
    """Return a line from low to high, and a point at the value."""
    x = alt.X("low:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6, format=".4~f"))
    tooltips = _tooltips(*names, "value", "low", "high")
    return (
        base.mark_rule(strokeWidth=3).encode(x=x, x2=alt.X2("high:Q"), tooltip=tooltips),
        base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("value:Q"), tooltip=tooltips),
    )


def _zero() -> Any:
    """Return a dashed line at 0."""
    return _chart([{"zero": 0}]).mark_rule(strokeDash=[4, 4], color=_PERMUTED).encode(x="zero:Q")


def _tooltips(*names: str) -> list[alt.Tooltip]:
    texts = {"step", "columns", "feature", "events", "label"}
    return [alt.Tooltip(f"{name}:N") if name in texts else alt.Tooltip(f"{name}:Q", format=".4f") for name in names]


def _features(report: Report) -> Figure:
    charted = report.features[:_MAX_FEATURES]
    rows = [
        {
            "feature": feature.name,
            "step": feature.step,
            "share": feature.gain_share,
            "auc": feature.auc,
            **_bounds(feature.auc_ci),
        }
        for feature in charted
    ]
    steps = [step for step in _steps() if any(feature.step == step for feature in charted)]
    colour = _step_colour(steps, alt.Legend(title=None, orient="top"))
    letters = alt.param(name="letters", value=60)  # length of a label; the page sets a smaller one on a phone
    labels = f"length(datum.label) > letters ? {_SHORTENED} : datum.label"
    names = [feature.name for feature in charted]
    bars = (
        _chart(rows)
        .mark_bar()
        .add_params(letters)
        .encode(
            y=alt.Y("feature:N", sort=names, title=None, axis=alt.Axis(labelExpr=labels)),
            x=alt.X("share:Q", title="share of the gain", axis=alt.Axis(format="%", tickCount=6)),
            color=colour,
            tooltip=_tooltips("feature", "step", "share", "auc", "low", "high"),
        )
    )
    more = len(report.features) > len(charted)
    extent = f" The chart has the first {len(charted)} of {len(report.features)}." if more else ""
    return Figure(
        "features",
        "Features, strongest in the ranker first",
        "How much of the last ranker's loss reduction comes from splits on each column." + extent,
        [_panel(bars, _ROW * len(charted))],
        features_table(report),
    )


def _distributions(report: Report) -> Figure:
    colour = alt.Color(
        "label:N",
        scale=alt.Scale(domain=["positives", "negatives"], range=[_POSITIVE, _NEGATIVE]),
        legend=alt.Legend(title=None, orient="top"),
    )

    def panel(distribution: Distribution) -> Panel:
        rows = [
            {"label": label, "cosine": (low + high) / 2, "share": share}
            for label, shares in {"positives": distribution.positives, "negatives": distribution.negatives}.items()
            for (low, high), share in zip(pairwise(distribution.edges), shares, strict=True)
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
        return _panel(areas, 6 * _ROW, distribution.name)

    return Figure(
        "distributions",
        "Cosines of positives and negatives",
        "Test rows with a label above 0 (positives) and all other test rows (negatives). The further apart the two "
        "are, the more a ranker can learn from the column.",
        [panel(distribution) for distribution in report.distributions],
        distributions_table(report),
    )


def _lengths(report: Report) -> Figure:
    return _segments(
        report,
        "lengths",
        "Gain by length of the history",
        "The gain over the step before, for test rows grouped by the number of visible events: the sum of "
        f"{', '.join(report.history_length_of)}.",
        report.by_history_length,
        "visible events",
    )


def _items(report: Report) -> Figure:
    counted = "rows of the file before the row"
    if report.item_count_of:
        counted = f"events before the row: {', '.join(report.item_count_of)}"
    return _segments(
        report,
        "items",
        "Gain by how often the item was seen",
        f"The gain over the step before, for test rows grouped by the number of their item's {counted}.",
        report.by_item_count,
        "events of the item",
    )


def _segments(report: Report, name: str, title: str, text: str, segments: Sequence[Segment], what: str) -> Figure:
    steps = [rung.step for rung in report.ladder if rung.delta is not None]
    drawn = [segment for segment in segments if None not in segment.gains.values()]
    events = [segment.events for segment in drawn]

    def panel(step: str) -> Panel:
        rows = [
            {"events": segment.events, "step": step, "value": segment.gains[step], **_bounds(segment.gains_ci[step])}
            for segment in drawn
        ]
        y = alt.Y("events:N", sort=events, scale=alt.Scale(domain=events), title=what)
        bars, points = _intervals(_chart(rows).encode(y=y, color=_step_colour([step])), _GAIN, "events")
        return _panel(_zero() + bars + points, 2 * _ROW * len(events), step)

    return Figure(
        name,
        title,
        f"{text} Groups of fewer than {MIN_USERS} users are in the table only.",
        [panel(step) for step in steps] if drawn else [],
        segments_table(report, segments, what),
    )
