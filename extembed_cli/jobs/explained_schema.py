"""The explanation of a row as `extembed explain --json` prints it; docs/reference/explain.schema.json."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite(value: object) -> object:
    """Return None for a number that is not finite: JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Id = int | str | None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CandidatePart(_Part):
    """The candidate."""

    row: int | None
    """Row of the candidates, from 0 on; null where it was given by `--user`, `--item` and `--at`."""
    user: Id
    """Ids are numbers or text; binary ones are in hex."""
    item: Id
    time: str | None
    """Its own time, ISO 8601 UTC."""
    as_of: str | None
    """Its as-of time: the time, floored to `as_of_step`."""
    sees_before: str | None
    """The as-of time minus `lag`: an event is visible only if it is before this."""


class HiddenPart(_Part):
    """Interactions that the candidate does not see."""

    reason: str
    """The first one that holds."""
    events: int


class EventPart(_Part):
    """A visible event."""

    event: int
    """Its number in the history: 1 is the newest."""
    time: str
    age_s: float
    """Seconds before the as-of time."""
    partner: Id
    """Its item; in the history of an item its user."""
    weight: float
    """By the key `weight` of the spec; 1 unless set."""
    decayed_weight: dict[str, Number]
    """By half-life: weight · 2^(−age / half-life), relative to the largest of the visible events."""
    vector: dict[str, bool]
    """By table: whether the partner has a vector."""
    cosine: dict[str, Number]
    """By table: the cosine with the candidate."""
    target: dict[str, Number]
    """By target: what the event says, before and after the mean of a residual is taken off."""
    contribution: dict[str, Number]
    """By column of a dual score: what the event adds to it."""


class HistoryPart(_Part):
    """A history of the candidate's user or item."""

    history: str
    side: str
    """Whose history it is: `user` or `item`."""
    own: bool
    """Whether events of the candidate's user with the candidate's item count; False only in the audience of an item."""
    owner: Id
    """The user or the item."""
    where: str | None
    window: str | None
    max_events: int | None
    rows: int
    """Rows of the interactions that are of this user or item: the visible and the hidden ones."""
    visible: int
    hidden: list[HiddenPart]
    events: list[EventPart]
    """The visible ones, the newest first."""


class ColumnPart(_Part):
    """A column of the candidate's row."""

    name: str
    value: Number
    """As `extembed run` writes it."""
    dtype: str
    step: str
    """The step of an evaluation's ladder that it belongs to."""
    side: str
    """Whose history it is of: `user`, `item` or `all`."""
    meaning: str
    """Its formula."""
    how: str | None
    """How the value comes out of the events, or why it is null; null where the technique does not say."""
    numbers: dict[str, Number]
    """The numbers that it comes out of, by name; weights are relative to the heaviest event with a vector."""
    histories: list[int]
    """Places in `histories`, from 0 on, of those that it reads."""
    events: list[int]
    """The numbers of the events that it is of: of a percentile or an extreme exactly one."""


class ExplainedRow(_Part):
    """How the row of one candidate comes out."""

    candidate: CandidatePart
    histories: list[HistoryPart]
    columns: list[ColumnPart]
    notes: list[str]
    """What else there is to know, such as a user without interactions."""
