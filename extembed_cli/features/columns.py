"""What an output column is: name, type, technique and meaning."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Dtype = Literal["UInt32", "Float32"]
Technique = Literal["counters", "aggregate", "dual"]


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
