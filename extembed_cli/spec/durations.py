"""Durations and times of a spec in microseconds, and numbers as column names write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

DAY_US = 86_400_000_000
YEAR_US = 365 * DAY_US
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_800_000_000
"""The beginnings of the years 1 and 10,000: all times of events are in between"""
_UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": DAY_US, "w": 7 * DAY_US}
_DURATION = re.compile(r"(0|[1-9][0-9]*)([smhdw])")
_LONGEST_US = 1000 * 366 * DAY_US


def duration_us(text: str) -> int:
    """Return the microseconds of a duration such as `30d`: an integer and one of `s m h d w`."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"`{text}` is not a duration: write an integer and one of s m h d w, such as `30d`")
    length = int(match[1]) * _UNIT_US[match[2]]
    if length > _LONGEST_US:
        raise ValueError(f"`{text}` is longer than 1000 years")
    return length


def half_life_us(text: str) -> int | None:
    """Return the microseconds of a half-life; None for `none` (no decay)."""
    return None if text == "none" else duration_us(text)


def time_us(text: str) -> int:
    """Return the microseconds since 1970 UTC of an ISO 8601 time; a time without a zone is UTC."""
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def time_text(us: int) -> str:
    """Return microseconds since 1970 as an ISO 8601 time in UTC; the nearest one of the years 1 to 9999."""
    us = min(max(us, EARLIEST_US), LATEST_US - 1)
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()


def shown_time(us: int) -> str:
    """Return a time as people read it: `2026-01-31 06:00:00`, in UTC."""
    return time_text(us).removesuffix("+00:00").replace("T", " ")


def hundredths_label(number: float) -> str:
    """Return `030` for 0.30, `m020` for -0.20."""
    hundredths = round(number * 100)
    return f"m{-hundredths:03d}" if hundredths < 0 else f"{hundredths:03d}"


def half_life_suffix(half_life: str) -> str:
    """Return `__hl7d` for `7d`, or an empty text without decay."""
    return "" if half_life == "none" else f"__hl{half_life}"
