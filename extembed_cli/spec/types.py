"""The types of a spec's values, each with its check."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from extembed_cli.spec.durations import duration_us, time_us

_NAME = re.compile(r"[A-Za-z0-9](?:_?[A-Za-z0-9-])*_?")


class Frozen(BaseModel):
    """Keyword-only, immutable, no unknown keys; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False, defer_build=True
    )


def _check_duration(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f'must be a duration, such as "10m", got {value!r}')
    duration_us(value)
    return value


def _check_positive_duration(value: object) -> str:
    text = _check_duration(value)
    if duration_us(text) == 0:
        raise ValueError(f"`{text}` must be longer than 0")
    return text


def _check_half_life(value: object) -> str:
    return "none" if value == "none" else _check_positive_duration(value)


def _check_percentile(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 99:
        raise ValueError(f"must be a whole number from 1 to 99, such as 90, got {value!r}")
    return value


def _check_share(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"must be a share from 0 to 1, got {value!r}")
    return value


def _check_time(value: object) -> object:
    text = value.isoformat() if hasattr(value, "isoformat") else value
    if isinstance(text, str):
        try:
            time_us(text)
        except ValueError:
            raise ValueError(f"`{text}` is not an ISO 8601 time, such as `2026-01-31T06:00:00`") from None
    return text


def _check_threshold(value: float) -> float:
    if not -1 <= value <= 1 or abs(value * 100 - round(value * 100)) > 1e-9:
        raise ValueError(f"{value} is not a multiple of 0.01 between -1 and 1")
    return value


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"`{text}` is not a name: use letters, digits, `-` and single `_` (it becomes part of column names)"
        )
    return text


def _check_paths(value: object) -> object:
    if isinstance(value, list | tuple) and all(isinstance(path, str) for path in value):
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError(f"must be a path or a list of paths, got {value!r}")
    return value


def _check_time_format(form: str) -> str:
    directives = re.findall(r"%[^a-zA-Z+%]*([a-zA-Z+%])", form)
    if "Z" in directives:
        raise ValueError(
            f"{form!r} has %Z, the name of a zone, which would be ignored; write the offset, and %z for it"
        )
    if not _YEARS.intersection(directives):
        raise ValueError(f"{form!r} has no year; write it where the times are written, such as %Y-%m-%d %H:%M:%S")
    return form


_YEARS = frozenset("YyCGgDxFvcs+")
"""Directives of strftime that a year can be told from"""
TimeFormat: TypeAlias = Annotated[str, AfterValidator(_check_time_format)]
TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns"]
Duration: TypeAlias = Annotated[str, BeforeValidator(_check_duration)]
PositiveDuration: TypeAlias = Annotated[str, BeforeValidator(_check_positive_duration)]
HalfLife: TypeAlias = Annotated[str, BeforeValidator(_check_half_life)]
Time: TypeAlias = Annotated[str, BeforeValidator(_check_time)]


def _check_temperature(value: float) -> float:
    if not 0.01 <= value <= 9.99 or abs(value * 100 - round(value * 100)) > 1e-9:
        raise ValueError(f"{value} is not a multiple of 0.01 between 0.01 and 9.99")
    return value


Percentile: TypeAlias = Annotated[int, Field(ge=1, le=99), BeforeValidator(_check_percentile)]
Threshold: TypeAlias = Annotated[float, Field(strict=True), AfterValidator(_check_threshold)]
Temperature: TypeAlias = Annotated[float, Field(strict=True), AfterValidator(_check_temperature)]
Top: TypeAlias = Annotated[int, Field(ge=1, le=1000, strict=True)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1), BeforeValidator(_check_share)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False, strict=True)]
Name: TypeAlias = Annotated[str, AfterValidator(_check_name)]
Paths: TypeAlias = Annotated[str | tuple[str, ...], BeforeValidator(_check_paths)]
