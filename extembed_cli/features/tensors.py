"""Visibility and weights of one padded batch, made once for all the statistics that need the same ones."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch
from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.visibility import Visible
from extembed_cli.kernels.weights import RelativeWeights, decayed_count, fixed_point, relative_weights
from extembed_cli.spec import half_life_us


class Weights:
    """Weights of visible events (B, V, H) in the forms that statistics need."""

    def __init__(self, relative: RelativeWeights, visible: NDArray[np.bool_]) -> None:
        self.relative = relative
        self.visible = visible

    @cached_property
    def double(self) -> NDArray[np.float64]:
        return self.relative.factor * self.visible

    @cached_property
    def single(self) -> NDArray[np.float32]:
        return self.relative.factor.astype(np.float32) * self.visible

    @cached_property
    def whole(self) -> NDArray[np.int64]:
        return fixed_point(self.relative.factor) * self.visible


class Tensors:
    """Visibility and weights of one batch, shared by all statistics that need the same ones.

    They are of the batch's V views: candidates with one as-of time see the same.
    """

    def __init__(self, history: History, candidates: Candidates, seen: dict[str, Visible], batch: Batch) -> None:
        self.history = history
        self.candidates = candidates
        self.seen = seen
        self.batch = batch
        self.origin = history.times[batch.first_event]
        self.times = (history.times[batch.events] - self.origin).astype(np.float64)
        self.as_of = (candidates.times[batch.views] - self.origin).astype(np.float64)
        """(B, V) us from the tile's origin, as all times here"""
        self.event_weights = None if history.weights is None else history.weights[batch.events]
        self.positions = np.arange(batch.events.shape[1])
        self._visible: dict[tuple[str, bytes], NDArray[np.bool_]] = {}
        self._weights: dict[tuple[str, str, bytes], Weights] = {}

    def members(self, name: str) -> NDArray[np.bool_]:
        """(B, H) events that belong to a history."""
        flags = self.history.members.get(name)
        return self.batch.is_event if flags is None else self.batch.is_event & flags[self.batch.events]

    def visible(self, name: str, usable: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """(B, V, H) events of a history that each view sees, of the usable ones (B, H)."""
        members = self.members(name) if usable is None else self.members(name) & usable
        key = (name, members.tobytes())
        if key not in self._visible:
            seen, batch = self.seen[name], self.batch
            start = seen.start[batch.views] - batch.first_event
            end = seen.end[batch.views] - batch.first_event
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
            visible = self.visible(name, usable)
            relative = relative_weights(
                self.times,
                self._since_origin(seen),
                visible,
                half_life_us(half_life),
                self.event_weights,
                self.as_of.max(axis=1),
            )
            self._weights[key] = Weights(relative, visible)
        return self._weights[key]

    def decayed_count(self, name: str, half_life: str) -> NDArray[np.float64]:
        """(B, C)"""
        seen, views = self.seen[name], self.batch.views
        weights = self.weights(name, half_life, seen)
        count = decayed_count(weights.double, weights.relative, self.as_of, half_life_us(half_life))
        return np.broadcast_to(np.where(seen.count[views] > 0, count, 0.0), self.batch.candidates.shape)

    def _since_origin(self, seen: Visible) -> NDArray[np.float64]:
        """(B, V) us from the tile's origin to the newest event seen; 0 where there is none."""
        newest = seen.newest[self.batch.views]
        times = self.history.times[np.maximum(newest, 0)] - self.origin
        return np.where(newest >= 0, times, 0).astype(np.float64)
