"""The reference: every aggregate column by a float64 loop over candidates and events, as the definitions say.

This file uses nothing of the package. Times are integer microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DAY = 86_400_000_000
UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": DAY, "w": 7 * DAY}


def micros(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


@dataclass(frozen=True)
class Event:
    user: Any
    item: Any
    time: int
    weight: float = 1.0
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceHistory:
    where: Callable[[Event], bool] = lambda event: True
    window: str | None = None
    max_events: int | None = None


def unit_vectors(table: Mapping[Any, Sequence[float]], center: bool = False) -> dict[Any, np.ndarray]:
    vectors = {item: np.asarray(v, np.float64) for item, v in table.items()}
    if center:
        mean = np.mean(list(vectors.values()), axis=0)
        vectors = {item: v - mean for item, v in vectors.items()}
    return {item: v / np.linalg.norm(v) for item, v in vectors.items()}


def events_by_user(events: Sequence[Event]) -> dict[Any, list[Event]]:
    users: dict[Any, list[Event]] = {}
    for event in events:
        users.setdefault(event.user, []).append(event)
    return users


def visible_events(events: Sequence[Event], history: ReferenceHistory, user: Any, t: int, lag: str) -> list[Event]:
    mine = [e for e in events if e.user == user and e.weight and history.where(e) and e.time < t - micros(lag)]
    if history.window:
        mine = [e for e in mine if e.time >= t - micros(history.window)]
    mine.sort(key=lambda e: (e.time, e.item, e.weight, tuple(str(v) for v in e.values.values())))
    return mine[-history.max_events :] if history.max_events else mine


def features(
    events: Sequence[Event],
    candidates: Sequence[tuple[Any, Any, int | None]],
    embeddings: Mapping[str, Mapping[Any, Sequence[float]]],
    histories: Mapping[str, ReferenceHistory],
    half_lives: Sequence[str],
    percentiles: Sequence[int],
    thresholds: Sequence[float],
    *,
    lag: str = "0s",
    as_of_step: str | None = None,
    center: bool = False,
    prefix: str = "",
) -> dict[str, list[float | None]]:
    """Return one value per candidate for each column name; None is null."""
    by_user = events_by_user(events)
    units = {name: unit_vectors(table, center) for name, table in embeddings.items()}
    rows = []
    for user, item, time in candidates:
        row: dict[str, float | None] = {}
        for name, history in histories.items():
            if user is None or time is None:
                continue
            t = time // micros(as_of_step) * micros(as_of_step) if as_of_step else time
            seen = visible_events(by_user.get(user, []), history, user, t, lag)
            row.update(counters(seen, t, half_lives, f"{name}__{prefix}"))
            for table, vectors in units.items():
                known = [e for e in seen if e.item in vectors]
                column = f"{table}__{name}__{prefix}"
                row[column + "vector_count"] = len(known)
                if known and item in vectors:
                    row.update(cosines(known, vectors, vectors[item], half_lives, percentiles, thresholds, column))
        rows.append(row)
    names = column_names(embeddings, histories, half_lives, percentiles, thresholds, prefix)
    return {name: [row.get(name) for row in rows] for name in names}


def counters(seen: list[Event], t: int, half_lives: Sequence[str], column: str) -> dict[str, float | None]:
    out: dict[str, float | None] = {column + "count": len(seen)}
    out[column + "age_last_s"] = (t - max(e.time for e in seen)) / 1e6 if seen else None
    for half_life in half_lives:
        total = math.fsum(
            e.weight * (1.0 if half_life == "none" else 2.0 ** (-(t - e.time) / micros(half_life))) for e in seen
        )
        out[column + "decayed_count" + suffix(half_life)] = total
    return out


def cosines(
    known: list[Event],
    vectors: Mapping[Any, np.ndarray],
    candidate: np.ndarray,
    half_lives: Sequence[str],
    percentiles: Sequence[int],
    thresholds: Sequence[float],
    column: str,
) -> dict[str, float | None]:
    c = np.array([vectors[e.item] @ candidate for e in known])
    out: dict[str, float | None] = {column + "cos_min": c.min(), column + "cos_max": c.max()}
    newest = max(e.time for e in known)
    for half_life in half_lives:
        end = suffix(half_life)
        w = np.array(
            [
                e.weight * (1.0 if half_life == "none" else 2.0 ** (-(newest - e.time) / micros(half_life)))
                for e in known
            ]
        )
        mean = sum(wi * vectors[e.item] for wi, e in zip(w, known, strict=True))
        norm = float(np.linalg.norm(mean))
        out[column + "cos_to_mean" + end] = float(mean @ candidate) / norm if norm > 1e-6 * w.sum() else None
        out[column + "cos_mean" + end] = float(w @ c / w.sum())
        out[column + "cos_sd" + end] = math.sqrt(w @ (c - w @ c / w.sum()) ** 2 / w.sum())
        for p in percentiles:
            order = np.argsort(c, kind="stable")
            cumulative = np.cumsum(w[order])
            rank = int(np.argmax(cumulative >= cumulative[-1] * p / 100))
            out[f"{column}cos_p{p:02d}{end}"] = float(c[order][rank])
        for threshold in thresholds:
            label = f"m{-round(threshold * 100):03d}" if threshold < 0 else f"{round(threshold * 100):03d}"
            share = float(w[c >= threshold].sum() / w.sum())
            out[f"{column}cos_share_ge_{label}{end}"] = share
    return out


def suffix(half_life: str) -> str:
    return "" if half_life == "none" else f"__hl{half_life}"


def column_names(
    embeddings: Mapping[str, Any],
    histories: Mapping[str, Any],
    half_lives: Sequence[str],
    percentiles: Sequence[int],
    thresholds: Sequence[float],
    prefix: str,
) -> list[str]:
    names = []
    for history in histories:
        names += [f"{history}__{prefix}count", f"{history}__{prefix}age_last_s"]
        names += [f"{history}__{prefix}decayed_count{suffix(h)}" for h in half_lives]
        for table in embeddings:
            column = f"{table}__{history}__{prefix}"
            names += [column + s for s in ("vector_count", "cos_min", "cos_max")]
            for h in half_lives:
                names += [f"{column}{s}{suffix(h)}" for s in ("cos_to_mean", "cos_mean", "cos_sd")]
                names += [f"{column}cos_p{p:02d}{suffix(h)}" for p in percentiles]
                for t in thresholds:
                    label = f"m{-round(t * 100):03d}" if t < 0 else f"{round(t * 100):03d}"
                    names.append(f"{column}cos_share_ge_{label}{suffix(h)}")
    return names
