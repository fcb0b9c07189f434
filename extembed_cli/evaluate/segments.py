"""The value and gain of each step by the length of the history of a row's user, and by how often its item was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools, Values
from extembed_cli.evaluate.bootstrap import MIN_USERS, Interval
from extembed_cli.evaluate.columns import count_columns
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import Step
from extembed_cli.evaluate.rows import Rows

BUCKETS: dict[str, tuple[int, float]] = {
    "0": (0, 0),
    "1–5": (1, 5),
    "6–20": (6, 20),
    "21–100": (21, 100),
    "> 100": (101, float("inf")),
}
"""Name -> smallest and largest number of visible events."""
ITEM_BUCKETS: dict[str, tuple[int, float]] = {
    "0": (0, 0),
    "1–4": (1, 4),
    "5–20": (5, 20),
    "> 20": (21, float("inf")),
}
"""Name -> smallest and largest number of earlier events of the item."""


@dataclass(frozen=True)
class Bucket:
    """The test rows with a similar number of events."""

    events: str
    rows: int
    users: int
    values: dict[str, Interval | None]
    """Step -> its metric on these rows; None where it is undefined or there are fewer than MIN_USERS users."""
    gains: dict[str, Interval | None]
    """Step -> its gain over the step before."""


def by_length(test: Rows, counters: Sequence[str], judge: Judge, steps: Sequence[Step]) -> list[Bucket]:
    """Return the buckets of test rows by length of the history; an empty list where the file has no counters."""
    counters = count_columns(counters)
    if not counters:
        return []
    return _buckets(BUCKETS, np.nansum([test.column(name) for name in counters], axis=0), test, judge, steps)


def by_item(test: Rows, judge: Judge, steps: Sequence[Step]) -> list[Bucket]:
    """Return the buckets of test rows by how often the item was seen; an empty list where that is not known."""
    return [] if test.item_counts is None else _buckets(ITEM_BUCKETS, test.item_counts, test, judge, steps)


def _buckets(
    limits: dict[str, tuple[int, float]], counts: Values, test: Rows, judge: Judge, steps: Sequence[Step]
) -> list[Bucket]:
    """Return each bucket that has rows."""
    buckets = []
    for name, (smallest, largest) in limits.items():
        chosen = (counts >= smallest) & (counts <= largest)
        if chosen.any():
            buckets.append(_bucket(name, chosen, test.take(chosen), judge, steps))
    return buckets


def _bucket(name: str, chosen: Bools, rows: Rows, judge: Judge, steps: Sequence[Step]) -> Bucket:
    users = len(np.unique(rows.users))
    if users < MIN_USERS:
        nothing: dict[str, Interval | None] = {step.name: None for step in steps}
        return Bucket(name, len(rows), users, nothing, {step.name: None for step in steps[1:]})
    bucket_judge = judge.of(rows)
    measured = [bucket_judge.measure([fit.test_scores[chosen] for fit in step.fits]) for step in steps]
    values = {
        step.name: each.interval if np.isfinite(each.value) else None
        for step, each in zip(steps, measured, strict=True)
    }
    gains = {
        step.name: after.gain_over(before) if np.isfinite(after.value) else None
        for step, before, after in zip(steps[1:], measured, measured[1:], strict=False)
    }
    return Bucket(name, len(rows), users, values, gains)
