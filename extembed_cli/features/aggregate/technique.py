"""Technique 1: decayed statistics of the cosines between a candidate and the user's history."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from extembed_cli.data.shard_results import Tally
from extembed_cli.features.aggregate.cosine_statistics import PAIRS, CosineStatistics
from extembed_cli.features.aggregate.event_lists import EventList
from extembed_cli.features.aggregate.statistics import COSINES, COUNTERS, TABLE_COUNTERS, Statistic, columns
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.protocol import (
    Estimate,
    Memory,
    Prepared,
    ShardWork,
    State,
    Task,
    Technique,
)
from extembed_cli.histories.batches import Pieces
from extembed_cli.histories.visibility import Seen
from extembed_cli.spec.groups import AggregateGroup
from extembed_cli.spec.model import Spec

# Measured on 2 cores, see docs/decisions/.
_SECONDS_PER_COSINE, _SECONDS_PER_WEIGHTED_COSINE = 20e-9, 20e-9
_SECONDS_PER_CANDIDATE, _SECONDS_PER_EVENT = 0.7e-6, 0.6e-6  # of each table, history and half-life
_BYTES_PER_PAIR = 100


class Aggregate(Technique):
    """Counters of a history, and statistics of the cosines with it."""

    group = AggregateGroup
    steps = ("counters", "aggregate")

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(AggregateGroup):
            yield from columns(spec, group)

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> AggregateState:
        return AggregateState([s for s in statistics if isinstance(s, Statistic)])

    def memory(self, spec: Spec, items: int) -> Memory:
        return Memory(batch=PAIRS * _BYTES_PER_PAIR)

    def bytes_of_longest(self, spec: Spec, events: int) -> int:
        groups = spec.of(AggregateGroup)
        limits = [spec.history(name).max_events for group in groups for name in spec.histories_of(group)]
        longest = min(events, max((limit or events for limit in limits), default=0))
        return max(0, longest - PAIRS) * _BYTES_PER_PAIR

    def seconds_per_candidate(self, spec: Spec, events: float) -> float:
        groups = spec.of(AggregateGroup)
        weighted = sum(len(spec.embeddings_of(g)) * len(spec.histories_of(g)) * len(g.half_lives) for g in groups)
        return weighted * (_SECONDS_PER_CANDIDATE + _SECONDS_PER_EVENT * events)

    def estimate(self, spec: Spec, work: ShardWork, dims: Mapping[str, int]) -> Estimate:
        """Return the estimated cost, as if every item had a vector."""
        cosines = {s for c in self.columns(spec) if isinstance(s := c.statistic, Statistic) and s.embedding is not None}
        pairs = {name: int(work.seen(name).count.sum()) for name in {s.history for s in cosines}}
        tables = {(s.history, s.embedding) for s in cosines}
        weighted = {(s.history, s.embedding, s.half_life) for s in cosines if s.half_life is not None}
        count = sum(pairs[name] for name, _ in tables)
        seconds = count * _SECONDS_PER_COSINE
        seconds += sum(pairs[name] for name, _, _ in weighted) * _SECONDS_PER_WEIGHTED_COSINE
        return Estimate(seconds, {"cosines": count})

    def report(self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return {"cosines": tally.counts.get("cosines", 0)}

    def chart_of(self, column: str) -> str | None:
        """Return one chart for the cosines of each table and history; shares are not cosines."""
        before, cosine, statistic = column.rpartition("cos_")
        return before if cosine and not statistic.startswith("share") else None


@dataclass(frozen=True)
class AggregateState(State):
    """The statistics to compute; nothing has to be prepared for them."""

    statistics: list[Statistic]

    @property
    def passes(self) -> int:
        return 1

    def tasks(self, work: ShardWork) -> Iterator[Task]:
        """Compute the statistics of each list of events: those of a history, or those of it with a vector in a table.

        Where every event has one, both are the same list, with the same weights.
        """
        parts = dict.fromkeys((s.history, s.embedding) for s in self.statistics)
        seen = {name: work.seen(name) for name in {name for name, _ in parts}}
        has_vector = {
            table: work.embeddings[table].with_vector[work.history.items] for _, table in parts if table is not None
        }
        passes = sum(table is not None for _, table in parts)
        lists: dict[int, tuple[Seen, list[tuple[str, str | None]]]] = {}
        for name, table in parts:
            part = seen[name] if table is None else seen[name].only(has_vector[table])
            lists.setdefault(id(part), (part, []))[1].append((name, table))
        for part, of_list in lists.values():
            events = EventList(work.history, work.candidates, part)
            chosen = [s for s in self.statistics if (s.history, s.embedding) in of_list]
            yield partial(_count, [s for s in chosen if s.name not in COSINES], events, work)
            for table in (table for _, table in of_list if table is not None):
                of_table = [s for s in chosen if s.embedding == table and s.name in COSINES]
                statistics = CosineStatistics(of_table, work.embeddings[table], events)
                work.values.update(statistics.values)
                yield from (partial(_compute, statistics, batch, passes) for batch in statistics.batches())


def _count(statistics: list[Statistic], events: EventList, work: ShardWork) -> Tally:
    began = time.perf_counter()
    for statistic in statistics:
        definition = {**COUNTERS, **TABLE_COUNTERS}[statistic.name]
        [work.values[statistic]] = definition.compute(events, statistic.half_life or "none", [])
    return Tally(seconds={"counters": time.perf_counter() - began})


def _compute(statistics: CosineStatistics, batch: Pieces, passes: int) -> Tally:
    began = time.perf_counter()
    with np.errstate(over="ignore"):  # weights of events that nobody sees
        tally = statistics.compute(batch)
    tally.passes /= passes
    tally.seconds = {"aggregate": time.perf_counter() - began}
    return tally
