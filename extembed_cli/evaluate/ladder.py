"""The ladder: rankers on ever more columns, what each step adds, and controls of the same size that may add nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from extembed_cli.evaluate.bootstrap import FEWEST_USERS, Interval
from extembed_cli.evaluate.judge import Judge, Measured
from extembed_cli.evaluate.ranker import Ranked, Train

_HOPELESS = 1000.0  # times too wide an interval is: a million times the rows
_MARGIN = 1.05  # so that the rows that are told do decide
KEEP, NOT_WORTH_IT, CANNOT_TELL = "keep", "not worth it", "cannot tell"


@dataclass(frozen=True)
class Step:
    """A rung of the ladder."""

    name: str
    columns: list[str]
    """All columns so far."""
    measured: Measured
    fits: list[Ranked]
    """By seed."""
    gain: Interval | None
    """Over the step before; None for the first."""
    control: Interval | None
    """What its columns gained over the step before, permuted."""
    over_control: Interval | None

    @property
    def learned(self) -> bool:
        """Whether its rankers tell any rows apart: with too few to learn from, they do not."""
        return any(np.ptp(fit.scores) > 0 for fit in self.fits)

    @property
    def shares(self) -> dict[str, float]:
        """Column -> its share of what the ranker gained, the mean over seeds."""
        shares = [fit.gain / max(fit.gain.sum(), 1e-300) for fit in self.fits]
        return dict(zip(self.columns, np.mean(shares, axis=0).tolist(), strict=True))


def climb(
    steps: dict[str, list[str]],
    train: Train,
    judge: Judge,
) -> Iterator[Step]:
    """Train and measure the steps one after another."""
    columns: list[str] = []
    before: Measured | None = None
    for name, added in steps.items():
        columns = [*columns, *added]
        fits, *permuted = train(columns, [] if before is None else added)
        measured = judge.measure([each.scores for each in fits])
        gain = control = over = None
        if before is not None:
            blind = judge.measure([each.scores for each in permuted[0]])
            gain, control, over = measured.over(before), blind.over(before), measured.over(blind)
        yield Step(name, columns, measured, fits, gain, control, over)
        before = measured


@dataclass(frozen=True)
class Verdict:
    """What to do with a step."""

    word: str
    reason: str
    more_rows: int | None = None
    """Test rows that are missing to tell."""


def verdict(gain: Interval, over_control: Interval, rows: int, users: int, least: float) -> Verdict:
    """Keep what surely gains, at least `least` and more than its columns permuted; drop what surely gains less.

    Where neither is sure, the interval has to shrink: its width goes with the root of the number of rows. Few users
    have no interval worth the name.
    """
    if users < FEWEST_USERS:
        more = two_figures(max(1, rows * (FEWEST_USERS / users - 1)))
        return Verdict(CANNOT_TELL, f"the test rows are of {users} users; it takes {FEWEST_USERS} at least", more)
    adds = f"adds {gain.value:+.4f}, between {gain.low:+.4f} and {gain.high:+.4f}"
    if gain.low > 0 and over_control.low > 0 and gain.value >= least:
        return Verdict(KEEP, adds)
    if gain.high < least:
        return Verdict(NOT_WORTH_IT, f"adds {gain.high:+.4f} at most, less than {least:g}")
    if gain.value < least:
        shrink = (gain.high - gain.value) / (least - gain.value)
    else:
        if gain.low > 0:
            adds += f", but over its columns permuted between {over_control.low:+.4f} and {over_control.high:+.4f}"
        shrink = max(_excess(gain), _excess(over_control))
    if not shrink < _HOPELESS:
        return Verdict(CANNOT_TELL, f"{adds}; more rows like these would not tell")
    more = two_figures(max(1, rows * (_MARGIN * shrink**2 - 1)))
    return Verdict(CANNOT_TELL, f"{adds}; to tell would take about {more:,} more test rows", more)


def two_figures(value: float) -> int:
    """The next whole number up with at most two digits before its zeros: the rows that are missing are a guess."""
    unit: int = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _excess(interval: Interval) -> float:
    """How many times too wide an interval is to lie above 0; infinite where its value does not."""
    return (interval.value - interval.low) / interval.value if interval.value > 0 else math.inf
