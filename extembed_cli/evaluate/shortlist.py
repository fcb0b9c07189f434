"""The fewest columns that keep most of the gain of all columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import Step
from extembed_cli.evaluate.ranker import RankerFit, TrainRankers
from extembed_cli.evaluate.split import Split

MIN_KEPT = 0.95  # of the gain


@dataclass(frozen=True)
class ShortList:
    """Columns to add to those of the first step."""

    columns: list[str]
    kept: float
    """Share of the gain over the first step, on the test rows."""
    value: float
    """The metric of the ladder with these columns and those of the first step."""


def sizes(columns: int) -> list[int]:
    """Return the list lengths to try: 1, 2, 3, 5, 8, ... and all columns."""
    size, following = 1, 2
    smaller = []
    while size < columns:
        smaller.append(size)
        size, following = following, size + following
    return [*smaller, columns]


def short_list(
    split: Split,
    steps: Sequence[Step],
    train_rankers: TrainRankers,
    judge: Judge,
) -> ShortList | None:
    """Return the shortest list that keeps enough of the gain; None where the steps after the first gain nothing.

    The lists take the columns by their share of the last ranker's gain. The gain counts on the test rows and on the
    rows for early stopping: a list chosen on the test rows alone would be partly luck.
    """
    first, last = steps[0], steps[-1]
    judges = (judge.of(split.valid), judge)

    def values(fits: Sequence[RankerFit]) -> list[float]:
        scores = [fit.valid_scores for fit in fits], [fit.test_scores for fit in fits]
        return [part_judge.value(by_seed) for part_judge, by_seed in zip(judges, scores, strict=True)]

    lowest, highest = values(first.fits), values(last.fits)
    if not all(low < high for low, high in zip(lowest, highest, strict=True)):
        return None
    added = [name for name in last.columns if name not in first.columns]
    ordered = sorted(added, key=lambda name: -last.shares[name])
    for size in sizes(len(ordered))[:-1]:
        (fits,) = train_rankers([*first.columns, *ordered[:size]])
        reached = values(fits)
        kept = [(value - low) / (high - low) for value, low, high in zip(reached, lowest, highest, strict=True)]
        if min(kept) >= MIN_KEPT:
            return ShortList(ordered[:size], kept[1], reached[1])
    return ShortList(ordered, 1.0, highest[1])
