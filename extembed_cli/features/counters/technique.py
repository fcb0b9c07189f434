"""The counters of histories: of `[[counters]]` groups, and of every group of technique 1."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.features.counters.explanations import explanation
from extembed_cli.features.counters.statistics import COUNTERS
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.definitions import Parameters, Statistic, columns_of
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.features.technique.protocol import Prepared, ShardWork, State, Task, Technique
from extembed_cli.histories.event_lists import EventList
from extembed_cli.spec.groups import CountersGroup
from extembed_cli.spec.model import Spec


class Counters(Technique):
    """How many events a history has, how old they are, and what they say."""

    group = CountersGroup
    step = "counters"

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(CountersGroup):
            for history in spec.histories_of(group):
                yield from columns_of(COUNTERS, group, "counters", history)

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> CountersState:
        return CountersState([each for each in statistics if isinstance(each, Statistic)])


@dataclass(frozen=True)
class CountersState(State):
    """The counters to compute; nothing has to be prepared for them."""

    statistics: list[Statistic]

    @property
    def passes(self) -> int:
        return 0  # they take hardly any time

    def tasks(self, work: ShardWork) -> Iterator[Task]:
        """Yield a task for each list of events."""
        for history, target in dict.fromkeys((s.history, s.target) for s in self.statistics):
            events = work.event_list(history, target)
            chosen = [s for s in self.statistics if (s.history, s.target) == (history, target)]
            yield partial(count, chosen, events, work)

    def explain(self, work: ShardWork, place: int, statistics: Sequence[Hashable]) -> dict[Hashable, Explanation]:
        candidate = ExplainedCandidate(work, place)
        return {each: explanation(candidate, each) for each in statistics if isinstance(each, Statistic)}


def count(statistics: list[Statistic], events: EventList, work: ShardWork) -> Tally:
    """Compute the counters of a list of events."""
    began = time.perf_counter()
    for statistic in statistics:
        parameters = Parameters(statistic.half_life or "none", statistic.target, [])
        [work.values[statistic]] = COUNTERS[statistic.name].compute(events, parameters)
    return Tally(seconds={"counters": time.perf_counter() - began})
