"""What an evaluation found, told as a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

import extembed_cli
from extembed_cli.errors import listing
from extembed_cli.evaluate import controls
from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.columns import BASELINE, COUNTERS, FeatureFile
from extembed_cli.evaluate.distributions import distributions
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import CANNOT_TELL, KEEP, Step, Verdict, verdict
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.schema import TITLES, Chosen, Control, Data, Feature, HistoryLength, Report, Rung, StepName
from extembed_cli.evaluate.segments import Bucket, count_columns
from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.shortlist import ShortList
from extembed_cli.evaluate.single import Single, correlations
from extembed_cli.evaluate.split import NEURAL_ROWS, Plan, Split
from extembed_cli.spec.durations import DAY_US, time_text


@dataclass(frozen=True)
class Found:
    """What the parts of an evaluation found, before it is told."""

    file: FeatureFile
    plan: Plan
    split: Split
    steps: list[Step]
    singles: list[Single]
    short: ShortList | None
    buckets: list[Bucket]


def report_of(settings: Settings, found: Found, judge: Judge) -> Report:
    """The report of what was found."""
    checks = [
        *controls.permuted(found.steps),
        *controls.single_features(found.singles),
        *controls.whole_steps(found.steps),
        *controls.own_history(found.file),
        *controls.training_end(found.file, found.plan.left_out.get(NEURAL_ROWS, 0)),
    ]
    ladder = [_rung(step, found, judge, settings.min_gain) for step in found.steps]
    strongest = _strongest(found)
    return Report(
        version=extembed_cli.__version__,
        summary=_summary(ladder, checks),
        data=_data(found),
        settings=settings,
        ladder=ladder,
        features=_features(found, strongest),
        strongest_feature=strongest,
        controls=checks,
        history_length_of=count_columns(found.file.steps.get(COUNTERS, [])),
        by_history_length=[
            HistoryLength(
                events=bucket.events,
                rows=bucket.rows,
                users=bucket.users,
                gains={step: gain.value if gain else None for step, gain in bucket.gains.items()},
                gains_ci={step: _bounds(gain) for step, gain in bucket.gains.items()},
            )
            for bucket in found.buckets
        ],
        short_list=Chosen(columns=found.short.columns, value=found.short.value, kept=found.short.kept)
        if found.short
        else None,
        distributions=distributions(found.split.test, found.singles, found.file),
        warnings=_warnings(checks, found),
        spec=found.file.spec,
    )


def _bounds(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _rung(step: Step, found: Found, judge: Judge, least: float) -> Rung:
    told = None
    if step.gain is not None and step.over_control is not None:
        test = found.split.test
        told = verdict(step.gain, step.over_control, len(test), judge.users.number, least)
        if not step.learned:
            told = Verdict(CANNOT_TELL, f"the ranker learns nothing from {len(found.split.train):,} training rows")
    seconds = None if found.file.run is None else found.file.run.get("seconds_by_technique", {}).get(step.name)
    return Rung(
        step=cast(StepName, step.name),
        columns=len(found.file.steps[step.name]),
        metric=cast(Literal["auc", "ndcg@10"], judge.metric),
        value=step.measured.value,
        value_ci=_bounds(step.measured.interval),
        delta=step.gain.value if step.gain else None,
        delta_ci=_bounds(step.gain),
        over_permuted_ci=_bounds(step.over_control),
        metrics=step.measured.values,
        seconds=seconds,
        verdict=cast(Literal["keep", "not worth it", "cannot tell"], told.word) if told else None,
        reason=told.reason if told else None,
        more_rows=told.more_rows if told else None,
    )


def _summary(ladder: Sequence[Rung], checks: Sequence[Control]) -> str:
    """The answer in a sentence or two: what embeddings bring, beyond counters, unless the numbers cannot be meant."""
    leaks = [
        check.subject for check in checks if check.control in {controls.FEATURE, controls.STEP} and not check.passed
    ]
    if leaks:
        return f"No answer yet: {listing(leaks)} may know the label, and then none of these numbers means anything."
    steps = [rung for rung in ladder if rung.step not in {BASELINE, COUNTERS}]
    if not steps:
        return "The file has counters only: there is nothing of the embeddings to judge."
    if all(rung.verdict is None for rung in steps):
        return "There is nothing to compare with: name your own columns with --baseline."
    kept = [rung for rung in steps if rung.verdict == KEEP]
    if kept:
        names = ", ".join(f"{rung.step} ({TITLES[rung.metric]} {rung.delta:+.4f})" for rung in kept)
        others = "".join(f" {rung.step}: {rung.verdict}." for rung in steps if rung.verdict not in {KEEP, None})
        return f"The embeddings help this ranker: keep {names}.{others}"
    if any(rung.verdict == CANNOT_TELL for rung in steps):
        return "These rows cannot tell yet whether the embeddings help this ranker."
    return "The embeddings are not worth it for this ranker."


def _data(found: Found) -> Data:
    roles, plan, split = found.file.roles, found.plan, found.split
    assert roles.time is not None and roles.user is not None
    parts: dict[str, Rows] = {"train": split.train, "early_stopping": split.valid, "test": split.test}
    return Data(
        features=found.file.path,
        label=roles.label,
        time=roles.time,
        user=roles.user,
        group=roles.group,
        baseline=found.file.steps.get(BASELINE, []),
        rows=len(plan.kept),
        train_rows=len(split.train),
        early_stopping_rows=len(split.valid),
        test_rows=len(split.test),
        test_users=len(np.unique(split.test.users)),
        test_from=time_text(plan.cutoff_us),
        positive_share={name: float(part.relevant.mean()) for name, part in parts.items()},
        left_out=plan.left_out,
    )


def _strongest(found: Found) -> str | None:
    """The feature, not of the baseline, that ranks best by itself."""
    own = set(found.file.steps.get(BASELINE, []))
    judged = [one for one in found.singles if one.auc is not None and one.name not in own]
    best = max(judged, key=lambda one: abs(one.auc.value - 0.5) if one.auc else 0.0, default=None)
    return best.name if best else None


def _features(found: Found, strongest: str | None) -> list[Feature]:
    shares = found.steps[-1].shares
    related = correlations(found.split.test, strongest) if strongest else {}
    step_of = {name: step for step, names in found.file.steps.items() for name in names}
    short = set(found.short.columns) if found.short else set()
    features = [
        Feature(
            name=one.name,
            step=cast(StepName, step_of[one.name]),
            meaning=found.file.meanings.get(one.name),
            coverage=one.coverage,
            auc=one.auc.value if one.auc else None,
            auc_ci=_bounds(one.auc),
            gain_share=shares[one.name],
            drift=one.drift,
            correlation=related.get(one.name),
            in_short_list=one.name in short,
        )
        for one in found.singles
    ]
    return sorted(features, key=lambda feature: -feature.gain_share)


def _warnings(checks: Sequence[Control], found: Found) -> list[str]:
    told = [f"{check.subject}: {check.text}" for check in checks if not check.passed]
    rows = found.plan.left_out.get(NEURAL_ROWS, 0)
    if rows:
        told.append(f"{rows:,} rows are left out: the neural model may have been trained on them")
    if found.file.roles.time_unit and found.plan.cutoff_us < 365 * DAY_US:
        told.append(
            f"--time {found.file.roles.time}: most rows are of 1970. Is --time-unit {found.file.roles.time_unit} right?"
        )
    if found.plan.spanning:
        told.append(
            f"{found.plan.spanning:,} requests have rows before the test and in it. Is --group the column that the "
            "rows of one request share?"
        )
    if found.file.not_learned:
        columns = listing(f"`{name}` ({kind})" for name, kind in found.file.not_learned.items())
        told.append(f"--baseline matches {columns}, from which no ranker learns: left out")
    if BASELINE not in found.file.steps:
        told.append("no --baseline: what your ranker already knows may be credited to the features. Name its columns")
    return told
