"""Controls that keep the ladder honest: what must add nothing, and what is too good to be true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.columns import NEURAL, FeatureFile
from extembed_cli.evaluate.ladder import Step
from extembed_cli.evaluate.schema import Control
from extembed_cli.evaluate.single import Single
from extembed_cli.spec.durations import time_text

IMPLAUSIBLE = 0.95  # AUC that hardly any honest feature or ranker of what people like has
FEATURE, STEP = "single feature", "whole step"
_LEAK = (
    f"implausibly strong (above {IMPLAUSIBLE:g} or below {1 - IMPLAUSIBLE:.2g}). Does it know the label? Look for "
    "events at the row's time or later, a label that is part of the log, a wrong time_unit or lag"
)


def permuted(steps: Sequence[Step]) -> Iterator[Control]:
    """The added columns with their rows in another order: nothing is left in them that could gain anything."""
    for step in steps:
        if step.control is not None:
            low, high = step.control.low, step.control.high
            passed = not low > 0
            text = f"its columns permuted add {step.control.value:+.4f}, between {low:+.4f} and {high:+.4f}"
            if not passed:
                text += ": more than nothing, so do not trust smaller gains than this"
            yield Control(
                control="permuted",
                subject=step.name,
                passed=passed,
                value=step.control.value,
                ci=(low, high),
                text=text,
            )


def single_features(singles: Sequence[Single]) -> Iterator[Control]:
    """Columns that nearly tell the label by themselves; the strongest otherwise, to show what was found."""
    judged = [
        (name, what, auc)
        for single in singles
        for name, what, auc in (
            (single.name, "by itself it ranks", single.auc),
            (single.name, "whether it is known (or, for text, its value) ranks", single.knowing),
        )
        if auc is not None
    ]
    judged.sort(key=lambda each: -abs(each[2].value - 0.5))
    for name, what, auc in [each for each in judged if _implausible(each[2])] or judged[:1]:
        text = f"{what} with an AUC of {auc.value:.4f}"
        passed = not _implausible(auc)
        if not passed:
            text += f": {_LEAK}"
        yield Control(control=FEATURE, subject=name, passed=passed, value=auc.value, ci=(auc.low, auc.high), text=text)


def whole_steps(steps: Sequence[Step]) -> Iterator[Control]:
    """The first step whose ranker nearly tells the label: it sees what no single order of a column shows."""
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


def _implausible(auc: Interval) -> bool:
    """Too strong, and not by the luck of a few rows."""
    strength = max(auc.value, 1 - auc.value)
    return strength >= IMPLAUSIBLE and not strength - auc.half_width < 0.9


def own_history(file: FeatureFile) -> Iterator[Control]:
    """Candidates that the run report counts in their own visible history."""
    if file.run is None:
        text = "not checked: the run report of this file is not beside it"
        yield Control(control="own history", subject="features", passed=True, value=None, ci=None, text=text)
        return
    count, rows = int(file.run.get("candidates_in_own_history") or 0), file.table.rows
    text = f"{count:,} of {rows:,} candidates stand in the history that they see"
    if count:
        text += (
            ": if the log repeats items (exposures, listening) that is so; if candidates are the log's own events, "
            "they see their own label"
        )
    yield Control(
        control="own history",
        subject=file.table.label,
        passed=count == 0,
        value=count / max(1, rows),
        ci=None,
        text=text,
    )


def training_end(file: FeatureFile, left_out: int) -> Iterator[Control]:
    """Rows that a neural model may have been trained on."""
    if NEURAL in file.steps and file.trained_until_us is None:
        text = "the file does not say until when the model was trained: rows that it has seen may be judged by it"
        yield Control(control="neural training end", subject=NEURAL, passed=False, value=None, ci=None, text=text)
    if file.trained_until_us is None:
        return
    yield Control(
        control="neural training end",
        subject=NEURAL,
        passed=True,
        value=None,
        ci=None,
        text=f"the neural model was trained on rows up to {time_text(file.trained_until_us)}; {left_out:,} such rows "
        "are left out",
    )
