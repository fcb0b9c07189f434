"""The statistics of technique 1, one entry for each: its column, its meaning, and the function that computes it.

Counters are of the events that a candidate sees. The others are of the cosines c between the candidate and these
events, with their weights w and vectors v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from extembed_cli.arrays import Values
from extembed_cli.features.aggregate.cosine_view import CosineView
from extembed_cli.features.aggregate.event_lists import EventList
from extembed_cli.features.technique.columns import Column, Dtype
from extembed_cli.kernels.cosines import clipped
from extembed_cli.kernels.statistics import deviations, share, weighted_percentiles
from extembed_cli.spec.durations import half_life_suffix, threshold_label
from extembed_cli.spec.groups import AggregateGroup
from extembed_cli.spec.model import Spec

_ZERO_MEAN = 1e-6  # a mean this short has no direction: it is the rounding of the stored vectors

Need = Literal["order", "weights", "mean"]
"""The order of the cosines; the decayed weights of the events; the decayed mean of their vectors, which is summed up
while these are at hand"""

View = TypeVar("View")


@dataclass(frozen=True)
class Statistic:
    """The content of a column, apart from its name."""

    name: str
    """Of its definition"""
    history: str
    embedding: str | None = None
    half_life: str | None = None
    argument: float | None = None
    """The percentile or the threshold"""


@dataclass(frozen=True)
class Definition(Generic[View]):
    """A statistic: how its columns are called, what they mean, and how they are computed.

    In `column` and `meaning` `{h}` is the history, `{e}` the embedding table, `{n}` the name of the group, `{a}` the
    percentile or threshold, and `{d}` the decay.
    """

    column: str
    meaning: str
    compute: Callable[[View, str, list[float]], list[Values]]
    """From a view of some candidates, a half-life and all arguments: an array for each argument, or one"""
    dtype: Dtype = "Float32"
    by: Literal["", "half_life", "percentile", "threshold"] = "half_life"
    """A group has one column for each of these; percentiles and thresholds are multiplied by half-lives"""
    needs: tuple[Need, ...] = ()
    """What it reads of the events beside the cosines"""
    enabled: Callable[[AggregateGroup], bool] = lambda group: True
    """Whether a group has its columns"""


COUNTERS: dict[str, Definition[EventList]] = {
    "count": Definition(
        "{h}__{n}count", "visible events of `{h}`", lambda events, *_: [events.seen.count], dtype="UInt32", by=""
    ),
    "age_last_s": Definition(
        "{h}__{n}age_last_s",
        "t − newest visible event of `{h}`, seconds",
        lambda events, *_: [np.where(events.seen.count > 0, events.age / 1e6, np.nan)],
        by="",
    ),
    "decayed_count": Definition(
        "{h}__{n}decayed_count{d}",
        "Σ w over visible events of `{h}`, {d}",
        lambda events, half_life, _: [events.decayed_count(half_life)],
        needs=("weights",),
    ),
}
"""Of the visible events of a history"""

TABLE_COUNTERS: dict[str, Definition[EventList]] = {
    "vector_count": Definition(
        "{e}__{h}__{n}vector_count",
        "visible events of `{h}` whose item has a vector in `{e}`",
        lambda events, *_: [events.seen.count],
        dtype="UInt32",
        by="",
    ),
}
"""Of the visible events of a history whose item has a vector in a table"""

COSINES: dict[str, Definition[CosineView]] = {
    "cos_min": Definition(
        "{e}__{h}__{n}cos_min",
        "smallest c over visible events of `{h}` in `{e}`",
        lambda rows, *_: [rows.ranked.smallest],
        by="",
        needs=("order",),
    ),
    "cos_max": Definition(
        "{e}__{h}__{n}cos_max",
        "largest c over visible events of `{h}` in `{e}`",
        lambda rows, *_: [rows.ranked.largest],
        by="",
        needs=("order",),
    ),
    "cos_to_mean": Definition(
        "{e}__{h}__{n}cos_to_mean{d}",
        "cosine of the candidate with Σ w v / Σ w over `{h}` in `{e}`, {d}",
        lambda rows, half_life, _: [_cosine_to_mean(rows, half_life)],
        needs=("mean",),
    ),
    "cos_mean": Definition(
        "{e}__{h}__{n}cos_mean{d}",
        "Σ w c / Σ w over `{h}` in `{e}`, {d}",
        lambda rows, half_life, _: [clipped(rows.mean(half_life).along)],
        needs=("mean",),
    ),
    "cos_sd": Definition(
        "{e}__{h}__{n}cos_sd{d}",
        "√(Σ w (c − m)² / Σ w) with m = Σ w c / Σ w over `{h}` in `{e}`, {d}",
        lambda rows, half_life, _: [deviations(rows.cosines, rows.weights(half_life), rows.counts)],
        needs=("weights",),
        enabled=lambda group: group.sd,
    ),
    "cos_p": Definition(
        "{e}__{h}__{n}cos_p{a}{d}",
        "smallest c of `{h}` in `{e}` whose cumulative weight ≥ {a} % of Σ w, {d}",
        lambda rows, half_life, percentiles: weighted_percentiles(rows.ranked, rows.cumulative(half_life), percentiles),
        by="percentile",
        needs=("order", "weights"),
    ),
    "cos_share_ge": Definition(
        "{e}__{h}__{n}cos_share_ge_{a}{d}",
        "Σ w [c ≥ {a}] / Σ w over `{h}` in `{e}`, {d}",
        lambda rows, half_life, thresholds: [
            share(rows.cumulative(half_life), reaching) for reaching in rows.reaching(thresholds)
        ],
        by="threshold",
        needs=("order", "weights"),
    ),
}
"""Of the cosines with these events"""


def _cosine_to_mean(rows: CosineView, half_life: str) -> Values:
    mean = rows.mean(half_life)
    directed = mean.length > _ZERO_MEAN
    return clipped(np.where(directed, mean.along / np.where(directed, mean.length, 1), np.nan))


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: AggregateGroup) -> Iterator[Column]:
    """Yield the columns of one group: the counters of its histories first, then each table with each history."""
    for history in spec.histories_of(group):
        yield from _columns(group, "counters", history, None, COUNTERS)
    for embedding in spec.embeddings_of(group):
        for history in spec.histories_of(group):
            yield from _columns(group, "aggregate", history, embedding, {**TABLE_COUNTERS, **COSINES})


def _columns(
    group: AggregateGroup,
    step: str,
    history: str,
    embedding: str | None,
    definitions: Mapping[str, Definition[Any]],
) -> Iterator[Column]:
    """Yield the columns of some statistics: those that do not decay first, then all of each half-life."""
    arguments: dict[str, list[tuple[float | None, str]]] = {
        "half_life": [(None, "")],
        "percentile": [(percentile, f"{percentile:02d}") for percentile in group.percentiles],
        "threshold": [(round(threshold, 2), threshold_label(threshold)) for threshold in group.thresholds],
    }
    words = {"h": history, "e": embedding, "n": f"{group.name}_" if group.name else ""}
    for half_life in (None, *group.half_lives):
        suffix = "" if half_life is None else half_life_suffix(half_life)
        decay = f"w = weight · 2^(−age / {half_life})" if suffix else "w = weight"
        for name, definition in definitions.items():
            if (half_life is None) != (definition.by == "") or not definition.enabled(group):
                continue
            for argument, label in arguments.get(definition.by, [(None, "")]):
                yield Column(
                    name=definition.column.format(**words, a=label, d=suffix),
                    dtype=definition.dtype,
                    technique=step,
                    meaning=definition.meaning.format(**words, a=argument, d=decay),
                    statistic=Statistic(name, history, embedding, half_life, argument),
                )
