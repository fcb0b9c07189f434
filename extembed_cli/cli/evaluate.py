"""`extembed evaluate`: are these embeddings worth it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import ResourceFlags, ShowFlags, TimeUnit, named, option
from extembed_cli.spec.paths import expanded

if TYPE_CHECKING:
    from extembed_cli.evaluate.columns import Roles
    from extembed_cli.evaluate.schema import Report, Rung
    from extembed_cli.evaluate.settings import Settings

_COLUMNS = "Columns"
_HOW = "How to evaluate"


@dataclass(kw_only=True)
class RoleFlags:
    """The columns that are not features, as flags."""

    label: Annotated[str, option("--label", metavar="COL", help="Column to predict: 0 or 1, or grades with --group.")]
    time: Annotated[
        str | None,
        option(
            "--time", metavar="COL", help="Column with the time of a row.  [default: as in the spec]", panel=_COLUMNS
        ),
    ] = None
    user: Annotated[
        str | None,
        option(
            "--user", metavar="COL", help="Column with the user of a row.  [default: as in the spec]", panel=_COLUMNS
        ),
    ] = None
    group: Annotated[
        str | None,
        option(
            "--group",
            metavar="COL",
            help="Column that the rows of one request share: rank inside requests (lambdarank, nDCG@10).",
            panel=_COLUMNS,
        ),
    ] = None
    time_unit: TimeUnit = None
    baseline: Annotated[
        list[str] | None,
        option(
            "--baseline",
            metavar="GLOB",
            help="Columns that your ranker already has, such as 'item_*'. Repeatable.",
            panel=_COLUMNS,
        ),
    ] = None

    def roles(self) -> Roles:
        """Return the roles of an evaluation."""
        from extembed_cli.evaluate.columns import Roles

        return Roles(self.label, self.time, self.user, self.group, tuple(self.baseline or ()), self.time_unit)


@dataclass(kw_only=True)
class SettingFlags:
    """The settings of an evaluation as flags."""

    test_fraction: Annotated[
        float,
        option(
            "--test-fraction",
            metavar="SHARE",
            help="Share of all rows, the newest, to test on.  [default: 0.2]",
            show_default=False,
            panel=_HOW,
        ),
    ] = 0.2
    gap: Annotated[
        str,
        option(
            "--gap",
            metavar="DURATION",
            help="Leave out rows within this duration before the test rows, such as `1d`.  [default: none]",
            show_default=False,
            panel=_HOW,
        ),
    ] = "0s"
    from_time: Annotated[
        str | None, option("--from", metavar="TIME", help="Leave out rows before this time.", panel=_HOW)
    ] = None
    max_rows: Annotated[
        int | None,
        option(
            "--max-rows", min=1, metavar="N", help="Evaluate a sample of the users, with at most N rows.", panel=_HOW
        ),
    ] = None
    steps: Annotated[
        str | None,
        option(
            "--steps",
            metavar="STEP,STEP",
            help="Steps after the baseline, in this order, such as `counters,dual`.  [default: all, cheapest first]",
            panel=_HOW,
        ),
    ] = None
    ranker: Annotated[str, option("--ranker", metavar="lightgbm", help="Ranker to train.", panel=_HOW)] = "lightgbm"
    seed: Annotated[int, option("--seed", min=0, metavar="N", help="The first seed.", panel=_HOW)] = 0
    seeds: Annotated[
        int,
        option(
            "--seeds",
            min=1,
            metavar="N",
            help="Number of rankers to train per step, each with its own seed.",
            panel=_HOW,
        ),
    ] = 3
    resamples: Annotated[
        int,
        option(
            "--resamples", min=100, metavar="N", help="Bootstrap resamples of the users, for the intervals.", panel=_HOW
        ),
    ] = 1000
    min_gain: Annotated[
        float, option("--min-gain", min=0, max=1, metavar="X", help="Smallest gain that is worth it.", panel=_HOW)
    ] = 0.001
    require: Annotated[
        list[str] | None,
        option(
            "--require",
            metavar="STEP=VERDICT",
            help="Exit with 1 if the step has another verdict, such as `aggregate=keep`. Repeatable.",
            panel=_HOW,
        ),
    ] = None
    strict: Annotated[
        bool,
        option(
            "--strict",
            help="Exit with 6 if there is no answer, or a required step's verdict is `cannot tell`.",
            panel=_HOW,
        ),
    ] = False

    def settings(self) -> Settings:
        """Return the settings of an evaluation."""
        from extembed_cli.evaluate.settings import Settings

        return Settings(
            test_fraction=self.test_fraction,
            gap=self.gap,
            from_time=self.from_time,
            max_rows=self.max_rows,
            steps=None if self.steps is None else tuple(step.strip() for step in self.steps.split(",")),
            ranker=self.ranker,
            seeds=tuple(range(self.seed, self.seed + self.seeds)),
            resamples=self.resamples,
            min_gain=self.min_gain,
            require=named("--require", self.require or (), "STEP=VERDICT, such as aggregate=keep"),
            strict=self.strict,
        )


@expand
def evaluate(
    *,
    features: Annotated[
        str, typer.Argument(metavar="FEATURES.parquet", help="The output of `extembed run`.", parser=expanded)
    ],
    roles: RoleFlags,
    output: Annotated[
        Path, option("--output", "-o", metavar="DIR", help="Folder to write report.json and report.html to.")
    ],
    settings: SettingFlags,
    resources: ResourceFlags,
    show: ShowFlags,
) -> None:
    """Measure what the embeddings add to a ranker.

    Trains rankers on more and more columns, technique by technique, and writes a report on their gains.

    Example:  extembed evaluate features.parquet --label clicked --baseline 'item_*' --baseline popularity -o report
    """
    from extembed_cli.evaluate.evaluate import report_job
    from extembed_cli.evaluate.required import check_required

    with console.watching(show.quiet, show.verbose) as watch:
        report = report_job(features, roles.roles(), settings.settings(), output, resources.run_options(), watch)
    if not (show.json or show.quiet):
        _show(report)
    if show.verbose and not show.quiet:
        console.costs(watch)
    for message in report.warnings if show.quiet < 2 else ():
        console.say(f"warning: {message}")
    if not show.quiet:
        console.say(f"{report.summary} See {output / 'report.html'}")
    check_required(report)
    if show.json:
        console.result_json(report.model_dump(mode="json"))


def _show(report: Report) -> None:
    """Show the ladder as a table, and what is missing for the steps that have no verdict."""
    from extembed_cli.evaluate.schema import TITLES
    from extembed_cli.evaluate.verdicts import CANNOT_TELL

    metric = TITLES[report.ladder[0].metric]
    head = ["step", f"{metric} ", "gain ", "95 % interval ", "permuted ", "seconds ", "verdict"]
    permuted = report.permuted()
    rows = [
        [
            rung.step,
            _number(rung.value),
            _number(rung.delta, "+.4f"),
            _interval(rung),
            _number(permuted[rung.step].value if rung.step in permuted else None, "+.4f"),
            _number(rung.seconds, ",.1f"),
            rung.verdict or "",
        ]
        for rung in report.ladder
    ]
    reasons = [f"{rung.step}: {rung.reason}" for rung in report.ladder if rung.verdict == CANNOT_TELL]
    console.result(*console.aligned(head, rows), *reasons)


def _number(value: float | None, form: str = ".4f") -> str:
    from extembed_cli.evaluate.numbers import number_text

    return "" if value is None else number_text(value, form)


def _interval(rung: Rung) -> str:
    if rung.delta_ci is None or None in rung.delta_ci:
        return ""
    return " to ".join(_number(bound, "+.4f") for bound in rung.delta_ci)
