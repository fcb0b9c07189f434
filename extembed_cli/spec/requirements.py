"""What the data of a run must reach, so that a job never replaces good features by empty ones."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, TypeAlias, TypeVar

from pydantic import Discriminator, Field, Tag

from extembed_cli.spec.types import Frozen, Name, Share

_Key = TypeVar("_Key", bound=str)
_ONE, _EACH = "[one]", "[each]"  # the brackets keep them out of messages, as those of other types
Shares: TypeAlias = Annotated[
    Annotated[Share, Tag(_ONE)] | Annotated[dict[_Key, Share], Tag(_EACH)],
    Discriminator(lambda value: _EACH if isinstance(value, dict) else _ONE),
]
"""One share, or one for each key. A wrong one is told as what it is, not as neither of the two"""


class Requirements(Frozen):
    """What the data must reach: a run that falls short ends with exit 1, and the old output stays."""

    coverage: Shares[Name] = Field(default_factory=dict)
    """Least share of the candidates, and of the used interactions, with a vector: one number for all tables, or by
    name, such as `{text = 0.9}`."""
    users_met: Share | None = None
    """Least share of the candidates' users that have an interaction."""
    non_null: Shares[str] = Field(default_factory=dict)
    """Least share of the candidates for which a feature is not null: one number for all features, or by name or
    pattern, such as `{"text__liked__*" = 0.5}`. A pattern has to match a feature."""
    allow_empty: Annotated[bool, Field(strict=True)] = False
    """Accept inputs that do not match at all, with a warning: a table without a vector of any candidate or interaction,
    a history that is always empty, users without interactions, times that are decades apart."""

    @property
    def least_shares(self) -> dict[str, float | dict[str, float]]:
        """The shares that are required, by key, without those of 0."""
        shares = {"coverage": self.coverage, "users_met": self.users_met or 0.0, "non_null": self.non_null}
        return {key: each for key, each in shares.items() if any(each.values() if isinstance(each, dict) else [each])}

    def coverage_of(self, table: str) -> float:
        """Return the least share of rows with a vector in a table."""
        return self.coverage.get(table, 0.0) if isinstance(self.coverage, dict) else self.coverage

    def non_null_of(self, column: str) -> float:
        """Return the least share of candidates with a value in a feature: the largest of all patterns that match."""
        if not isinstance(self.non_null, dict):
            return self.non_null
        return max((share for pattern, share in self.non_null.items() if fnmatchcase(column, pattern)), default=0.0)
