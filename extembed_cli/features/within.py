"""Columns within a request: a feature relative to those of the other candidates of its request (`[within]`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from extembed_cli.errors import SpecError
from extembed_cli.features.technique.columns import Column
from extembed_cli.spec.model import Spec

Kind = Literal["rank", "difference", "ratio"]
MEANINGS: dict[Kind, str] = {
    "rank": "rank of {name} among the candidates of the same {by}: 1 = highest, equal ones have their mean rank",
    "difference": "{name} − its median among the candidates of the same {by}",
    "ratio": "({name} − its median) / its standard deviation among the candidates of the same {by}",
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
    if within is None or spec.candidates is None:
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
