"""The fewest columns that keep most of what all of them gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from extembed_cli.evaluate.judge import Judge
from extembed_cli.evaluate.ladder import Step
from extembed_cli.evaluate.ranker import Ranked, Train
from extembed_cli.evaluate.split import Split

SHARE = 0.95  # of the gain that is kept


@dataclass(frozen=True)
class ShortList:
    """Columns to add to those of the first step."""

    columns: list[str]
    kept: float
    """Share of the gain over the first step, on the test rows."""
    value: float
    """The ladder's metric with them."""


def sizes(columns: int) -> list[int]:
    """Lengths to try: 1, 2, 3, 5, 8, ... and all."""
    tried, following = 1, 2
    found = []
    while tried < columns:
        found.append(tried)
        tried, following = following, tried + following
    return [*found, columns]


def short_list(
    split: Split,
    steps: Sequence[Step],
    train: Train,
    judge: Judge,
) -> ShortList | None:
    """The first of ever longer lists, by share of what the last ranker gained, that keeps enough of the gain.

    It has to keep it on the rows for early stopping, too: chosen on the test rows alone, it would be luck in part.
    None where the steps after the first do not gain on both.
    """
    first, last = steps[0], steps[-1]
    judges = (judge.of(split.valid), judge)

    def values(fits: Sequence[Ranked]) -> list[float]:
        scores = [fit.valid for fit in fits], [fit.scores for fit in fits]
        return [each.value(rankings) for each, rankings in zip(judges, scores, strict=True)]

    lowest, highest = values(first.fits), values(last.fits)
    if not all(low < high for low, high in zip(lowest, highest, strict=True)):
        return None
    added = [name for name in last.columns if name not in first.columns]
    ranked = sorted(added, key=lambda name: -last.shares[name])
    for size in sizes(len(ranked))[:-1]:
        (fits,) = train([*first.columns, *ranked[:size]])
        reached = values(fits)
        kept = [(value - low) / (high - low) for value, low, high in zip(reached, lowest, highest, strict=True)]
        if min(kept) >= SHARE:
            return ShortList(ranked[:size], kept[1], reached[1])
    return ShortList(ranked, 1.0, highest[1])
