"""Rough numbers: an estimate of how many rows a decision needs is right to a factor of about two."""

from __future__ import annotations

import math

_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_BASES = (_ONES, _TENS, tuple(f"{digit} hundred" for digit in _ONES))
_UNITS = ("", " thousand", " million", " billion", " trillion")


def rough_range(estimate: float) -> tuple[int, int]:
    """Return half and twice an estimate of at least 1, each as one figure and zeros."""
    estimate = max(1.0, estimate)
    return _one_figure(estimate / 2), _one_figure(estimate * 2)


def range_text(low: int, high: int) -> str:
    """Return `ten to forty thousand` for 10,000 and 40,000: numbers of one figure and zeros below 10^15."""
    (low_base, low_unit), (high_base, high_unit) = _words(low), _words(high)
    return f"{low_base}{'' if low_unit == high_unit else low_unit} to {high_base}{high_unit}"


def _one_figure(value: float) -> int:
    unit = 10.0 ** math.floor(math.log10(max(1.0, value)))
    return max(1, round(value / unit)) * int(unit)


def _words(number: int) -> tuple[str, str]:
    """Return a number of one figure and zeros in words, as base and unit."""
    digits = str(number)
    unit, place = divmod(len(digits) - 1, 3)
    return _BASES[place][int(digits[0]) - 1], _UNITS[unit]
