"""The entries of the statistics of technique 1 are true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import World, run_spec

from extembed_cli.features.aggregate.statistics import COSINES, TABLE_COUNTERS
from extembed_cli.features.counters.statistics import COUNTERS

GROUPS = """
[histories.liked]
where = "rating >= 4"
[[aggregate]]
half_lives = ["7d", "none"]
thresholds = [0.3]
sd = true
top = [2]
[[aggregate]]
name = "rated"
target = "rating"
half_lives = ["7d"]
percentiles = []
thresholds = [0.3]
top = [2]
"""
NEEDS = {
    "ranked": {"order"},
    "reaching": {"order"},
    "cumulative": {"order", "weights"},
    "weights": {"weights"},
    "decayed_count": {"weights"},
    "mean": {"mean"},
    "target_means": {"weights", "target"},
    "kernel": {"weights", "target"},
    "mean_of_reaching": {"weights", "target"},
    "top": {"order"},
    "cosines": set(),
    "counts": set(),
    "seen": set(),
    "age": set(),
    "half_life": set(),
    "arguments": set(),
    "y": {"target"},
}
"""What an attribute of a view, or of the parameters, needs."""


class Recorded:
    """A view, or parameters, that records what is read of it."""

    def __init__(self, view: Any, needed: set[str]) -> None:
        self.view, self.needed = view, needed

    def __getattr__(self, name: str) -> Any:
        self.needed |= NEEDS[name]
        return getattr(self.view, name)


def recording(compute: Callable[..., Any], needed: set[str]) -> Callable[..., Any]:
    return lambda view, parameters: compute(Recorded(view, needed), Recorded(parameters, needed))


def test_entries_declare_what_they_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, set[str]] = {}
    tables: list[dict[str, Any]] = [COUNTERS, TABLE_COUNTERS, COSINES]
    for table in tables:
        for name, entry in list(table.items()):
            compute = recording(entry.compute, read.setdefault(name, set()))
            monkeypatch.setitem(table, name, replace(entry, compute=compute))
    run_spec(world.spec(GROUPS))
    entries = {name: entry for table in tables for name, entry in table.items()}
    assert {name: set(entry.needs) for name, entry in entries.items()} == read
