"""Technique 1: decayed statistics of the cosines between a candidate and the user's history."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.aggregate.cosine_statistics import CosineStatistics
from extembed_cli.features.aggregate.event_lists import EventList
from extembed_cli.features.technique.columns import Column, Dtype, Statistic, Technique
from extembed_cli.features.technique.done import Done, Task
from extembed_cli.histories.batches import Pieces
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.histories.visibility import Seen, visible
from extembed_cli.spec.model import AggregateSpec, Spec, half_life_suffix, threshold_label

Values = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64]

_COUNTERS = {"count", "age_last_s", "decayed_count", "vector_count"}
"""Statistics that need no cosine."""


@dataclass(frozen=True)
class Kind:
    """A statistic: how its column is called, and what it means.

    In both texts `{h}` is the history and `{e}` the embedding table; `{n}`, `{a}`, `{d}` are the group's name, the
    percentile or threshold, and the decay, as a column's name or as its meaning writes them.
    """

    dtype: Dtype
    name: str
    meaning: str


KINDS = {
    "count": Kind("UInt32", "{h}__{n}count", "visible events of `{h}`"),
    "age_last_s": Kind("Float32", "{h}__{n}age_last_s", "t − newest visible event of `{h}`, seconds"),
    "decayed_count": Kind("Float32", "{h}__{n}decayed_count{d}", "Σ w over visible events of `{h}`, {d}"),
    "vector_count": Kind(
        "UInt32", "{e}__{h}__{n}vector_count", "visible events of `{h}` whose item has a vector in `{e}`"
    ),
    "cos_min": Kind("Float32", "{e}__{h}__{n}cos_min", "smallest c over visible events of `{h}` in `{e}`"),
    "cos_max": Kind("Float32", "{e}__{h}__{n}cos_max", "largest c over visible events of `{h}` in `{e}`"),
    "cos_to_mean": Kind(
        "Float32", "{e}__{h}__{n}cos_to_mean{d}", "cosine of the candidate with Σ w v / Σ w over `{h}` in `{e}`, {d}"
    ),
    "cos_mean": Kind("Float32", "{e}__{h}__{n}cos_mean{d}", "Σ w c / Σ w over `{h}` in `{e}`, {d}"),
    "cos_p": Kind(
        "Float32",
        "{e}__{h}__{n}cos_p{a}{d}",
        "smallest c of `{h}` in `{e}` whose cumulative weight ≥ {a} % of Σ w, {d}",
    ),
    "cos_share_ge": Kind("Float32", "{e}__{h}__{n}cos_share_ge_{a}{d}", "Σ w [c ≥ {a}] / Σ w over `{h}` in `{e}`, {d}"),
}


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: AggregateSpec) -> Iterator[Column]:
    """Columns of one group: the counters of its histories first, then each table with each history."""
    for history in spec.histories_of(group):
        column = partial(_column, group, "counters", history)
        yield column(None, "count")
        yield column(None, "age_last_s")
        for half_life in group.half_lives:
            yield column(None, "decayed_count", half_life)
    for embedding in spec.embeddings_of(group):
        for history in spec.histories_of(group):
            column = partial(_column, group, "aggregate", history, embedding)
            yield column("vector_count")
            yield column("cos_min")
            yield column("cos_max")
            for half_life in group.half_lives:
                yield column("cos_to_mean", half_life)
                yield column("cos_mean", half_life)
                for percentile in group.percentiles:
                    yield column("cos_p", half_life, percentile, f"{percentile:02d}")
                for threshold in group.thresholds:
                    yield column("cos_share_ge", half_life, round(threshold, 2), threshold_label(threshold))


def _column(
    group: AggregateSpec,
    technique: Technique,
    history: str,
    embedding: str | None,
    kind: str,
    half_life: str | None = None,
    argument: float | None = None,
    label: str = "",
) -> Column:
    made = KINDS[kind]
    suffix = "" if half_life is None else half_life_suffix(half_life)
    decay = f"w = weight · 2^(−age / {half_life})" if suffix else "w = weight"
    return Column(
        name=made.name.format(h=history, e=embedding, n=f"{group.name}_" if group.name else "", a=label, d=suffix),
        dtype=made.dtype,
        technique=technique,
        meaning=made.meaning.format(h=history, e=embedding, a=argument, d=decay),
        statistic=Statistic(kind, history, embedding, half_life, argument),
    )


def expected_cosines(spec: Spec, history: History, candidates: Candidates) -> tuple[int, int]:
    """How many cosines a shard takes, and how many times one is weighted, were there a vector for every item."""
    made = {column.statistic for group in spec.aggregate for column in columns(spec, group)}
    cosines = {s for s in made if isinstance(s, Statistic) and s.embedding is not None}
    names = {s.history for s in cosines}
    pairs = {name: int(visible(spec, name, history, candidates).count.sum()) for name in names}
    tables = {(s.history, s.embedding) for s in cosines}
    weighted = {(s.history, s.embedding, s.half_life) for s in cosines if s.half_life is not None}
    return sum(pairs[name] for name, _ in tables), sum(pairs[name] for name, _, _ in weighted)


def tasks(
    statistics: list[Statistic],
    embeddings: dict[str, EmbeddingMatrix],
    history: History,
    candidates: Candidates,
    seen: dict[str, Seen],
    found: dict[Any, Values],
    share: float,
) -> Iterator[Task]:
    """Pieces of work that fill `found` with all statistics of a shard: (Q) each, NaN where undefined.

    A history is the list of its events; with a table the list of those that have a vector in it, which is the same list
    where all do. `seen` by history. A row counts as a `share` of one.
    """
    parts = dict.fromkeys((s.history, s.embedding) for s in statistics)
    having = {table: embeddings[table].with_vector[history.items] for _, table in parts if table is not None}
    passes = sum(table is not None for _, table in parts)
    lists: dict[int, tuple[Seen, list[tuple[str, str | None]]]] = {}
    for name, table in parts:
        part = seen[name] if table is None else seen[name].only(having[table])
        lists.setdefault(id(part), (part, []))[1].append((name, table))
    for part, of_list in lists.values():
        events = EventList(history, candidates, part)
        mine = [s for s in statistics if (s.history, s.embedding) in of_list]
        yield partial(_count, [s for s in mine if s.kind in _COUNTERS], events, found)
        for table in (table for _, table in of_list if table is not None):
            of_table = [s for s in mine if s.embedding == table and s.kind not in _COUNTERS]
            computed = CosineStatistics(of_table, embeddings[table], events)
            found.update(computed.found)
            yield from (partial(_compute, computed, batch, share / passes) for batch in computed.batches())


def _count(statistics: list[Statistic], events: EventList, found: dict[Any, Values]) -> Done:
    began = time.perf_counter()
    found.update({s: _counter(s, events) for s in statistics})
    return Done(seconds={"counters": time.perf_counter() - began})


def _compute(computed: CosineStatistics, batch: Pieces, share: float) -> Done:
    began = time.perf_counter()
    with np.errstate(over="ignore"):  # weights of events that nobody sees
        done = computed.compute(batch)
    return replace(done, rows=share * done.rows, seconds={"aggregate": time.perf_counter() - began})


def _counter(s: Statistic, events: EventList) -> Values:
    """A statistic without cosines: (Q)."""
    if s.kind == "decayed_count":
        assert s.half_life is not None
        return events.decayed_count(s.half_life)
    if s.kind == "age_last_s":
        return np.where(events.seen.count > 0, events.age / 1e6, np.nan)
    return events.seen.count
