"""How a value comes out of the events that a candidate sees, as a technique says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from extembed_cli.arrays import Doubles

SeriesKind = Literal["weight", "vector", "cosine", "target"]
"""The decayed weight relative to that of the heaviest event; whether the partner has a vector (1 or 0); its cosine with
the candidate; what the event says"""


HEAVIEST = "largest weight at the as-of time"
"""Other weights are relative to it, so that those of very old events are still numbers"""


class Series(NamedTuple):
    """The name of a number that each visible event of a history has."""

    history: str
    kind: SeriesKind
    name: str
    """The half-life, table or target"""


@dataclass(frozen=True)
class Explanation:
    """How one value comes out."""

    how: str | None
    """A phrase that follows the value; None = nothing beyond the meaning of its column"""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The numbers that it comes out of, by name"""
    events: Sequence[int] = ()
    """The numbers of the events that it is of: 1 = the newest that is visible"""
    histories: Sequence[str] = ()
    """Those that it reads"""
    series: Mapping[Series, Doubles] = field(default_factory=dict)
    """Of each visible event of its history, the oldest first; NaN = none"""
    contributions: Doubles | None = None
    """Of each visible event too: what it adds to the value"""
