"""The reference of the dual fit: d x d normal equations in float64, one candidate at a time.

This file uses nothing of the package. Times are integer microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.reference import Event, ReferenceHistory, events_by_user, micros, visible_events


@dataclass(frozen=True)
class ReferenceFit:
    regularization: float = 2.0
    unobserved_weight: float = 0.0
    scaling: float = 0.0
    half_life: str = "none"
    target: Callable[[Event], float | None] = lambda event: 1.0
    loss: str = "squared"
    bias: bool = False
    refit_every: str | None = None


def item_vectors(
    table: Mapping[Any, Sequence[float]], *, normalize: bool = True, center: bool = False, bias: bool = False
) -> dict[Any, np.ndarray]:
    """Return the vectors of a table after centring, normalisation and bias."""
    vectors = {item: np.asarray(v, np.float64) for item, v in table.items()}
    if center:
        mean = np.mean(list(vectors.values()), axis=0)
        vectors = {item: v - mean for item, v in vectors.items()}
    if normalize:
        vectors = {item: v / np.linalg.norm(v) for item, v in vectors.items()}
    return {item: np.append(v, 1.0) if bias else v for item, v in vectors.items()}


def solve(
    vectors: Mapping[Any, np.ndarray],
    fit: ReferenceFit,
    events: Sequence[Event],
    history: ReferenceHistory,
    user: Any,
    t: int,
    lag: str = "0s",
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the user's vector and the inverse of its matrix; None if no event can be fitted."""
    if fit.refit_every:
        t = t // micros(fit.refit_every) * micros(fit.refit_every)
    seen = [e for e in visible_events(events, history, user, t, lag) if e.item in vectors]
    seen = [e for e in seen if fit.target(e) is not None]
    if not seen:
        return None
    x = np.array([vectors[e.item] for e in seen])
    y = np.array([fit.target(e) for e in seen], np.float64)
    c = np.array([e.weight for e in seen])
    if fit.half_life != "none":
        c = c * 2.0 ** (-(t - np.array([e.time for e in seen])) / micros(fit.half_life))
    every = np.array(list(vectors.values()))
    strength = fit.regularization * (len(seen) + fit.unobserved_weight * len(every)) ** fit.scaling
    prior = fit.unobserved_weight * every.T @ every + strength * np.eye(x.shape[1])
    if fit.loss == "squared":
        matrix = prior + (x * c[:, None]).T @ x
        return np.linalg.solve(matrix, x.T @ (c * y)), np.linalg.inv(matrix)
    u = np.zeros(x.shape[1])
    s = np.where(y > 0, 1.0, -1.0)
    for _ in range(200):
        p = 1 / (1 + np.exp(-s * (x @ u)))
        gradient = prior @ u - x.T @ (c * s * (1 - p))
        matrix = prior + (x * (c * p * (1 - p))[:, None]).T @ x
        step = np.linalg.solve(matrix, gradient)
        u = u - step * min(1.0, 1.0 / (np.linalg.norm(step) + 1e-300))
        if np.linalg.norm(gradient) < 1e-12:
            break
    p = 1 / (1 + np.exp(-s * (x @ u)))
    return u, np.linalg.inv(prior + (x * (c * p * (1 - p))[:, None]).T @ x)


def scores(
    events: Sequence[Event],
    candidates: Sequence[tuple[Any, Any, int | None]],
    vectors: Mapping[Any, np.ndarray],
    fit: ReferenceFit,
    history: ReferenceHistory | None = None,
    lag: str = "0s",
) -> tuple[list[float | None], list[float | None]]:
    """Return score and standard deviation of each candidate; None is null."""
    by_user = events_by_user(events)
    score: list[float | None] = []
    sd: list[float | None] = []
    for user, item, time in candidates:
        fitted = None
        if user is not None and time is not None and item in vectors:
            fitted = solve(vectors, fit, by_user.get(user, []), history or ReferenceHistory(), user, time, lag)
        score.append(None if fitted is None else float(fitted[0] @ vectors[item]))
        sd.append(None if fitted is None else float(np.sqrt(vectors[item] @ fitted[1] @ vectors[item])))
    return score, sd
