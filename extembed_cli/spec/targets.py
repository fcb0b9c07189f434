"""Keys about what an event says: its target, and what is taken off it."""

from __future__ import annotations

from pydantic import model_validator

from extembed_cli.spec.expressions import Expression, Residual, ResidualBy
from extembed_cli.spec.types import Frozen, HalfLife, NotNegative


class ResidualKeys(Frozen):
    """What is taken off the numbers that events say."""

    residual: ResidualBy | None = None
    """Take the mean of earlier events off the target: those of the same `item`, of the same `user`, or `item+user`."""
    prior_events: NotNegative = 5.0
    """Events with the mean of all earlier ones that are added to those of the item or user of a residual."""
    residual_half_life: HalfLife = "none"
    """Age at which an earlier event weighs half as much in the mean of a residual; `none` = no decay."""

    @model_validator(mode="after")
    def _keys_of_residual(self) -> ResidualKeys:
        keys = ("prior_events", "residual_half_life")
        unused = [key for key in keys if getattr(self, key) != ResidualKeys.model_fields[key].default]
        if unused and self.residual is None:
            raise ValueError(f'{unused[0]}: is of a residual; set residual = "item" too, or leave it out')
        return self

    @property
    def residual_of(self) -> Residual | None:
        """The residual of the values."""
        by = self.residual
        return None if by is None else Residual(by, self.prior_events, self.residual_half_life)


class TargetKeys(ResidualKeys):
    """What an event says."""

    target: str | None = None
    """What an event says: a column or a row-wise SQL expression, such as `rating`."""

    @model_validator(mode="after")
    def _target_of_residual(self) -> TargetKeys:
        if self.residual is not None and self.target is None:
            raise ValueError('residual: needs a `target`, such as target = "rating"')
        return self

    @property
    def target_expression(self) -> Expression | None:
        """The target over the interactions, a residual or not."""
        return None if self.target is None else Expression(self.target, "Float64", self.residual_of)
