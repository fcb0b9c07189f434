"""The candidate that a technique explains: its events by number and name, and what is the same in all techniques."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints, Values
from extembed_cli.data.columns.ids import shown
from extembed_cli.features.technique.explanation import Series
from extembed_cli.features.technique.protocol import ShardWork
from extembed_cli.histories.csr import History
from extembed_cli.spec.durations import shown_time
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.tables import Matrix


@dataclass(frozen=True)
class ExplainedCandidate:
    """A candidate to explain, and the events that it sees: 1 is the newest of a history."""

    work: ShardWork
    place: int
    """Of the candidate in the work"""

    @property
    def partners(self) -> pl.Series:
        """Ids of the partners by num."""
        assert self.work.partner_ids is not None
        return self.work.partner_ids

    @property
    def partner(self) -> str | None:
        """The candidate's partner as messages name it; None = null."""
        num = int(self.work.candidates.partners[self.place])
        return None if num < 0 else self._named(num)

    @property
    def as_of(self) -> int:
        """The as-of time (us)."""
        return int(self.work.candidates.times[self.place])

    def visible(self, history: str, target: Expression | None = None) -> Ints:
        """Return the places of the visible events of a history in `events_of`, the oldest first."""
        seen = self.work.seen(history, target)
        return seen.events[seen.start[self.place] : seen.end[self.place]]

    def events_of(self, history: str, target: Expression | None = None) -> History:
        """Return all events of the shard, ties in the order of a target."""
        return self.work.in_order_of(history, target)

    def number(self, history: str, target: Expression | None, place: int) -> int:
        """Return the number of a visible event by its place."""
        visible = self.visible(history, target)
        return len(visible) - int(np.searchsorted(visible, place))

    def name(self, history: str, number: int) -> str:
        """Return a visible event as messages name it: `event 3 (item 17, 2026-01-31 06:00:00)`."""
        events, place = self.work.history, self.visible(history)[-number]
        return f"event {number} ({self._named(int(events.partners[place]))}, {shown_time(int(events.times[place]))})"

    def _named(self, num: int) -> str:
        return f"{self.work.spec.side.partner} {shown(self.partners[num])}"

    # --- series -----------------------------------------------------------------------------------------

    def spread(self, history: str, target: Expression | None, places: Ints, values: Values) -> Doubles:
        """Return the values of some events as those of all visible ones; NaN for the others."""
        visible = self.visible(history, target)
        out = np.full(len(visible), np.nan)
        at = np.searchsorted(visible, places)
        shown = np.append(visible, -1)[at] == places
        out[at[shown]] = values[shown]
        return out

    def weights(self, history: str, half_life: str) -> dict[Series, Doubles]:
        """Return the decayed weights, relative to the heaviest of all visible events."""
        heights = self._heights(history, half_life)
        return {Series(history, "weight", half_life): np.exp2(heights - heights.max(initial=-np.inf))}

    def heaviest(self, history: str, half_life: str) -> float:
        """Return the largest weight of the visible events at the as-of time; 0 where it is too small for a number."""
        logs = self.work.event_list(history).absolute_logs(half_life, np.array([self.place]))
        return float(np.exp2(self._heights(history, half_life).max() + logs[0]))

    def _heights(self, history: str, half_life: str) -> Doubles:
        """Return log2 of the weights of all visible events, relative to one moment."""
        events = self.work.event_list(history)
        return events.heights(half_life, np.arange(events.seen.start[self.place], events.seen.end[self.place]))

    def targets(self, history: str, target: Expression | None) -> dict[Series, Doubles]:
        """Return what the events say, before and after the mean is taken off."""
        if target is None:
            return {}
        said = dict.fromkeys([target.of(None), target])
        return {
            Series(history, "target", each.meaning): self.events_of(history, each).values[each][
                self.visible(history, each)
            ]
            for each in said
        }

    def vectors(self, history: str, matrix: Matrix) -> dict[Series, Doubles]:
        """Return whether the partner of each event has a vector: 1 or 0."""
        table, places = self.work.embeddings[matrix], self.visible(history)
        slots = table.slots_of(self.work.history.partners[places], self.work.history.times[places])
        return {Series(history, "vector", label(matrix)): (slots != table.missing).astype(np.float64)}

    # --- nulls ------------------------------------------------------------------------------------------

    def without_vector(self, matrix: Matrix) -> str | None:
        """Return why there is no vector of the candidate in a table; None if there is one."""
        word, table = self.work.spec.side.partner, self.work.embeddings[matrix]
        at = slice(self.place, self.place + 1)
        partners, times = self.work.candidates.partners[at], self.work.candidates.times[at]
        if self.partner is None:
            return f"the {word} is null"
        if table.slots_of(partners, times)[0] == table.missing:
            return f"{self.partner} has no vector in {matrix.words}"
        return None

    def without_events(
        self, history: str, matrix: Matrix | None = None, target: Expression | None = None
    ) -> str | None:
        """Return why a history has no event that counts, with a vector and a target; None if it has one."""
        counts = np.ones(len(self.visible(history)), np.bool_)
        if not counts.any():
            return "no event is visible"
        if matrix is not None:
            [has_vector] = self.vectors(history, matrix).values()
            counts &= has_vector > 0
            if not counts.any():
                return f"no visible event has a vector of its {self.work.spec.side.partner} in {matrix.words}"
        if target is not None:
            counts &= ~np.isnan(self.targets(history, target)[Series(history, "target", target.meaning)])
            if not counts.any():
                return f"no visible event has y = {target.meaning}{'' if matrix is None else ' and a vector'}"
        return None


def label(matrix: Matrix) -> str:
    """Return the vectors of a table as a series names them."""
    return matrix.words.replace("`", "")
