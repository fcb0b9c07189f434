"""The ladder: rankers on more and more columns, the gain of each step, and the same columns permuted as a control."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from extembed_cli.errors import counted
from extembed_cli.evaluate.bootstrap import MIN_USERS, Interval
from extembed_cli.evaluate.judge import Judge, Measurement
from extembed_cli.evaluate.numbers import gain_text
from extembed_cli.evaluate.ranker import RankerFit, TrainRankers
from extembed_cli.evaluate.rough import rough_range
from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.verdicts import CANNOT_TELL, KEEP, NOT_WORTH_IT, Verdict

_MAX_SHRINK = 100.0  # an interval that is this many times too wide needs ten thousand times the rows
_MARGIN = 1.05  # so that the estimated number of rows is enough


@dataclass(frozen=True)
class Step:
    """A step of the ladder with its rankers and its gain."""

    name: str
    columns: list[str]
    """Columns of this step and of all steps before it."""
    measured: Measurement
    fits: list[RankerFit]
    """By seed."""
    gain: Interval | None
    """Gain over the step before; None for the first."""
    control: Interval | None
    """Gain over the step before with the added columns permuted."""
    over_control: Interval | None
    """Gain over the same ranker with the added columns permuted."""

    @property
    def learned(self) -> bool:
        """Whether a ranker gives different scores to any rows; with too few training rows none does."""
        return any(np.ptp(fit.test_scores) > 0 for fit in self.fits)

    @property
    def shares(self) -> dict[str, float]:
        """Each column's share of the ranker's gain, the mean over seeds."""
        shares = [fit.gain / max(fit.gain.sum(), 1e-300) for fit in self.fits]
        return dict(zip(self.columns, np.mean(shares, axis=0).tolist(), strict=True))


def measure_steps(
    steps: dict[str, list[str]],
    train_rankers: TrainRankers,
    judge: Judge,
) -> Iterator[Step]:
    """Train and measure the steps one after another."""
    columns: list[str] = []
    before: Measurement | None = None
    for name, added in steps.items():
        columns = [*columns, *added]
        fits, *permuted_fits = train_rankers(columns, [] if before is None else added)
        measured = judge.measure([fit.test_scores for fit in fits])
        gain = control = over_control = None
        if before is not None:
            permuted = judge.measure([fit.test_scores for fit in permuted_fits[0]])
            gain, control = measured.gain_over(before), permuted.gain_over(before)
            over_control = measured.gain_over(permuted)
        yield Step(name, columns, measured, fits, gain, control, over_control)
        before = measured


def verdict(gain: Interval, over_control: Interval, rows: int, users: int, settings: Settings) -> Verdict:
    """Return the decision about a step by its gain and by its gain over its columns permuted.

    Keep a step that surely gains, by at least `min_gain`, and more than its columns permuted; drop one that surely
    gains less than `min_gain`. Otherwise there are too few rows to decide: the width of an interval shrinks with the
    square root of the number of rows, which gives the number of missing rows, and the reason says how to get them.
    Fewer than MIN_USERS users have no useful interval.
    """
    min_gain = settings.min_gain
    if users < MIN_USERS:
        reason = f"the test rows have {counted(users, 'user')}; at least {MIN_USERS} are needed"
        return Verdict(CANNOT_TELL, f"{reason}: {more_rows_by(settings, ' of more users')}")
    adds = f"adds {gain_text(gain.value)}, between {gain_text(gain.low)} and {gain_text(gain.high)}"
    if gain.low > 0 and over_control.low > 0 and gain.value >= min_gain:
        return Verdict(KEEP, adds)
    if gain.high < min_gain:
        return Verdict(NOT_WORTH_IT, f"adds at most {gain_text(gain.high)}, less than {min_gain:g}")
    if gain.value < min_gain:
        shrink = (gain.high - gain.value) / (min_gain - gain.value)
    else:
        if gain.low > 0:
            low, high = gain_text(over_control.low), gain_text(over_control.high)
            adds += f", but over its columns permuted between {low} and {high}"
        shrink = max(_excess(gain), _excess(over_control))
    if not shrink < _MAX_SHRINK:
        return Verdict(
            CANNOT_TELL,
            f"{adds}; more rows like these would not decide it: change the features (other histories, half-lives or "
            "tables) or --min-gain",
        )
    fewest, most = rough_range(rows * (_MARGIN * shrink**2 - 1))
    more = f"roughly {fewest:,} to {most:,} more test rows"
    return Verdict(CANNOT_TELL, f"{adds}; to tell would take {more}: {more_rows_by(settings)}", (fewest, most))


def more_rows_by(settings: Settings, of: str = "") -> str:
    """Return how to get more test rows."""
    sampled = "raise --max-rows, " if settings.max_rows is not None else ""
    return f"{sampled}add labelled candidates{of}, or test on a longer span (--test-fraction)"


def _excess(interval: Interval) -> float:
    """Return how many times too wide an interval is to be above 0; infinite where its value is not above 0."""
    return (interval.value - interval.low) / interval.value if interval.value > 0 else math.inf
