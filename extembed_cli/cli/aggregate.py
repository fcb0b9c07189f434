"""`extembed aggregate`: technique 1 from flags, without a spec file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import (
    WHAT,
    CandidatePaths,
    InputFlags,
    Output,
    ResidualFlags,
    RunFlags,
    ShowFlags,
    SideFlags,
    option,
)
from extembed_cli.cli.run import execute


def _percentile(text: str) -> int | str:
    """Return a percentile as a number where it is one; the spec says what is wrong with anything else."""
    return int(text) if text.isascii() and text.isdecimal() else text


@expand
def aggregate(
    *,
    candidates: CandidatePaths,
    inputs: InputFlags,
    output: Output = None,
    half_lives: Annotated[
        list[str] | None,
        option(
            "--half-life",
            metavar="DURATION",
            help="Half-life of the event weights, such as `30d`, or `none`. Repeatable.  [default: 30d]",
            panel=WHAT,
        ),
    ] = None,
    percentiles: Annotated[
        list[int] | None,
        option(
            "--percentile",
            metavar="1..99",
            help="Weighted percentile of the cosines. Repeatable.  [default: 10, 50, 90]",
            parser=_percentile,
            panel=WHAT,
        ),
    ] = None,
    thresholds: Annotated[
        list[float] | None,
        option("--threshold", metavar="-1..1", help="Share of cosines at or above this. Repeatable.", panel=WHAT),
    ] = None,
    target: Annotated[
        str | None,
        option(
            "--target",
            metavar="EXPR",
            help="What an event says, such as `rating`: a column or a row-wise SQL expression. Adds its means over "
            "similar events.",
            panel=WHAT,
        ),
    ] = None,
    residual: ResidualFlags,
    side: SideFlags,
    temperatures: Annotated[
        list[float] | None,
        option(
            "--temperature",
            metavar="TAU",
            help="Width of the kernel exp((c - 1) / TAU) of similar events. Repeatable.  [default: 0.03, 0.1, 0.3]",
            panel=WHAT,
        ),
    ] = None,
    top: Annotated[
        list[int] | None,
        option(
            "--top",
            metavar="K",
            help="Mean cosine, and mean target, of the K most similar events. Repeatable.",
            panel=WHAT,
        ),
    ] = None,
    sd: Annotated[bool, option("--sd", help="Also write the standard deviation of the cosines.", panel=WHAT)] = False,
    how: RunFlags,
    show: ShowFlags,
) -> None:
    """Compute cosine features (technique 1).

    They compare each candidate with the items of the user's decayed histories.

    Example:  extembed aggregate -i events.parquet -c candidates.parquet -e text=item_text.parquet -o features.parquet
    --history rated='rating > 0' --half-life 30d --percentile 90 --target rating --residual item
    """
    from extembed_cli.jobs.specs import spec_from_flags

    group: dict[str, Any] = {
        **{"half_lives": half_lives, "percentiles": percentiles, "thresholds": thresholds, "sd": sd},
        **{"target": target, "temperatures": temperatures, "top": top, **asdict(residual), **asdict(side)},
    }
    data = {**inputs.data(candidates, output), "aggregate": [group]}
    execute(spec_from_flags(data, how.settings()), how, show)
