"""The explanation of a row, put together from the results of the passes and from what the techniques say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles
from extembed_cli.data.columns.ids import plain, shown
from extembed_cli.data.outputs.shard_results import FeaturePart, block_of, known_in
from extembed_cli.features.compute import work_of
from extembed_cli.features.registry import output_columns
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation, SeriesKind
from extembed_cli.features.within import WithinStatistic, explain_within
from extembed_cli.histories.csr import Shard
from extembed_cli.histories.hidden import hidden_events
from extembed_cli.jobs.explained_schema import (
    CandidatePart,
    ColumnPart,
    EventPart,
    ExplainedRow,
    HiddenPart,
    HistoryPart,
)
from extembed_cli.jobs.local_passes import LocalResults
from extembed_cli.spec.durations import duration_us, time_text
from extembed_cli.spec.model import Spec


@dataclass(frozen=True)
class Row:
    """The candidate to explain, and those of its request."""

    rows: pl.DataFrame
    """`user`, `item`, `time` (us, before `as_of_step` floors it), `row`: the candidate, then the others"""
    in_request: bool = False
    """Whether it has a request"""
    is_given: bool = False
    """Whether it is in no file of the user"""

    @property
    def number(self) -> int:
        """Its row of the candidates."""
        return int(self.rows["row"][0])

    def id(self, role: str) -> Any:
        """Return its `user` or `item`."""
        return self.rows[role][0]

    @property
    def time(self) -> int | None:
        """Its own time (us)."""
        time: int | None = self.rows["time"][0]
        return time

    @property
    def null(self) -> str | None:
        """What of it is null, so that all features are."""
        return next((role for role in ("user", "time") if self.rows[role][0] is None), None)

    def about(self, spec: Spec) -> CandidatePart:
        """Return it as an explanation shows it."""
        step, time = spec.as_of_step_us, self.time
        as_of = None if time is None else time // step * step
        return CandidatePart(
            row=None if self.is_given else self.number,
            user=plain(self.id("user")),
            item=plain(self.id("item")),
            time=None if time is None else time_text(time),
            as_of=None if as_of is None else time_text(as_of),
            sees_before=None if as_of is None else time_text(as_of - duration_us(spec.lag)),
        )


class Passed(NamedTuple):
    """What a pass tells about a row."""

    by_column: dict[str, Explanation]
    """By column"""
    histories: dict[str, HistoryPart]
    """Those that it reads, by name"""
    notes: list[str]


def explained_row(
    spec: Spec,
    names: Sequence[str],
    row: Row,
    results: Sequence[LocalResults],
    features: Sequence[Sequence[FeaturePart]],
    notes: Sequence[str] = (),
) -> ExplainedRow:
    """Return the explanation of some columns of a row.

    results   of each pass, for the candidate
    features  of the candidates of its request, with those within the request last
    notes     that come before others
    """
    passes = [_passed(each, row, names) for each in results]
    histories: list[HistoryPart] = []
    by_column: dict[str, tuple[Explanation, list[int]]] = {}
    for each in passes:
        places = {name: len(histories) + place for place, name in enumerate(each.histories)}
        by_column |= {
            name: (how, [places[history] for history in how.histories]) for name, how in each.by_column.items()
        }
        histories += each.histories.values()
    if row.null:
        notes = [*notes, f"the {row.null} is null, so all features are"]
    return ExplainedRow(
        candidate=row.about(spec),
        histories=histories,
        columns=list(_columns(spec, names, row, by_column, features)),
        notes=list(dict.fromkeys([*notes, *(note for each in passes for note in each.notes)])),
    )


# --- columns -----------------------------------------------------------------------------------------


def _columns(
    spec: Spec,
    names: Sequence[str],
    row: Row,
    by_column: dict[str, tuple[Explanation, list[int]]],
    features: Sequence[Sequence[FeaturePart]],
) -> Iterator[ColumnPart]:
    """Yield the columns of the row; `by_column` has by column how it comes out, and the places of its histories."""
    for column in output_columns(spec):
        if column.name not in names:
            continue
        values, (how, places) = _values(column.name, row, features), by_column.get(column.name, (Explanation(None), []))
        if isinstance(column.statistic, WithinStatistic) and spec.within is not None:
            of_request = _values(column.statistic.column, row, features)
            how = explain_within(column.statistic, spec.within.by, of_request, in_request=row.in_request)
        yield ColumnPart(
            name=column.name,
            value=float(values[0]),
            dtype=column.dtype,
            step=column.step or column.technique,
            side=column.owner,
            meaning=column.meaning,
            how=how.how,
            numbers=dict(how.numbers),
            histories=places,
            events=list(how.events),
        )


def _values(column: str, row: Row, features: Sequence[Sequence[FeaturePart]]) -> Doubles:
    """Return the values of a column, for the candidate and the others of its request; NaN = null."""
    parts = next(parts for parts in features if parts and column in parts[0].columns)
    values = np.full(len(row.rows), np.nan)
    for at, number in enumerate(row.rows["row"].to_list()):
        if known_in(parts, number, number + 1)[0]:
            values[at] = block_of(parts, column, number, number + 1)[0]
    return values


# --- histories ---------------------------------------------------------------------------------------


def _passed(result: LocalResults, row: Row, names: Sequence[str]) -> Passed:
    """Return what a pass tells about a row."""
    job, owner = result.job, result.job.spec.side.owner
    columns = [column for column in job.shared.columns if column.name in names]
    at = _place_in_shard(result, row.number)
    if at is None:
        null = row.null or owner
        return Passed({column.name: Explanation(f"the {null} is null") for column in columns}, {}, [])
    candidate = ExplainedCandidate(*work_of(job.spec, job.shared, *at))
    by_column: dict[str, Explanation] = {}
    for technique, state in job.shared.states.items():
        mine = [column for column in columns if column.technique == technique]
        explanations = state.explain(
            candidate.work, candidate.place, list(dict.fromkeys(column.statistic for column in mine))
        )
        by_column |= {c.name: explanations[c.statistic] for c in mine if c.statistic in explanations}
    read = dict.fromkeys(history for each in by_column.values() for history in each.histories)
    histories = {name: _history(result, row, at, candidate, name, by_column) for name in read}
    notes = []
    if not result.loaded.events.rows:
        notes.append(f"{owner} {shown(row.id(owner))} has no row in the interactions")
    return Passed(by_column, histories, notes)


def _place_in_shard(result: LocalResults, row: int) -> tuple[Shard, int] | None:
    """Return the shard of a row, and its place there; None if its owner or its time is null."""
    for index in range(result.loaded.partition.shards):
        shard = result.loaded.shard(result.job.spec, index)
        places = np.flatnonzero(shard.candidates.rows == row)
        if len(places):
            return shard, int(places[0])
    return None


def _history(
    result: LocalResults,
    row: Row,
    at: tuple[Shard, int],
    candidate: ExplainedCandidate,
    name: str,
    by_column: dict[str, Explanation],
) -> HistoryPart:
    spec, events, time = result.job.spec, result.loaded.events, row.time
    assert time is not None
    rules = spec.history(name)
    hidden = {**events.dropped, **hidden_events(spec, name, *at, time)}
    return HistoryPart(
        history=name,
        side=spec.side.owner,
        own=spec.side.own,
        owner=plain(row.id(spec.side.owner)),
        where=rules.where,
        window=rules.window,
        max_events=rules.max_events,
        rows=events.rows,
        visible=len(candidate.visible(name)),
        hidden=[HiddenPart(reason=reason, events=count) for reason, count in hidden.items()],
        events=list(_events(candidate, name, by_column)),
    )


def _events(candidate: ExplainedCandidate, history: str, by_column: dict[str, Explanation]) -> Iterator[EventPart]:
    """Yield the visible events of a history, the newest first."""
    log, places = candidate.work.history, candidate.visible(history)
    of_all = (pair for each in by_column.values() for pair in each.series.items())
    series = {key: values for key, values in of_all if key.history == history}
    added = {
        name: each.contributions
        for name, each in by_column.items()
        if each.contributions is not None and each.histories[0] == history
    }

    def of(kind: SeriesKind, at: int) -> dict[str, float]:
        return {key.name: float(values[at]) for key, values in series.items() if key.kind == kind}

    for at in reversed(range(len(places))):
        place = places[at]
        yield EventPart(
            event=len(places) - at,
            time=time_text(int(log.times[place])),
            age_s=(candidate.as_of - int(log.times[place])) / 1e6,
            partner=plain(candidate.partners[int(log.partners[place])]),
            weight=1.0 if log.weights is None else float(log.weights[place]),
            decayed_weight=of("weight", at),
            vector={name: bool(value) for name, value in of("vector", at).items()},
            cosine=of("cosine", at),
            target=of("target", at),
            contribution={name: float(values[at]) for name, values in added.items()},
        )
