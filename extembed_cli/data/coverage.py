"""Counts over the shards for the run report, and warnings about inputs that do not match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extembed_cli.arrays import Bools
from extembed_cli.data.inputs import Loaded
from extembed_cli.data.times import has_dates
from extembed_cli.histories.csr import Shard
from extembed_cli.spec.durations import DAY_US, duration_us
from extembed_cli.spec.model import Spec

_YEAR_US = 365 * DAY_US


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
    oldest: int | None = None
    """The oldest event (us)"""
    latest: int | None = None
    """The latest as-of time (us)"""

    @classmethod
    def of(cls, shard: Shard, partners: Mapping[str, Bools], owners: Mapping[str, Bools]) -> Coverage:
        """Return the counts of one shard.

        partners  by table: (partners + 1) whether each has a vector; False for a null one
        owners    by table: (owners + 1) whether each has a vector
        """
        history, candidates = shard.history, shard.candidates
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
            events_covered={name: _count(having[history.partners]) for name, having in partners.items()},
            candidates_covered={
                **{name: _count(having[candidates.partners]) for name, having in partners.items()},
                **{name: _count(having[candidates.owners]) for name, having in owners.items()},
            },
            oldest=int(history.times.min()) if len(history.times) else None,
            latest=int(candidates.times.max()) if len(candidates.times) else None,
        )

    def add(self, other: Coverage, times: int = 1) -> None:
        """Add the counts of another shard, multiplied by `times` if it represents several."""
        for name in ("owners", "owners_met", "events", "candidates"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("expressions", "events_covered", "candidates_covered"):
            counts = getattr(self, name)
            for key, count in getattr(other, name).items():
                counts[key] = counts.get(key, 0) + times * count
        self.oldest = min((t for t in (self.oldest, other.oldest) if t is not None), default=None)
        self.latest = max((t for t in (self.latest, other.latest) if t is not None), default=None)

    def of_table(self, table: str) -> dict[str, float | None]:
        """Return the shares of the used events and of the candidates that have a vector; None = not counted."""
        return {
            "events": _share(self.events_covered.get(table), self.events),
            "candidates": _share(self.candidates_covered.get(table), self.candidates),
        }

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
            by_kind.setdefault(spec.kind_of(name), {})[name] = {**table, "coverage": self.of_table(name)}
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

    def mismatches(self, spec: Spec, loaded: Loaded) -> list[str]:
        """Return warnings about inputs that do not match: the features would be valid but worthless."""
        warnings: list[str] = []
        times = spec.column("interactions", "time")
        if has_dates(loaded.inputs.interactions, times) and duration_us(spec.lag) < DAY_US:
            warnings.append(
                f"interactions: column `{times}` has dates without a time of day: a candidate at 09:00 would see that "
                'day\'s evening. Set lag = "1d" (--lag 1d)'
            )
        if loaded.inputs.candidates is not None:
            if not self.candidates:
                return warnings
            warnings += self._candidate_warnings(spec)
        elif not spec.needs_all_owners:
            return []  # nothing but item vectors, for which no event is read
        if not self.events:
            return warnings or ["no interaction can be used: every history is empty"]
        if loaded.events.newest is not None and loaded.events.newest < _YEAR_US:
            warnings.append("all interactions are in 1970, so candidates would see their future. Is time_unit right?")
        for name, members in self.members(spec).items():
            if not members:
                warnings.append(
                    f"histories.{name}: no interaction matches where = {spec.history(name).where!r}: it is always empty"
                )
        for target, key in spec.targets.items():
            if not self.expressions.get(target.column, 0):
                warnings.append(f"{key} = {target.text!r}: null for every interaction, so its columns are null")
        for name in loaded.ids:
            share, whose = self.of_table(name), "item" if name in spec.embeddings else "user"
            if 0 in share.values():
                rows = "interactions" if share["events"] == 0 else "candidates"
                warnings.append(
                    f"{spec.table_label(name)}: no {whose} of the {rows} has a vector. Are the {whose} ids the same?"
                )
        return warnings

    def _candidate_warnings(self, spec: Spec) -> list[str]:
        if not self.owners_met:
            owner = spec.side.owner
            return [
                f"no {owner} of the candidates has an interaction: every history is empty. "
                f"Are the {owner} ids the same?"
            ]
        assert self.oldest is not None
        assert self.latest is not None
        if self.latest - duration_us(spec.lag) <= self.oldest:
            return ["all candidates are before the first interaction, so every history is empty. Is time_unit right?"]
        return []


def _count(flags: Bools) -> int:
    return int(np.count_nonzero(flags))


def _share(part: int | None, whole: int) -> float | None:
    return round(part / whole, 4) if whole and part is not None else None
