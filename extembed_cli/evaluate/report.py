"""The report from the results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

import extembed_cli
from extembed_cli.errors import counted, listing
from extembed_cli.evaluate import controls
from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.columns import BASELINE, COUNTERS, FeatureFile, count_columns
from extembed_cli.evaluate.distributions import distributions
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import Step, verdict
from extembed_cli.evaluate.numbers import gain_text
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.schema import (
    TITLES,
    Control,
    Data,
    Feature,
    Report,
    Rung,
    Segment,
    SelectedColumns,
)
from extembed_cli.evaluate.segments import Bucket
from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.shortlist import ShortList
from extembed_cli.evaluate.split import TRAINED_ROWS, Assignment, Split
from extembed_cli.evaluate.univariate import ColumnStatistics, correlations
from extembed_cli.evaluate.verdicts import CANNOT_TELL, KEEP, NO_ANSWER, NOT_WORTH_IT, AnswerWord, Verdict
from extembed_cli.spec.durations import DAY_US, time_text


@dataclass(frozen=True)
class EvaluationResults:
    """The results of all parts of an evaluation."""

    file: FeatureFile
    assignment: Assignment
    split: Split
    steps: list[Step]
    statistics: list[ColumnStatistics]
    short_list: ShortList | None
    lengths: list[Bucket]
    """By length of the user's history"""
    items: list[Bucket]
    """By how often the item was seen"""


def build_report(settings: Settings, results: EvaluationResults, judge: Judge) -> Report:
    """Return the report of an evaluation."""
    split = results.split
    positives = float(np.concatenate([part.relevant for part in (split.train, split.valid, split.test)]).mean())
    all_controls = [
        *controls.permuted(results.steps),
        *controls.single_features(results.statistics),
        *controls.whole_steps(results.steps),
        *controls.own_history(results.file, positives),
        *controls.training_end(results.file, results.assignment.left_out.get(TRAINED_ROWS, 0)),
    ]
    ladder = [_rung(step, results, judge, settings) for step in results.steps]
    strongest = _strongest(results)
    short = results.short_list
    answer, summary = answer_of(ladder, all_controls, results.items)
    return Report(
        version=extembed_cli.__version__,
        answer=answer,
        summary=summary,
        data=_data(results),
        settings=settings,
        ladder=ladder,
        features=_features(results, strongest),
        strongest_feature=strongest,
        controls=all_controls,
        history_length_of=count_columns(results.file.user_counters),
        by_history_length=list(map(_segment, results.lengths)),
        item_count_of=[] if (seen := results.file.seen_column) is None else [seen],
        by_item_count=list(map(_segment, results.items)),
        short_list=SelectedColumns(columns=short.columns, value=short.value, kept=short.kept) if short else None,
        distributions=distributions(results.split.test, results.statistics, results.file),
        warnings=_warnings(all_controls, results),
        spec=results.file.spec,
    )


def _segment(bucket: Bucket) -> Segment:
    return Segment(
        events=bucket.events,
        rows=bucket.rows,
        users=bucket.users,
        values={step: each.value if each else None for step, each in bucket.values.items()},
        values_ci={step: _bounds(each) for step, each in bucket.values.items()},
        gains={step: gain.value if gain else None for step, gain in bucket.gains.items()},
        gains_ci={step: _bounds(gain) for step, gain in bucket.gains.items()},
    )


