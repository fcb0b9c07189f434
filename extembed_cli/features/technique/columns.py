"""What an output column is: name, type, technique and meaning."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Dtype = Literal["UInt32", "Float32"]
Technique = Literal["counters", "aggregate", "dual", "neural"]


@dataclass(frozen=True)
class Statistic:
    """What a column of counts or cosines holds, apart from its name: equal statistics are computed once."""

    kind: str
    history: str
    embedding: str | None = None
    half_life: str | None = None
    argument: float | None = None
    """The percentile or the threshold."""


@dataclass(frozen=True)
class Column:
    """One output column."""

    name: str
    dtype: Dtype
    technique: Technique
    meaning: str
    statistic: Hashable
    """What it holds, apart from its name: the technique's own description."""
    trained_until: str | None = None
    """Time of the newest row that a model behind it has seen, ISO 8601: what is measured before that is flattered."""

    @property
    def about(self) -> dict[str, str]:
        """As the output's metadata has it."""
        known = {"name": self.name, "technique": self.technique, "dtype": self.dtype, "meaning": self.meaning}
        return known if self.trained_until is None else {**known, "trained_until": self.trained_until}
