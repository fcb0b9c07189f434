"""Rough numbers: an estimate of how many rows a decision needs is right to a factor of about two."""

from __future__ import annotations

import math


def rough_range(estimate: float) -> tuple[int, int]:
    """Return half and twice an estimate of at least 1, each as one figure and zeros."""
    estimate = max(1.0, estimate)
    return _one_figure(estimate / 2), _one_figure(estimate * 2)


def _one_figure(value: float) -> int:
    unit = 10.0 ** math.floor(math.log10(max(1.0, value)))
    return max(1, round(value / unit)) * int(unit)
