"""Entries of statistics: how their columns are called, what they mean, and how they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from extembed_cli.arrays import Values
from extembed_cli.features.technique.columns import Column, Dtype
from extembed_cli.spec.durations import half_life_suffix
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.groups import CountersGroup
from extembed_cli.spec.sides import Side
from extembed_cli.spec.tables import Matrix

Need = Literal["order", "weights", "mean", "target"]
"""The order of the cosines; the decayed weights of the events; the decayed mean of their vectors, which is summed up
while these are at hand; the target of the events"""

View = TypeVar("View")
AnyGroup = TypeVar("AnyGroup", bound=CountersGroup)


@dataclass(frozen=True)
class Statistic:
    """The content of a column, apart from its name."""

    name: str
    """Of its definition"""
    history: str
    side: Side
    matrix: Matrix | None = None
    half_life: str | None = None
    argument: float | None = None
    """The percentile, threshold, temperature or number of events"""
    target: Expression | None = None


class Parameters(NamedTuple):
    """What a statistic is computed with, beside the events."""

    half_life: str
    target: Expression | None
    arguments: list[float]
    """All arguments, so that one pass serves them"""

    @property
    def y(self) -> Expression:
        """The target, of an entry that needs one."""
        assert self.target is not None
        return self.target


class Arguments(NamedTuple, Generic[AnyGroup]):
    """The arguments of a statistic: a group has a column for each."""

    label: str
    """How the reference writes their place in a column's name"""
    of: Callable[[AnyGroup], Mapping[str, float]]
    """The arguments of a group, by their text in a column's name"""


@dataclass(frozen=True)
class Definition(Generic[View, AnyGroup]):
    """A statistic: how its columns are called, what they mean, and how they are computed.

    In `column` `{h}` is the history, `{e}` the table, `{n}` the name of the group, `{a}` the argument and `{d}` the
    half-life. In `meaning` `{h}` says whose history it is, `{t}` how the table is centred, `{partner}` whose vectors it
    has, `{d}` is the weight and `{y}` the target.
    """

    column: str
    meaning: str
    compute: Callable[[View, Parameters], list[Values]]
    """From a view of some candidates: an array for each argument, or one"""
    dtype: Dtype = "Float32"
    decays: bool = True
    """Whether a group has a column for each half-life"""
    arguments: Arguments[AnyGroup] | None = None
    """None = one column without argument"""
    needs: tuple[Need, ...] = ()
    """What it reads of the events beside the cosines"""
    enabled: Callable[[AnyGroup], bool] = lambda group: True
    """Whether a group has its columns"""

    def of(self, group: AnyGroup) -> Mapping[str, float | None]:
        """Return the arguments of a group's columns by label; none where it does not have them."""
        if not self.enabled(group) or ("target" in self.needs and group.target is None):
            return {}
        return {"": None} if self.arguments is None else self.arguments.of(group)


def columns_of(
    definitions: Mapping[str, Definition[Any, Any]],
    group: CountersGroup,
    step: str,
    history: str,
    matrix: Matrix | None = None,
) -> Iterator[Column]:
    """Yield the columns of some statistics: those that do not decay first, then all of each half-life."""
    side = group.of_side
    name = f"{group.name}_" if group.name else ""
    place = {"h": side.prefix + history, "n": name}
    words = {"h": side.words(history), "partner": side.partner}
    if matrix is not None:
        place = {"h": history, "n": side.prefix + name, "e": matrix.table}
        words["t"] = matrix.words
    for half_life in (None, *group.half_lives):
        suffix = "" if half_life is None else half_life_suffix(half_life)
        decay = f"w = weight · 2^(−age / {half_life})" if suffix else "w = weight"
        for key, definition in definitions.items():
            if definition.decays != (half_life is not None):
                continue
            target = group.target_expression if "target" in definition.needs else None
            for label, argument in definition.of(group).items():
                yield Column(
                    name=definition.column.format(**place, a=label, d=suffix),
                    dtype=definition.dtype,
                    technique=step,
                    meaning=definition.meaning.format(**words, a=argument, d=decay, y=target and target.meaning),
                    statistic=Statistic(key, history, side, matrix, half_life, argument, target),
                    owner=side.owner,
                )
