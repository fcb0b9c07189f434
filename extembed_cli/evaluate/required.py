"""What `--require` and `--strict` demand of a report."""

from __future__ import annotations

from extembed_cli.errors import DataError, NoAnswerError, Problems, listing
from extembed_cli.evaluate.controls import leaks
from extembed_cli.evaluate.schema import Report
from extembed_cli.evaluate.verdicts import CANNOT_TELL, NO_ANSWER


def check_required(report: Report) -> None:
    """Raise if a required step has another verdict or, with --strict, if there is no answer.

    While a column may know the label, no verdict counts.
    """
    settings, rungs = report.settings, {rung.step: rung for rung in report.ladder}
    leaked = leaks(report.controls)
    problems = Problems()
    for step, required in settings.require.items():
        rung = rungs[step]
        verdict: str | None = NO_ANSWER if leaked else rung.verdict
        reason = f"{listing(leaked)} may know the label" if leaked else rung.reason
        with problems.collect():
            if verdict != required:
                kind = NoAnswerError if settings.strict and verdict in {CANNOT_TELL, NO_ANSWER} else DataError
                raise kind(f"--require {step}={required}: the verdict is `{verdict}`: {reason}")
    with problems.collect():
        if settings.strict and report.answer == NO_ANSWER:
            raise NoAnswerError(f"--strict: {report.summary}")
    problems.raise_any()