def _bounds(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _rung(step: Step, results: EvaluationResults, judge: Judge, settings: Settings) -> Rung:
    decision = None
    if step.gain is not None and step.over_control is not None:
        test = results.split.test
        decision = verdict(step.gain, step.over_control, len(test), judge.users.number, settings)
        if not step.learned:
            learned_from = counted(len(results.split.train), "training row")
            decision = Verdict(CANNOT_TELL, f"the ranker learns nothing from {learned_from}: add labelled candidates")
    seconds = None if results.file.run is None else results.file.run.get("seconds_by_technique", {}).get(step.name)
    return Rung(
        step=step.name,
        columns=len(results.file.steps[step.name]),
        metric=cast(Literal["auc", "ndcg@10"], judge.metric),
        value=step.measured.value,
        value_ci=_bounds(step.measured.interval),
        delta=step.gain.value if step.gain else None,
        delta_ci=_bounds(step.gain),
        over_permuted_ci=_bounds(step.over_control),
        metrics=step.measured.values,
        seconds=seconds,
        verdict=decision.word if decision else None,
        reason=decision.reason if decision else None,
        more_rows=decision.more_rows if decision else None,
    )


def answer_of(
    ladder: Sequence[Rung], all_controls: Sequence[Control], items: Sequence[Bucket]
) -> tuple[AnswerWord, str]:
    """Return whether to keep the embeddings, in a word and in one or two sentences, or why there is no answer."""
    leaked = controls.leaks(all_controls)
    if leaked:
        return NO_ANSWER, f"No answer yet: {listing(leaked)} may know the label. If so, the numbers mean nothing."
    steps = [rung for rung in ladder if rung.step not in {BASELINE, COUNTERS}]
    if not steps:
        return NO_ANSWER, "The file has only counters, so there are no features of the embeddings to evaluate."
    if all(rung.verdict is None for rung in steps):
        return NO_ANSWER, "There is nothing to compare with. Name your own columns with --baseline."
    kept = [rung for rung in steps if rung.verdict == KEEP]
    if kept:
        gains = ((rung, rung.delta) for rung in kept if rung.delta is not None)
        names = ", ".join(f"{rung.step} ({TITLES[rung.metric]} {gain_text(gain)})" for rung, gain in gains)
        rest = "".join(f" {rung.step}: {rung.verdict}." for rung in steps if rung.verdict not in {KEEP, None})
        return KEEP, f"The embeddings help this ranker: keep {names}.{rest}{where_items(kept, items)}"
    if any(rung.verdict == CANNOT_TELL for rung in steps):
        return NO_ANSWER, "These rows do not show yet whether the embeddings help this ranker."
    return NOT_WORTH_IT, "The embeddings are not worth it for this ranker."


def where_items(kept: Sequence[Rung], items: Sequence[Bucket]) -> str:
    """Return a sentence where the gain of a kept step is not the same for new and for well-known items."""
    differences = []
    for rung in kept:
        gains = [(bucket.events, gain) for bucket in items if (gain := bucket.gains.get(rung.step)) is not None]
        if gains:
            most, least = max(gains, key=lambda each: each[1].value), min(gains, key=lambda each: each[1].value)
            if most[1].low > least[1].high:
                differences.append((most[1].value - least[1].value, rung.step, most, least))
    if not differences:
        return ""
    _, step, most, least = max(differences)
    return (
        f" The gain of {step} comes from items with {most[0]} earlier events ({gain_text(most[1].value)}; with "
        f"{least[0]} {gain_text(least[1].value)})."
    )


def _data(results: EvaluationResults) -> Data:
    roles, assignment, split = results.file.roles, results.assignment, results.split
    assert roles.time is not None and roles.user is not None
    parts: dict[str, Rows] = {"train": split.train, "early_stopping": split.valid, "test": split.test}
    return Data(
        features=results.file.path,
        label=roles.label,
        time=roles.time,
        user=roles.user,
        group=roles.group,
        baseline=results.file.steps.get(BASELINE, []),
        rows=len(assignment.kept),
        train_rows=len(split.train),
        early_stopping_rows=len(split.valid),
        test_rows=len(split.test),
        test_users=len(np.unique(split.test.users)),
        test_from=time_text(assignment.cutoff_us),
        positive_share={name: float(part.relevant.mean()) for name, part in parts.items()},
        left_out=assignment.left_out,
    )


def _strongest(results: EvaluationResults) -> str | None:
    """Return the feature, not of the baseline, with the best AUC alone."""
    baseline = set(results.file.steps.get(BASELINE, []))
    features = [column for column in results.statistics if column.auc is not None and column.name not in baseline]
    best = max(features, key=lambda column: abs(column.auc.value - 0.5) if column.auc else 0.0, default=None)
    return best.name if best else None


def _features(results: EvaluationResults, strongest: str | None) -> list[Feature]:
    shares = results.steps[-1].shares
    correlation_of = correlations(results.split.test, strongest) if strongest else {}
    step_of = {name: step for step, names in results.file.steps.items() for name in names}
    in_short_list = set(results.short_list.columns) if results.short_list else set()
    features = [
        Feature(
            name=column.name,
            step=step_of[column.name],
            meaning=results.file.meanings.get(column.name),
            coverage=column.coverage,
            auc=column.auc.value if column.auc else None,
            auc_ci=_bounds(column.auc),
            gain_share=shares[column.name],
            drift=column.drift,
            correlation=correlation_of.get(column.name),
            in_short_list=column.name in in_short_list,
        )
        for column in results.statistics
    ]
    return sorted(features, key=lambda feature: -feature.gain_share)


def _warnings(all_controls: Sequence[Control], results: EvaluationResults) -> list[str]:
    messages = [f"{control.subject}: {control.text}" for control in all_controls if not control.passed]
    rows = results.assignment.left_out.get(TRAINED_ROWS, 0)
    if rows:
        messages.append(f"{rows:,} rows are left out: a model may have been trained on them")
    time, unit = results.file.roles.time, results.file.roles.time_unit
    if unit and results.assignment.cutoff_us < 365 * DAY_US:
        messages.append(f"--time {time}: most rows have times in 1970. Is --time-unit {unit} right?")
    spanning = results.assignment.spanning
    if spanning:
        messages.append(
            f"{spanning:,} requests have rows both before and among the test rows. Is --group the column that the "
            "rows of one request share?"
        )
    if results.file.unusable:
        columns = listing(f"`{name}` ({column_type})" for name, column_type in results.file.unusable.items())
        messages.append(f"--baseline matches {columns}, which a ranker cannot learn from; left out")
    if BASELINE not in results.file.steps:
        messages.append(
            "no --baseline: the features may get the credit for what your ranker already knows. Name its columns"
        )
    if COUNTERS in results.file.left_out:
        messages.append("--steps leaves out the counters: the features may get the credit for what counters explain")
    return messages
