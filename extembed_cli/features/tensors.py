"""Visibility and weights of one padded batch, made once for all the statistics that need the same ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch
from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.visibility import Visible
from extembed_cli.kernels.weights import decayed_count, relative_weights
from extembed_cli.spec import half_life_us


class Weights(NamedTuple):
    """Relative weights (B, C, H) in both precisions, and the scale (B, C) they were divided by (None = 1)."""

    double: NDArray[np.float64]
    single: NDArray[np.float32]
    scale: NDArray[np.float64] | None


class Tensors:
    """Visibility and weights of one batch, shared by all statistics that need the same ones."""

    def __init__(self, history: History, candidates: Candidates, seen: dict[str, Visible], batch: Batch) -> None:
        self.history = history
        self.candidates = candidates
        self.seen = seen
        self.batch = batch
        self.origin = history.times[batch.first_event]
        self.times = (history.times[batch.events] - self.origin).astype(np.float64)
        self.event_weights = None if history.weights is None else history.weights[batch.events]
        self.positions = np.arange(batch.events.shape[1])
        self._visible: dict[tuple[str, bytes], NDArray[np.bool_]] = {}
        self._weights: dict[tuple[str, str, bytes], Weights] = {}

    def members(self, name: str) -> NDArray[np.bool_]:
        """(B, H) events that belong to a history."""
        flags = self.history.members.get(name)
        return self.batch.is_event if flags is None else self.batch.is_event & flags[self.batch.events]

    def visible(self, name: str, usable: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """(B, C, H) events of a history that each candidate sees, of the usable ones (B, H)."""
        members = self.members(name) if usable is None else self.members(name) & usable
        key = (name, members.tobytes())
        if key not in self._visible:
            seen, batch = self.seen[name], self.batch
            start = seen.start[batch.candidates] - batch.first_event
            end = seen.end[batch.candidates] - batch.first_event
            mask = self.positions < end[:, :, None]
            if (start > 0).any():
                mask &= self.positions >= start[:, :, None]
            self._visible[key] = np.logical_and(mask, members[:, None, :], out=mask)
        return self._visible[key]

    def weights(self, name: str, half_life: str, seen: Visible, usable: NDArray[np.bool_] | None = None) -> Weights:
        """Relative weights of the visible usable events."""
        members = self.members(name) if usable is None else self.members(name) & usable
        key = (name, half_life, members.tobytes())
        if key not in self._weights:
            weights, scale = relative_weights(
                self.times,
                self._since_origin(seen),
                self.visible(name, usable),
                half_life_us(half_life),
                self.event_weights,
            )
            self._weights[key] = Weights(weights, weights.astype(np.float32), scale)
        return self._weights[key]

    def decayed_count(self, name: str, half_life: str) -> NDArray[np.float64]:
        seen = self.seen[name]
        weights, _, scale = self.weights(name, half_life, seen)
        as_of = (self.candidates.times[self.batch.candidates] - self.origin).astype(np.float64)
        count = decayed_count(weights, scale, self._since_origin(seen), as_of, half_life_us(half_life))
        return np.where(seen.count[self.batch.candidates] > 0, count, 0.0)

    def _since_origin(self, seen: Visible) -> NDArray[np.float64]:
        """(B, C) us from the tile's origin to the newest event seen; 0 where there is none."""
        newest = seen.newest[self.batch.candidates]
        times = self.history.times[np.maximum(newest, 0)] - self.origin
        return np.where(newest >= 0, times, 0).astype(np.float64)
