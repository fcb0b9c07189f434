"""Output columns: name, type, step of the ladder and meaning."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

from extembed_cli.spec.sides import Owner

Dtype = Literal["UInt32", "Float32"]


@dataclass(frozen=True)
class Column:
    """One output column."""

    name: str
    dtype: Dtype
    technique: str
    """The key of its technique in a spec"""
    meaning: str
    statistic: Hashable
    """Its content in the technique's own terms, apart from the name: equal statistics are computed once"""
    owner: Owner = "user"
    """Whose history it is of"""
    step: str | None = None
    """The step of the ladder of an evaluation that it belongs to, where it is not named as the technique"""
    trained_until: str | None = None
    """Time of the newest row that a model behind it has seen, ISO 8601: what is measured before that is flattered."""

    out_of_time: bool = False
    """Whether each value is by a model that has seen older rows only"""

    @property
    def about(self) -> dict[str, Any]:
        """As the output's metadata has it."""
        known = {
            "name": self.name,
            "technique": self.step or self.technique,
            "dtype": self.dtype,
            "meaning": self.meaning,
        }
        owner = None if self.owner == "user" else self.owner
        more = {"owner": owner, "trained_until": self.trained_until, "out_of_time": self.out_of_time or None}
        return {**known, **{key: value for key, value in more.items() if value is not None}}
