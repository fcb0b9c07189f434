"""The counters of a history, one entry for each: its column, its meaning, and the function that computes it."""

from __future__ import annotations

import numpy as np

from extembed_cli.features.technique.definitions import Definition
from extembed_cli.histories.event_lists import EventList
from extembed_cli.spec.groups import CountersGroup

COUNTERS: dict[str, Definition[EventList, CountersGroup]] = {
    "count": Definition(
        "{h}__{n}count", "visible events of {h}", lambda events, _: [events.seen.count], dtype="UInt32", decays=False
    ),
    "age_last_s": Definition(
        "{h}__{n}age_last_s",
        "t − newest visible event of {h}, seconds",
        lambda events, _: [np.where(events.seen.count > 0, events.age / 1e6, np.nan)],
        decays=False,
    ),
    "decayed_count": Definition(
        "{h}__{n}decayed_count{d}",
        "Σ w over visible events of {h}, {d}",
        lambda events, p: [events.decayed_count(p.half_life)],
        needs=("weights",),
    ),
    "target_mean": Definition(
        "{h}__{n}target_mean{d}",
        "Σ w y / Σ w over visible events of {h}, {d}, y = {y}",
        lambda events, p: [events.target_means(p.half_life, p.y)],
        needs=("weights", "target"),
    ),
}
"""Of the visible events of a history; with a target, of those that have one"""
