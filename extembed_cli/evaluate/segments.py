"""For whom it pays: the gain of each step by how much history a row's user had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools
from extembed_cli.evaluate.bootstrap import FEWEST_USERS, Interval
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import Step
from extembed_cli.evaluate.rows import Rows
from extembed_cli.spec.model import ALL

BUCKETS: dict[str, tuple[int, float]] = {
    "0": (0, 0),
    "1–5": (1, 5),
    "6–20": (6, 20),
    "21–100": (21, 100),
    "> 100": (101, float("inf")),
}
"""Name -> fewest and most visible events."""


@dataclass(frozen=True)
class Bucket:
    """Test rows whose users had about as much history."""

    events: str
    rows: int
    users: int
    gains: dict[str, Interval | None]
    """Step -> its gain over the step before on these rows alone; None where it is not defined or there
    are too few users for an interval."""


def count_columns(names: Sequence[str]) -> list[str]:
    """The counters whose sum is the length of a row's history: that of all interactions, or those of its parts."""
    whole = f"{ALL}__count"
    if whole in names:
        return [whole]
    return [name for name in names if name.endswith("__count") and name.count("__") == 1]


def by_length(test: Rows, counters: Sequence[str], judge: Judge, steps: Sequence[Step]) -> list[Bucket]:
    """Gains in each bucket that has rows; nothing where the file has no counters."""
    counters = count_columns(counters)
    if not counters:
        return []
    length = np.nansum([test.column(name) for name in counters], axis=0)
    found = []
    for name, (fewest, most) in BUCKETS.items():
        rows = (length >= fewest) & (length <= most)
        if rows.any():
            found.append(_bucket(name, rows, test.take(rows), judge, steps))
    return found


def _bucket(name: str, rows: Bools, of: Rows, judge: Judge, steps: Sequence[Step]) -> Bucket:
    users = len(np.unique(of.users))
    if users < FEWEST_USERS:
        return Bucket(name, len(of), users, {step.name: None for step in steps[1:]})
    inside = judge.of(of)
    measured = [inside.measure([fit.scores[rows] for fit in step.fits]) for step in steps]
    gains = {
        step.name: after.over(before) if np.isfinite(after.value) else None
        for step, before, after in zip(steps[1:], measured, measured[1:], strict=False)
    }
    return Bucket(name, len(of), users, gains)
