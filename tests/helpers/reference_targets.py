"""The reference of columns with a target: float64 loops over candidates and events, as the definitions say.

This file uses nothing of the package. Times are integer microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helpers.reference import Event, ReferenceHistory, micros, suffix, visible_events

Values = dict[int, float | None]
"""What each event says, by its place in the log"""


def decay(now: int, then: int, half_life: str) -> float:
    return 1.0 if half_life == "none" else 2.0 ** (-(now - then) / micros(half_life))


def mean_before(
    events: Sequence[Event], values: Values, now: int, half_life: str, prior: float | None, prior_events: float
) -> float | None:
    """Return the shrunken mean of the values of events before a moment; None where there is nothing to divide by."""
    known = [(values[i], decay(now, e.time, half_life)) for i, e in enumerate(events) if e.time < now]
    pairs = [(y, w) for y, w in known if y is not None]
    if prior is None:
        return None
    total = math.fsum(w for _, w in pairs) + prior_events
    return (math.fsum(w * y for y, w in pairs) + prior_events * prior) / total if total > 0 else None


def residuals(
    events: Sequence[Event], values: Values, by: str, prior_events: float = 5.0, half_life: str = "none"
) -> Values:
    """Return the residual of each event, None where it has none."""
    out: Values = {}
    for i, event in enumerate(events):
        y = values[i]
        overall = mean_before(events, values, event.time, half_life, 0.0, 0.0)
        key = "user" if by == "user" else "item"
        same = {j: values[j] for j, e in enumerate(events) if getattr(e, key) == getattr(event, key)}
        others = [events[j] for j in same]
        mean = mean_before(others, dict(enumerate(same.values())), event.time, half_life, overall, prior_events)
        out[i] = None if y is None or mean is None else y - mean
    if by != "item+user":
        return out
    of_user: Values = {}
    for i, event in enumerate(events):
        same = {j: out[j] for j, e in enumerate(events) if e.user == event.user}
        mean = mean_before(
            [events[j] for j in same], dict(enumerate(same.values())), event.time, half_life, 0.0, prior_events
        )
        residual = out[i]
        of_user[i] = None if residual is None else residual - (mean or 0.0)
    return of_user


def target_columns(
    events: Sequence[Event],
    values: Values,
    candidates: Sequence[tuple[Any, Any, int | None]],
    vectors: Mapping[Any, np.ndarray],
    histories: Mapping[str, ReferenceHistory],
    *,
    half_lives: Sequence[str],
    temperatures: Sequence[float],
    thresholds: Sequence[float],
    top: Sequence[int],
    prefix: str = "",
    lag: str = "0s",
) -> dict[str, list[float | None]]:
    """Return one value per candidate for each column name; None is null."""
    said = {id(event): values[i] for i, event in enumerate(events)}
    rows: list[dict[str, float | None]] = []
    names: dict[str, None] = {}
    for user, item, time in candidates:
        row: dict[str, float | None] = {}
        for name, history in histories.items():
            seen = [] if time is None or user is None else visible_events(events, history, user, time, lag)
            known = [e for e in seen if said[id(e)] is not None]
            similar = [e for e in known if e.item in vectors] if item in vectors else []
            c = np.array([vectors[e.item] @ vectors[item] for e in similar])
            y = np.array([said[id(e)] for e in similar], np.float64)
            column = f"text__{name}__{prefix}"
            for number in top:
                # Of equal cosines the newest first; cosines of one item are equal but for rounding.
                order = np.lexsort((-np.arange(len(c)), -np.round(c, 9)))[:number]
                row[f"{column}target_top{number}_mean"] = float(y[order].mean()) if len(c) else None
                row[f"{column}cos_top{number}_mean"] = float(c[order].mean()) if len(c) else None
            for half_life in half_lives:
                end = suffix(half_life)
                row[f"{name}__{prefix}target_mean{end}"] = weighted_mean(known, said, half_life)
                for tau in temperatures:
                    label = f"t{round(tau * 100):03d}{end}"
                    logs = np.array([log_weight(e, similar, half_life) for e in similar]) + (c - 1) / tau
                    row[f"{column}target_kernel_mean_{label}"] = mean_of_logs(logs, y)
                    absolute = [
                        e.weight * decay(time, e.time, half_life) * math.exp((ci - 1) / tau)
                        for e, ci in zip(similar, c, strict=True)
                    ]
                    row[f"{column}target_kernel_weight_{label}"] = math.fsum(absolute) if len(c) else None
                for threshold in thresholds:
                    label = f"m{-round(threshold * 100):03d}" if threshold < 0 else f"{round(threshold * 100):03d}"
                    reach = c >= threshold - 1.5e-7
                    near = [e for e, reached in zip(similar, reach, strict=True) if reached]
                    row[f"{column}target_share_ge_{label}{end}"] = weighted_mean(near, said, half_life)
        rows.append(row)
        names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in rows] for name in names}


def log_weight(event: Event, events: Sequence[Event], half_life: str) -> float:
    """Return the logarithm of the weight, relative to the newest event."""
    newest = max(e.time for e in events)
    age = 0.0 if half_life == "none" else (newest - event.time) / micros(half_life)
    return math.log(event.weight) - age * math.log(2)


def mean_of_logs(logs: np.ndarray, y: np.ndarray) -> float | None:
    if not len(logs):
        return None
    w = np.exp(logs - logs.max())
    return float(w @ y / w.sum())


def weighted_mean(events: Sequence[Event], said: Mapping[int, float | None], half_life: str) -> float | None:
    if not events:
        return None
    logs = np.array([log_weight(e, events, half_life) for e in events])
    return mean_of_logs(logs, np.array([said[id(e)] for e in events], np.float64))
