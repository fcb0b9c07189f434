"""Defaults that were measured (docs/decisions/) and choices; apart, so that `--help` has them without loading more."""

from typing import Literal

REGULARIZATION = 2.0
UNOBSERVED_WEIGHT = 0.0

Encoder = Literal["mean", "gru", "attention", "transformer"]
Loss = Literal["bce", "softmax"]
