"""The values of an event that a spec reads: expressions over the interactions, and residuals of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

ResidualBy = Literal["item", "user", "item+user"]


class Residual(NamedTuple):
    """How the expected value of a target is taken off: an event keeps what it says beyond the mean before it."""

    by: ResidualBy
    """Whose earlier events the mean is over: those of the item, of the user, or of the item and then of the user"""
    prior_events: float
    """Events with the mean of everything earlier that are added to those of the item or user"""
    half_life: str
    """Age at which the weight of an earlier event has halved; `none` = all weigh the same"""

    @property
    def meaning(self) -> str:
        """The meaning of the mean, after a target."""
        whose = {"item": "its item", "user": "its user", "item+user": "its item, then of its user"}[self.by]
        decay = "" if self.half_life == "none" else f", half-life {self.half_life}"
        return f" − mean of earlier events of {whose} (with {self.prior_events:g} prior events{decay})"


class Expression(NamedTuple):
    """An expression over the interactions, the type of its values, and whether they are residuals."""

    text: str
    dtype: Literal["Boolean", "Float64"]
    residual: Residual | None = None

    @property
    def column(self) -> str:
        """The name of its column in a frame of events."""
        kind = self.dtype if self.residual is None else "/".join(map(str, self.residual))
        return f"{kind}:{self.text}"

    @classmethod
    def of_column(cls, name: str) -> Expression:
        """Return the expression of a column."""
        kind, _, text = name.partition(":")
        if kind == "Boolean":
            return cls(text, "Boolean")
        by, *numbers = kind.split("/")
        if not numbers:
            return cls(text, "Float64")
        return cls(text, "Float64", Residual(by, float(numbers[0]), numbers[1]))  # type: ignore[arg-type]

    def of(self, residual: Residual | None) -> Expression:
        """Return the same expression with another residual, or without one."""
        return self._replace(residual=residual)

    @property
    def meaning(self) -> str:
        """The meaning of a value."""
        return self.text if self.residual is None else f"({self.text}){self.residual.meaning}"
