"""The entries of the statistics of technique 1 are true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import World, run_spec

from extembed_cli.features.aggregate import statistics

GROUPS = """
[histories.liked]
where = "rating >= 4"
[[aggregate]]
half_lives = ["7d", "none"]
thresholds = [0.3]
sd = true
"""
NEEDS = {
    "ranked": {"order"},
    "reaching": {"order"},
    "cumulative": {"order", "weights"},
    "weights": {"weights"},
    "decayed_count": {"weights"},
    "mean": {"mean"},
    "cosines": set(),
    "counts": set(),
    "seen": set(),
    "age": set(),
}
"""What an attribute of a view needs."""


class Recorded:
    """A view that records what is read of it."""

    def __init__(self, view: Any, needed: set[str]) -> None:
        self.view, self.needed = view, needed

    def __getattr__(self, name: str) -> Any:
        self.needed |= NEEDS[name]
        return getattr(self.view, name)


def recording(compute: Callable[..., Any], needed: set[str]) -> Callable[..., Any]:
    return lambda view, *more: compute(Recorded(view, needed), *more)


def test_entries_declare_what_they_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, set[str]] = {}
    for table in (statistics.COUNTERS, statistics.TABLE_COUNTERS, statistics.COSINES):
        for name, entry in list(table.items()):
            compute = recording(entry.compute, read.setdefault(name, set()))
            monkeypatch.setitem(table, name, replace(entry, compute=compute))
    run_spec(world.spec(GROUPS))
    entries = {**statistics.COUNTERS, **statistics.TABLE_COUNTERS, **statistics.COSINES}
    assert {name: set(entry.needs) for name, entry in entries.items()} == read
