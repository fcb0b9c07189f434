"""Columns within a request: a feature relative to those of the other candidates of its request (`[within]`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from extembed_cli.arrays import Doubles, Floats, Ints
from extembed_cli.data.columns.labels import NO_TIME
from extembed_cli.errors import DataError, SpecError, counted
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.kernels.requests import within_requests
from extembed_cli.spec.model import Spec

Kind = Literal["rank", "difference", "ratio"]
MEANINGS: dict[Kind, str] = {
    "rank": "rank of {name} among the candidates of the same {by}: 1 = highest, equal ones have their mean rank",
    "difference": "{name} − its median among the candidates of the same {by}",
    "ratio": "({name} − its median) / its standard deviation among the candidates of the same {by}",
}


_HOW: dict[Kind, str] = {
    "rank": "rank among the {rows} of the same {by} where {name} is not null",
    "difference": "{name} − median of the {rows} of the same {by} where it is not null",
    "ratio": "({name} − median) / standard deviation of the {rows} of the same {by} where it is not null",
}


@dataclass(frozen=True)
class WithinStatistic:
    """The content of a column within a request."""

    kind: Kind
    column: str
    """The column that it is of"""


def within_columns(spec: Spec, columns: Sequence[Column]) -> list[Column]:
    """Return the columns within a request of the features that `[within]` names, each after the other.

    A column belongs to the step of the column that it is of. Raises where a pattern matches none.
    """
    within = spec.within
    if within is None or not columns:
        return []
    names = [column.name for column in columns]
    for place, pattern in enumerate(within.columns):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SpecError(f"within.columns.{place}: `{pattern}` matches no feature; `extembed columns` lists them")
    chosen = [c for c in columns if any(fnmatchcase(c.name, pattern) for pattern in within.columns)]
    return [
        replace(
            column,
            name=f"{column.name}__within_{kind}",
            dtype="Float32",
            meaning=meaning.format(name=column.name, by=within.by),
            statistic=WithinStatistic(kind, column.name),
        )
        for column in chosen
        for kind, meaning in MEANINGS.items()
    ]


def within_values(values: Floats, requests: Ints, kinds: Sequence[tuple[str, str]]) -> dict[str, Floats]:
    """Return the columns within a request of a feature (n), NaN for null, by name; `kinds` has kinds and names."""
    within = within_requests(values, requests)
    return {name: getattr(within, kind).astype(np.float32) for kind, name in kinds}


def mixed_requests(spec: Spec, requests: Ints, times: Ints) -> tuple[int, int]:
    """Return how many requests (n), 0 for null, have candidates of different as-of times, and how many there are."""
    known = np.flatnonzero((requests > 0) & (times != NO_TIME))
    number, moment = requests[known], times[known] // spec.as_of_step_us
    oldest = np.full(int(requests.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(oldest, number, moment)
    return len(np.unique(number[moment > oldest[number]])), len(np.unique(number))


def check_moments(spec: Spec, mixed: int, requests: int) -> None:
    """Raise if candidates of one request have different as-of times: the older would see what the newer see."""
    if mixed and spec.within is not None:
        raise DataError(
            f"within.by: {mixed:,} of {requests:,} values of `{spec.within.by}` have candidates of "
            "different as-of times, so the older would see what the newer have seen. Name the column of a request, "
            "whose candidates share a time"
        )


def kinds_of(columns: Sequence[Column]) -> dict[str, list[tuple[str, str]]]:
    """Return the columns within a request by the feature that they are of: their kinds and names."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for column in columns:
        if isinstance(statistic := column.statistic, WithinStatistic):
            kinds.setdefault(statistic.column, []).append((statistic.kind, column.name))
    return kinds


def explain_within(statistic: WithinStatistic, by: str, values: Doubles, *, in_request: bool) -> Explanation:
    """Return how a value within a request comes out.

    values  of the column that it is of: that of the candidate, then those of the others of its request; NaN = null
    """
    if not in_request:
        return Explanation(f"`{by}` is null")
    if np.isnan(values[0]):
        return Explanation(f"{statistic.column} is null")
    known = values[~np.isnan(values)]
    numbers = {
        statistic.column: float(values[0]),
        "candidates": float(len(known)),
        "median": float(np.median(known)),
        "standard deviation": float(np.std(known)),
    }
    rows = counted(len(known), "candidate")
    if statistic.kind == "ratio" and known.min() == known.max():
        return Explanation(f"{rows} of the same `{by}` have the same value", numbers)
    return Explanation(_HOW[statistic.kind].format(rows=rows, by=f"`{by}`", name=statistic.column), numbers)
