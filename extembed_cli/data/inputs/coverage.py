"""Counts over the shards: how the inputs of a pass match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extembed_cli.arrays import Bools, Ints, Values
from extembed_cli.data.inputs.inputs import Loaded
from extembed_cli.histories.csr import Shard
from extembed_cli.histories.visibility import visible, visible_end
from extembed_cli.spec.model import Spec

HasVector = Callable[[Values, Ints], Bools]
"""Returns whether each num has a vector at a time: nums (n) and times (n) in us -> (n)"""


@dataclass
class Coverage:
    """Counts over one or more shards; plain data."""

    owners: int = 0
    """Users, or on their side items, with a candidate"""
    owners_met: int = 0
    """Those with a candidate and an event"""
    events: int = 0
    candidates: int = 0
    expressions: dict[str, int] = field(default_factory=dict)
    """By an expression's column: events for which it is true, or has a number"""
    events_covered: dict[str, int] = field(default_factory=dict)
    candidates_covered: dict[str, int] = field(default_factory=dict)
    """By table: those whose item has a vector, or in a table of the owners, whose owner has one"""
    candidates_seeing: dict[str, int] = field(default_factory=dict)
    """By history: those that see an event of it"""

    @classmethod
    def of(
        cls, spec: Spec, shard: Shard, partners: Mapping[str, HasVector], owners: Mapping[str, HasVector]
    ) -> Coverage:
        """Return the counts of one shard; by table, who has a vector at a time."""
        history, candidates = shard.history, shard.candidates
        end = visible_end(spec, history, candidates)
        have_events, have_candidates = np.diff(history.indptr) > 0, np.diff(candidates.indptr) > 0
        return cls(
            owners=_count(have_candidates),
            owners_met=_count(have_candidates & have_events),
            events=len(history.partners),
            candidates=len(candidates.partners),
            expressions={
                expression.column: _count(values if expression.dtype == "Boolean" else ~np.isnan(values))
                for expression, values in history.values.items()
            },
            events_covered={name: _count(has(history.partners, history.times)) for name, has in partners.items()},
            candidates_covered={
                **{name: _count(has(candidates.partners, candidates.times)) for name, has in partners.items()},
                **{name: _count(has(candidates.owners, candidates.times)) for name, has in owners.items()},
            },
            candidates_seeing={
                name: _count(visible(spec, name, history, candidates, end).count > 0) for name in spec.read_histories
            },
        )

    def add(self, other: Coverage, times: int = 1) -> None:
        """Add the counts of another shard, multiplied by `times` if it represents several."""
        for name in ("owners", "owners_met", "events", "candidates"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("expressions", "events_covered", "candidates_covered", "candidates_seeing"):
            counts = getattr(self, name)
            for key, count in getattr(other, name).items():
                counts[key] = counts.get(key, 0) + times * count

    def of_table(self, table: str) -> dict[str, float | None]:
        """Return the shares of the used events and of the candidates that have a vector; None = not counted."""
        return {
            "events": _share(self.events_covered.get(table), self.events),
            "candidates": _share(self.candidates_covered.get(table), self.candidates),
        }

    def _rounded(self, table: str) -> dict[str, float | None]:
        return {rows: None if share is None else round(share, 4) for rows, share in self.of_table(table).items()}

    def members(self, spec: Spec) -> dict[str, int]:
        """Return the number of events of each history that has a `where`."""
        members = {name: spec.membership(name) for name in spec.histories}
        return {name: self.expressions.get(where.column, 0) for name, where in members.items() if where is not None}

    def report(
        self, spec: Spec, loaded: Loaded, of_tables: Mapping[str, dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Return the run report's part about the inputs: rows, dropped rows by reason, tables and their coverage."""
        events, candidates = loaded.events, loaded.candidates
        owners = f"{spec.side.owner}s"
        by_kind: dict[str, dict[str, Any]] = {"embeddings": {}}
        for name, table in {**{name: ids.report for name, ids in loaded.ids.items()}, **(of_tables or {})}.items():
            by_kind.setdefault(spec.kind_of(name), {})[name] = {**table, "coverage": self._rounded(name)}
        return {
            "interactions": {
                "rows": events.rows,
                "dropped": events.dropped,
                "null_targets": events.null_targets,
                f"of_{owners}_without_candidates": events.usable - self.events,
                "used": self.events,
            },
            "histories": self.members(spec),
            "candidates": {
                "rows": candidates.rows,
                owners: self.owners,
                "null_user_or_time": candidates.null_user_or_time,
                "null_item": candidates.null_item,
            },
            **by_kind,
        }


def _count(flags: Bools) -> int:
    return int(np.count_nonzero(flags))


def _share(part: int | None, whole: int) -> float | None:
    return part / whole if whole and part is not None else None
