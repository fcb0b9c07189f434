"""`--require` and `--strict`: which reports meet them, and the exit code and message of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation import ONCE, control, judged, run

from extembed_cli.errors import DataError, NoAnswerError
from extembed_cli.evaluate import ranker
from extembed_cli.evaluate.report import answer_of
from extembed_cli.evaluate.required import check_required
from extembed_cli.evaluate.schema import Report
from extembed_cli.evaluate.settings import Settings


@pytest.fixture(scope="module")
def report(features: Path) -> Report:
    """Provides a report whose verdicts and controls a test may replace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker, "_ROUNDS", 20)
        return judged(features, **ONCE)


def with_verdicts(report: Report, *, leak: bool = False, **verdicts: str) -> Report:
    """Return the report with other verdicts on some steps, their reason `because`, and perhaps a leak."""
    ladder = [
        rung.model_copy(update={"verdict": verdicts[rung.step], "reason": "because"}) if rung.step in verdicts else rung
        for rung in report.ladder
    ]
    controls = [each.model_copy(update={"passed": not leak and each.passed}) for each in report.controls]
    answer, summary = answer_of(ladder, controls, [])
    return report.model_copy(update={"ladder": ladder, "controls": controls, "answer": answer, "summary": summary})


def checked(report: Report, strict: bool, **required: str) -> None:
    settings = Settings(require={step: word.replace("_", " ") for step, word in required.items()}, strict=strict)
    check_required(report.model_copy(update={"settings": settings}))


@pytest.mark.parametrize("strict", [False, True])
def test_a_report_that_meets_all_demands_passes(report: Report, strict: bool) -> None:
    good = with_verdicts(report, counters="keep", aggregate="keep", dual="not worth it")
    assert good.answer == "keep"
    checked(good, strict)
    checked(good, strict, aggregate="keep", dual="not_worth_it")


def test_every_requirement_that_is_not_met_is_a_line(report: Report) -> None:
    bad = with_verdicts(report, aggregate="not worth it", dual="cannot tell")
    lines = (
        "--require aggregate=keep: the verdict is `not worth it`: because",
        "--require dual=keep: the verdict is `cannot tell`: because",
    )
    for strict in (False, True):
        with pytest.raises(DataError) as raised:  # another verdict counts more than a missing one
            checked(bad, strict, aggregate="keep", dual="keep")
        assert str(raised.value).splitlines()[:2] == list(lines)


def test_a_missing_answer_has_an_exit_code_of_its_own(report: Report) -> None:
    kept = with_verdicts(report, aggregate="keep", dual="cannot tell")
    checked(kept, True)
    with pytest.raises(DataError):
        checked(kept, False, dual="keep")
    with pytest.raises(NoAnswerError, match="--require dual=keep: the verdict is `cannot tell`"):
        checked(kept, True, dual="keep")
    unsure = with_verdicts(report, aggregate="cannot tell", dual="not worth it")
    assert unsure.answer == "no answer"
    checked(unsure, False)
    with pytest.raises(NoAnswerError, match="--strict: These rows do not show yet"):
        checked(unsure, True)


def test_no_verdict_counts_while_a_column_may_know_the_label(report: Report) -> None:
    leaking = with_verdicts(report, leak=True, aggregate="keep")
    subject = control(leaking, "single feature").subject
    assert leaking.answer == "no answer"
    with pytest.raises(DataError, match=rf"aggregate=keep: the verdict is `no answer`: {subject} may know the label"):
        checked(leaking, False, aggregate="keep")
    with pytest.raises(NoAnswerError):
        checked(leaking, True, aggregate="keep")


@pytest.mark.usefixtures("short_rankers")
@pytest.mark.parametrize(
    "more",
    [{"steps": ("counters",)}, {"baseline": (), "steps": ("dual",)}],
    ids=["only counters", "nothing to compare with"],
)
def test_reports_without_an_answer(features: Path, more: dict[str, Any]) -> None:
    assert judged(features, **ONCE, **more).answer == "no answer"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["aggregat=keep"], "--require aggregat=keep: no such step; known: counters, aggregate, dual, neural"),
        (["dual=kept"], "--require dual=kept: no such verdict; known: keep, not worth it, cannot tell"),
        (["dual"], "--require dual: write STEP=VERDICT, such as aggregate=keep"),
        (["dual=keep", "dual=cannot tell"], "`dual` is given twice"),
        (["neural=keep"], "--require neural=keep: the ladder has the steps counters, aggregate, dual only"),
        (["counters=keep"], "--require counters=keep: counters is the first step"),
    ],
)
def test_wrong_requirements_are_refused(features: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    run(features, tmp_path, *(part for flag in flags for part in ("--require", flag))).failed(2, message)
    assert not (tmp_path / "report").exists()
