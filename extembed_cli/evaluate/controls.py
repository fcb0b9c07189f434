"""Controls of the ladder: columns that must add nothing, and columns or steps that are too good to be true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.columns import FeatureFile
from extembed_cli.evaluate.ladder import Step
from extembed_cli.evaluate.numbers import gain_text
from extembed_cli.evaluate.schema import Control
from extembed_cli.evaluate.univariate import ColumnStatistics
from extembed_cli.spec.durations import time_text

IMPLAUSIBLE = 0.95  # an AUC that hardly any feature or ranker reaches without knowing the label
_OWN_POSITIVES = 0.5  # share of the positives in their own history from which on the log may show what it predicts
FEATURE, STEP = "single feature", "whole step"
_LEAK = (
    f"implausibly strong (above {IMPLAUSIBLE:g} or below {1 - IMPLAUSIBLE:.2g}). Does it know the label? Look for "
    "events at the row's time or later, a label that is part of the log, or a wrong time_unit or lag"
)


def permuted(steps: Sequence[Step]) -> Iterator[Control]:
    """Yield whether the added columns gain nothing with their rows permuted, for each step after the first."""
    for step in steps:
        if step.control is not None:
            low, high = step.control.low, step.control.high
            passed = not low > 0
            added = gain_text(step.control.value)
            text = f"with permuted rows, its columns add {added}, between {gain_text(low)} and {gain_text(high)}"
            if not passed:
                text += ". That is more than nothing: do not trust a gain that is smaller"
            yield Control(
                control="permuted",
                subject=step.name,
                passed=passed,
                value=step.control.value,
                ci=(low, high),
                text=text,
            )


def single_features(statistics: Sequence[ColumnStatistics]) -> Iterator[Control]:
    """Yield the columns whose AUC alone is implausible; if there are none, the strongest column, which passes."""
    scores = [
        (column.name, what, auc)
        for column in statistics
        for what, auc in (
            ("on its own it ranks", column.auc),
            ("whether it is known (or, for text, its value) ranks", column.encoded_auc),
        )
        if auc is not None
    ]
    scores.sort(key=lambda score: -abs(score[2].value - 0.5))
    for name, what, auc in [score for score in scores if _implausible(score[2])] or scores[:1]:
        text = f"{what} with an AUC of {auc.value:.4f}"
        passed = not _implausible(auc)
        if not passed:
            text += f": {_LEAK}"
        yield Control(control=FEATURE, subject=name, passed=passed, value=auc.value, ci=(auc.low, auc.high), text=text)


def whole_steps(steps: Sequence[Step]) -> Iterator[Control]:
    """Yield the first step whose ranker has an implausible AUC: it may use a leak that no column shows alone."""
    for step in steps:
        auc = step.measured.values["auc"]
        if auc >= IMPLAUSIBLE:
            yield Control(
                control=STEP,
                subject=step.name,
                passed=False,
                value=auc,
                ci=None,
                text=f"with its columns the ranker reaches an AUC of {auc:.4f}: {_LEAK}",
            )
            return


def leaks(controls: Sequence[Control]) -> list[str]:
    """Return the columns and steps that may know the label."""
    return [control.subject for control in controls if control.control in {FEATURE, STEP} and not control.passed]


def _implausible(auc: Interval) -> bool:
    """Whether an AUC is too strong, and not by the luck of a few rows."""
    strength = max(auc.value, 1 - auc.value)
    return strength >= IMPLAUSIBLE and not strength - auc.half_width < 0.9


def own_history(file: FeatureFile, positives: float) -> Iterator[Control]:
    """Yield whether so many candidates are in their own visible history that rows may see their own event.

    A log that repeats items has some. Features that see what they should predict have the positives there, which are
    this share of the rows: the control fails at half of it.
    """
    if file.run is None:
        text = "not checked: the run report of this file (OUT.run.json) is not beside it"
        yield Control(control="own history", subject="features", passed=True, value=None, ci=None, text=text)
        return
    count, rows = int(file.run.get("candidates_in_own_history") or 0), file.table.rows
    share = count / max(1, rows)
    passed = share <= positives * _OWN_POSITIVES
    text = f"{count:,} of {rows:,} candidates are in their own visible history"
    if not passed:
        text += (
            f", and {positives:.1%} of the labels are positive. Either the log repeats items (exposures, listening), "
            "or rows see their own event: check timestamps, time_unit and lag"
        )
    yield Control(control="own history", subject=file.table.label, passed=passed, value=share, ci=None, text=text)


def training_end(file: FeatureFile, left_out: int) -> Iterator[Control]:
    """Yield whether the rows that a model was trained on are known and left out."""
    for step, until in file.trained_until.items():
        text = "the file does not say until when the model was trained: test rows may be among its training rows"
        if until is not None:
            text = f"the model was trained on rows up to {time_text(until)}; {left_out:,} such rows are left out"
        yield Control(control="training end", subject=step, passed=until is not None, value=None, ci=None, text=text)
