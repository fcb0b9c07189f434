"""`extembed dual`: technique 2 from flags, without a spec file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import (
    TIME,
    WHAT,
    InputFlags,
    OptionalCandidatePaths,
    Output,
    ResidualFlags,
    RunFlags,
    ShowFlags,
    SideFlags,
    option,
)
from extembed_cli.cli.run import execute
from extembed_cli.errors import SpecError
from extembed_cli.spec.defaults import REGULARIZATION, UNOBSERVED_WEIGHT


@dataclass(kw_only=True)
class FitFlags:
    """The keys of a [[dual]] group as flags."""

    user_vectors: Annotated[
        str | None,
        option(
            "--user-vectors",
            metavar="PATH",
            help="Also write one vector per user to this .parquet file: user vector · item vector = score. Needs one "
            "table and one history.",
        ),
    ] = None
    item_vectors: Annotated[
        str | None,
        option("--item-vectors", metavar="PATH", help="With --side item: the same with one vector per item."),
    ] = None
    all_vectors: Annotated[
        str | None,
        option("--all-vectors", metavar="PATH", help="With --side all: the same with one vector per step of time."),
    ] = None
    regularization: Annotated[
        float | None,
        option(
            "--regularization",
            metavar="X",
            help=f"Strength λ of the L2 regularization.  [default: {REGULARIZATION:g}]",
            panel=WHAT,
        ),
    ] = None
    unobserved_weight: Annotated[
        float | None,
        option(
            "--unobserved-weight",
            metavar="X",
            help=f"Weight of every item of the table as an event with target 0.  [default: {UNOBSERVED_WEIGHT:g}]",
            panel=WHAT,
        ),
    ] = None
    scaling: Annotated[
        float | None,
        option(
            "--scaling",
            metavar="NU",
            help="Multiply λ by (events + unobserved weight · items)^NU.  [default: 0]",
            panel=WHAT,
        ),
    ] = None
    target: Annotated[
        str | None,
        option(
            "--target",
            metavar="EXPR",
            help="Value that an event's item should score: a column or a row-wise SQL expression.  [default: 1]",
            panel=WHAT,
        ),
    ] = None
    loss: Annotated[
        str | None,
        option(
            "--loss",
            metavar="squared|logistic",
            help="Fit the target, or with `logistic` whether it is above 0.  [default: squared]",
            panel=WHAT,
        ),
    ] = None
    bias: Annotated[bool, option("--bias", help="Append a constant 1 to every vector.", panel=WHAT)] = False
    sd: Annotated[bool, option("--sd", help="Also write the score's posterior standard deviation.", panel=WHAT)] = False
    refit_every: Annotated[
        str | None,
        option(
            "--refit-every",
            metavar="DURATION",
            help="Fit on the events before the as-of time floored to this step, such as `1d` for a nightly batch.  "
            "[default: with --side all 1d]",
            panel=TIME,
        ),
    ] = None


@dataclass(kw_only=True)
class ModelFlags(SideFlags):
    """Whose models score a candidate, as flags."""

    side: Annotated[
        str | None,
        option(
            "--side",
            metavar="user|item|all",
            help="Whose model scores a candidate: that of its user, of its item over tables of users, or the one of "
            "all users.  [default: user]",
            panel=WHAT,
        ),
    ] = None


@expand
def dual(
    *,
    candidates: OptionalCandidatePaths = None,
    inputs: InputFlags,
    output: Output = None,
    fit: FitFlags,
    residual: ResidualFlags,
    side: ModelFlags,
    half_life: Annotated[
        list[str] | None,
        option(
            "--half-life",
            metavar="DURATION",
            help="Age at which the confidence of an event has halved, such as `90d`.  [default: none]",
            panel=WHAT,
        ),
    ] = None,
    how: RunFlags,
    show: ShowFlags,
) -> None:
    """Fit a linear model per user, per item or of all (technique 2).

    It writes the scores of the candidates, and optionally one vector per user.

    Example:  extembed dual -i events.parquet -c candidates.parquet -e text=item_text.parquet -o features.parquet
    --target 'CASE WHEN rating >= 4 THEN 1.0 ELSE -1.0 END' --regularization 2
    """
    from extembed_cli.jobs.specs import spec_from_flags

    if half_life and len(half_life) > 1:
        raise SpecError(
            f"--half-life {' --half-life '.join(half_life)}: a fit has one half-life; for more, write several "
            "[[dual]] groups in a spec"
        )
    group = {**asdict(fit), **asdict(residual), **asdict(side), "half_life": half_life[0] if half_life else None}
    data = {**inputs.data(candidates, output), "dual": [group]}
    execute(spec_from_flags(data, how.settings()), how, show)
