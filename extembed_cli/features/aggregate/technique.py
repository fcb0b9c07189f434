"""Technique 1: decayed statistics of the cosines between a candidate and the user's history."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.features.aggregate.cosine_statistics import PAIRS, CosineStatistics
from extembed_cli.features.aggregate.explanations import explanation
from extembed_cli.features.aggregate.statistics import COSINES, TABLE_COUNTERS
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.definitions import Parameters, Statistic, columns_of
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation
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
from extembed_cli.histories.event_lists import EventList
from extembed_cli.spec.groups import AggregateGroup
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix

# Measured on 2 cores, see docs/decisions/.
_SECONDS_PER_COSINE, _SECONDS_PER_WEIGHTED_COSINE = 20e-9, 20e-9
_SECONDS_PER_CANDIDATE, _SECONDS_PER_EVENT = 0.7e-6, 0.6e-6  # of each table, history and half-life
_BYTES_PER_PAIR = 100


class Aggregate(Technique):
    """Statistics of the cosines with a history."""

    group = AggregateGroup
    step = "aggregate"

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(AggregateGroup):
            for table in spec.embeddings_of(group):
                for history in spec.histories_of(group):
                    matrix = spec.matrix(table, group)
                    for definitions in (TABLE_COUNTERS, COSINES):
                        yield from columns_of(definitions, group, "aggregate", history, matrix)

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
        statistics = {s for c in self.columns(spec) if isinstance(s := c.statistic, Statistic)}
        pairs = {name: int(work.seen(name).count.sum()) for name in {s.history for s in statistics}}
        tables = {(s.history, s.matrix) for s in statistics}
        weighted = {(s.history, s.matrix, s.half_life) for s in statistics if s.half_life is not None}
        kernels = {(s.history, s.matrix, s.half_life, s.argument) for s in statistics if s.name == "target_kernel_mean"}
        count = sum(pairs[name] for name, _ in tables)
        seconds = count * _SECONDS_PER_COSINE
        weighings = sum(pairs[key[0]] for key in weighted) + sum(pairs[key[0]] for key in kernels)
        seconds += weighings * _SECONDS_PER_WEIGHTED_COSINE
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
        """Yield the tasks of each list of events, those of a history with a vector in a table.

        Statistics with a target are of the same list where its ties are in the same order.
        """
        lists = list(_lists(self.statistics, work))
        for events, matrix, chosen in lists:
            yield partial(_count, [s for s in chosen if s.name in TABLE_COUNTERS], events, work)
            statistics = CosineStatistics([s for s in chosen if s.name in COSINES], work.embeddings[matrix], events)
            work.values.update(statistics.values)
            yield from (partial(_compute, statistics, batch, len(lists)) for batch in statistics.batches())

    def explain(self, work: ShardWork, place: int, statistics: Sequence[Hashable]) -> dict[Hashable, Explanation]:
        candidate, explanations = ExplainedCandidate(work, place), dict[Hashable, Explanation]()
        for events, matrix, chosen in _lists([s for s in statistics if isinstance(s, Statistic)], work):
            cosines = CosineStatistics([s for s in chosen if s.name in COSINES], work.embeddings[matrix], events)
            with np.errstate(over="ignore"):
                view = cosines.view(candidate.place)
                explanations |= {each: explanation(candidate, each, events.seen, view) for each in chosen}
        return explanations


def _lists(statistics: Sequence[Statistic], work: ShardWork) -> Iterator[tuple[EventList, Matrix, list[Statistic]]]:
    """Yield the lists of events that statistics are of, each with its table and its statistics."""
    lists: dict[tuple[int, Matrix], tuple[EventList, list[Statistic]]] = {}
    for statistic in statistics:
        matrix = statistic.matrix
        assert matrix is not None
        events = work.event_list(statistic.history, statistic.target, matrix)
        lists.setdefault((id(events), matrix), (events, []))[1].append(statistic)
    for (_, matrix), (events, chosen) in lists.items():
        yield events, matrix, chosen


def _count(statistics: list[Statistic], events: EventList, work: ShardWork) -> Tally:
    for statistic in statistics:
        [work.values[statistic]] = TABLE_COUNTERS[statistic.name].compute(events, Parameters("none", None, []))
    return Tally()


def _compute(statistics: CosineStatistics, batch: Pieces, passes: int) -> Tally:
    began = time.perf_counter()
    with np.errstate(over="ignore"):  # weights of events that nobody sees
        tally = statistics.compute(batch)
    tally.passes /= passes
    tally.seconds = {"aggregate": time.perf_counter() - began}
    return tally
