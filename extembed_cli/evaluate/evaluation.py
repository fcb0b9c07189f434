"""One evaluation from a feature file to a report: the one function that the command calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import numpy as np

import extembed_cli
from extembed_cli.data.commit import locked, staged, writing
from extembed_cli.engines import local
from extembed_cli.errors import Problems, SpecError, listing
from extembed_cli.evaluate import controls
from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.distributions import distributions
from extembed_cli.evaluate.feature_file import BASELINE, COUNTERS, FeatureFile, Roles, open_features
from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import CANNOT_TELL, KEEP, Step, Verdict, climb, verdict
from extembed_cli.evaluate.lengths import Bucket, by_length, count_columns
from extembed_cli.evaluate.ranker import Ranked, fit
from extembed_cli.evaluate.report import (
    TITLES,
    Chosen,
    Control,
    Data,
    Feature,
    HistoryLength,
    Report,
    Rung,
    Settings,
    StepName,
)
from extembed_cli.evaluate.rows import RANKER_BYTES, VALUE_BYTES, Rows, read_roles, read_rows
from extembed_cli.evaluate.shortlist import ShortList, short_list, sizes
from extembed_cli.evaluate.single import Single, correlations, judge_columns
from extembed_cli.evaluate.split import NEURAL_ROWS, Cut, Plan, Split, plan_split, split_rows
from extembed_cli.spec import duration_us, time_us
from extembed_cli.watch import Watch


@dataclass(frozen=True)
class Question:
    """What to evaluate, and how."""

    features: str
    roles: Roles
    test_fraction: float = 0.2
    gap: str = "0s"
    """Rows so shortly before the test rows are left out."""
    from_time: str | None = None
    """Rows before it are left out."""
    max_rows: int | None = None
    ranker: str = "lightgbm"
    seed: int = 0
    seeds: int = 3
    resamples: int = 1000
    min_gain: float = 0.001
    """A gain that is surely smaller is not worth it."""


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


def evaluate(question: Question, threads: int, memory: int | None, watch: Watch) -> Report:
    """Measure what the features of a file bring to a ranker. Neither threads nor memory change the report."""
    if question.ranker != "lightgbm":
        raise SpecError(f"--ranker {question.ranker}: this version trains `lightgbm` only")
    seeds = range(question.seed, question.seed + question.seeds)
    cut = _cut(question)
    with watch.timing("check"):
        file = open_features(question.features, question.roles)
    with watch.timing("read"):
        watch.expect(file.table.rows)
        roled = read_roles(file)
        plan = plan_split(roled, cut, file.trained_until_us)
        rows = read_rows(file, roled, plan.kept, memory, lambda n: watch.moved(n, 0))
        values = rows.values.size
        split = split_rows(rows, plan)
        del rows
    at_once = min(threads, 2 * len(seeds))
    if memory is not None:
        at_once = max(1, min(at_once, (memory - VALUE_BYTES * values) // (RANKER_BYTES * values)))
    each = max(1, threads // at_once)
    judge = Judge(split.test, question.resamples, question.seed)

    added = sum(map(len, file.steps.values())) - len(next(iter(file.steps.values())))
    rankers = len(seeds) * (2 * len(file.steps) - 1 + (len(sizes(added)) - 1 if added else 0))
    watch.total(rankers)
    watch.expect(rankers * len(split.train))

    with warnings.catch_warnings(action="ignore"), local.threads(at_once) as mapped:  # LightGBM's, of parameters

        def train(columns: Sequence[str], permuted: Sequence[str] = ()) -> list[list[Ranked]]:
            sides = [(), permuted] if permuted else [()]
            pieces = [(seed, side) for side in sides for seed in seeds]
            fits = []
            for made in mapped(lambda piece: fit(split, columns, *piece, threads=each), pieces):
                watch.moved(len(split.train), 1)
                fits.append(made)
            return [fits[i : i + len(seeds)] for i in range(0, len(fits), len(seeds))]

        with watch.timing("ladder"):
            steps = list(climb(file.steps, train, judge))
        with watch.timing("short list"):
            short = short_list(split, steps, train, judge) if len(steps) > 1 else None
        with watch.timing("columns"):
            singles = judge_columns(split)
            buckets = by_length(split.test, file.steps.get(COUNTERS, []), judge, steps)
    found = Found(file, plan, split, steps, singles, short, buckets)
    return _report(question, found, list(seeds), judge)


def _cut(question: Question) -> Cut:
    """The split that is asked for, its flags checked."""
    problems = Problems()
    with problems.collect():
        if not 0 < question.test_fraction < 1:
            raise SpecError(f"--test-fraction {question.test_fraction:g}: has to be between 0 and 1, such as 0.2")
    gap, start = 0, None
    with problems.collect():
        try:
            gap = duration_us(question.gap)
        except ValueError as error:
            raise SpecError(f"--gap: {error}") from None
    with problems.collect():
        try:
            start = None if question.from_time is None else time_us(question.from_time)
        except ValueError:
            raise SpecError(
                f"--from {question.from_time}: is not an ISO 8601 time, such as `2026-01-31T06:00:00`"
            ) from None
    problems.raise_any()
    return Cut(question.test_fraction, gap, start, question.max_rows, question.seed)


def _report(question: Question, found: Found, seeds: list[int], judge: Judge) -> Report:
    checks = [
        *controls.permuted(found.steps),
        *controls.single_features(found.singles),
        *controls.own_history(found.file),
        *controls.training_end(found.file, found.plan.left_out.get(NEURAL_ROWS, 0)),
    ]
    ladder = [_rung(step, found, judge, question.min_gain) for step in found.steps]
    strongest = _strongest(found)
    return Report(
        version=extembed_cli.__version__,
        summary=_summary(ladder),
        data=_data(question, found),
        settings=Settings(
            ranker=question.ranker,
            test_fraction=question.test_fraction,
            gap=question.gap,
            from_time=question.from_time,
            max_rows=question.max_rows,
            seeds=seeds,
            resamples=question.resamples,
            min_gain=question.min_gain,
        ),
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


def _summary(ladder: Sequence[Rung]) -> str:
    """The answer in a sentence or two: what embeddings bring, beyond counters."""
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


def _data(question: Question, found: Found) -> Data:
    roles, plan, split = found.file.roles, found.plan, found.split
    assert roles.time is not None and roles.user is not None
    parts: dict[str, Rows] = {"train": split.train, "early_stopping": split.valid, "test": split.test}
    return Data(
        features=question.features,
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
        test_from=datetime.fromtimestamp(plan.cutoff_us / 1e6, UTC).isoformat(),
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
    if found.plan.spanning:
        told.append(
            f"{found.plan.spanning:,} requests have rows before the test and in it. Is --group the column that the "
            "rows of one request share?"
        )
    if BASELINE not in found.file.steps:
        told.append("no --baseline: what your ranker already knows may be credited to the features. Name its columns")
    return told


def report_job(question: Question, output: Path, threads: int, memory: int | None, wait: float, watch: Watch) -> Report:
    """Evaluate, and write report.json and report.html into a folder, both or none."""
    missing = [name for name in ("lightgbm", "altair", "vl_convert") if find_spec(name) is None]
    if missing:
        raise SpecError(f"`extembed evaluate` needs {listing(missing)}: pip install 'extembed[evaluate]'")
    if output.exists() and not output.is_dir():
        raise SpecError(f"{output}: is a file; the report is a folder with report.json and report.html")
    with locked(output, wait), staged() as stage:
        report = evaluate(question, threads, memory, watch)
        with watch.timing("page"), writing(output):
            from extembed_cli.evaluate.page import page  # noqa: PLC0415  altair is slow to import

            text = page(report)
            stage.folder(output)
            stage.json(output / "report.json", report.model_dump(mode="json"))
            stage.temporary(output / "report.html").write_text(text, encoding="utf-8")
            stage.commit()
    return report
