"""Visibility and weights of one padded batch, made once for all the statistics that need the same ones."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch
from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.visibility import Seen
from extembed_cli.kernels.weights import (
    RelativeWeights,
    decayed_count,
    fixed_point,
    relative_weights,
    sum_of_range,
    whole_bits,
)
from extembed_cli.spec import half_life_us

Ints = NDArray[np.int64]


class Weights:
    """Weights of one half-life in the forms that statistics need; arbitrary where not visible."""

    def __init__(self, relative: RelativeWeights, start: Ints, end: Ints, length: int) -> None:
        self.relative = relative
        self._range = start, end
        self._length = length

    @cached_property
    def single(self) -> NDArray[np.float32]:
        """(B, V or 1, H)"""
        return self.relative.factor.astype(np.float32)

    @cached_property
    def whole(self) -> Ints:
        """(B, V or 1, H), H without the padding of the last block"""
        return fixed_point(self.relative.factor[..., : self._length])

    @cached_property
    def whole_total(self) -> Ints:
        """(B, V) exact sum over what is visible"""
        return sum_of_range(self.whole, *self._range)

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """(B, V)"""
        return np.ldexp(self.whole_total.astype(np.float64), -whole_bits(self.whole.shape[-1]))


class Tensors:
    """What the views of one batch see of one list of events, and its weights by half-life.

    Candidates with one as-of time see the same: a batch has V views.
    """

    def __init__(self, history: History, candidates: Candidates, seen: Seen, batch: Batch) -> None:
        self.batch = batch
        self.events = seen.events[batch.events]
        """(B, H) positions in the shard's events; padding repeats the tile's last"""
        times, views = history.times[self.events], batch.views
        self.origin = times[:, :1]
        self.times = (times - self.origin).astype(np.float64)
        self.as_of = (candidates.times[views] - self.origin).astype(np.float64)
        """(B, V) us from the tile's origin, as all times here"""
        self.event_weights = None if history.weights is None else history.weights[self.events]
        self.start, self.end = seen.start[views] - batch.first_event, seen.end[views] - batch.first_event
        """(B, V) the events of the tile that each view sees: those in [start, end)"""
        self._weights: dict[str, Weights] = {}

    @cached_property
    def hidden(self) -> NDArray[np.bool_]:
        """(B, V, H) the others, and padding."""
        return ~self.visible

    @cached_property
    def visible(self) -> NDArray[np.bool_]:
        """(B, V, H) the events that each view sees."""
        positions = np.arange(self.times.shape[1])
        mask = positions < self.end[:, :, None]
        if (self.start > 0).any():
            mask &= positions >= self.start[:, :, None]
        return mask

    @property
    def count(self) -> Ints:
        """(B, V) how many events each view sees."""
        return self.end - self.start

    @cached_property
    def newest(self) -> NDArray[np.float64]:
        """(B, V) us from the tile's origin to the newest event seen; arbitrary where there is none."""
        return np.take_along_axis(self.times, np.maximum(self.end - 1, 0), axis=1)

    def weights(self, half_life: str) -> Weights:
        """Relative weights of the visible events."""
        if half_life not in self._weights:
            relative = relative_weights(
                self.times,
                self.newest,
                self.visible,
                half_life_us(half_life),
                self.event_weights,
                self.as_of.max(axis=1),
            )
            self._weights[half_life] = Weights(relative, self.start, self.end, self.batch.length)
        return self._weights[half_life]

    def decayed_count(self, half_life: str) -> NDArray[np.float64]:
        """(B, C)"""
        weights = self.weights(half_life)
        count = decayed_count(weights.total, weights.relative, self.as_of, half_life_us(half_life))
        return np.broadcast_to(np.where(self.count > 0, count, 0.0), self.batch.candidates.shape)
