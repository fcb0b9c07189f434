"""Defaults that were measured (docs/decisions/); apart, so that `--help` shows them without loading the spec."""

REGULARIZATION = 2.0
UNOBSERVED_WEIGHT = 0.0
