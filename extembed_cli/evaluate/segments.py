"""The gain of each step by the length of the history of a row's user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools
from extembed_cli.evaluate.bootstrap import MIN_USERS, Interval
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
"""Name -> smallest and largest number of visible events."""


# The count of a history, and that of a group with a name, which is not a decayed count.
_COUNT, _NAMED = (
    re.compile(r"[^_](?:_?[^_])*__count"),
    re.compile(r"[^_](?:_?[^_])*__(?:_?[^_])+_count(?<!decayed_count)"),
)


@dataclass(frozen=True)
class Bucket:
    """The test rows with a similar number of visible events."""

    events: str
    rows: int
    users: int
    gains: dict[str, Interval | None]
    """Step -> its gain over the step before on these rows; None where it is undefined or there are fewer than MIN_USERS
    users."""


def count_columns(names: Sequence[str]) -> list[str]:
    """Return the counters whose sum is the length of a history: that of the history `all`, or else all counts."""
    total = f"{ALL}__count"
    if total in names:
        return [total]
    return [name for name in names if _COUNT.fullmatch(name)] or [name for name in names if _NAMED.fullmatch(name)]


def by_length(test: Rows, counters: Sequence[str], judge: Judge, steps: Sequence[Step]) -> list[Bucket]:
    """Return the gains in each bucket that has rows; an empty list where the file has no counters."""
    counters = count_columns(counters)
    if not counters:
        return []
    length = np.nansum([test.column(name) for name in counters], axis=0)
    buckets = []
    for name, (smallest, largest) in BUCKETS.items():
        chosen = (length >= smallest) & (length <= largest)
        if chosen.any():
            buckets.append(_bucket(name, chosen, test.take(chosen), judge, steps))
    return buckets


def _bucket(name: str, chosen: Bools, rows: Rows, judge: Judge, steps: Sequence[Step]) -> Bucket:
    users = len(np.unique(rows.users))
    if users < MIN_USERS:
        return Bucket(name, len(rows), users, {step.name: None for step in steps[1:]})
    bucket_judge = judge.of(rows)
    measured = [bucket_judge.measure([fit.test_scores[chosen] for fit in step.fits]) for step in steps]
    gains = {
        step.name: after.gain_over(before) if np.isfinite(after.value) else None
        for step, before, after in zip(steps[1:], measured, measured[1:], strict=False)
    }
    return Bucket(name, len(rows), users, gains)
