"""Statistics of one table over one list of events: what they compute with, and where their values go."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.features.columns import Statistic
from extembed_cli.features.event_lists import EventList
from extembed_cli.features.pieces import Batch, Bools, Ints


class TableStatistics:
    """Those of some kinds; all events of the list have a vector in the table."""

    kinds: ClassVar[set[str]]

    def __init__(self, statistics: list[Statistic], matrix: EmbeddingMatrix, events: EventList) -> None:
        self.matrix = matrix
        self.events = events
        self.event_slots = matrix.slots[events.items]
        self.slots = matrix.slots[events.candidates.items]
        self.wanted: Bools = self.slots != matrix.missing
        """(Q) the candidates that have a vector"""
        mine = [s for s in statistics if s.kind in self.kinds]
        self.found = {s: np.full(len(self.slots), np.nan, np.float32) for s in mine}
        """(Q) each, NaN where undefined"""
        self.half_lives = list(dict.fromkeys(s.half_life for s in mine if s.half_life is not None))

    def arguments(self, kind: str, half_life: str | None = None) -> list[float]:
        """Percentiles or thresholds of a kind, with one half-life or any."""
        found = (s for s in self.found if s.kind == kind and half_life in {None, s.half_life})
        return list(dict.fromkeys(s.argument for s in found if s.argument is not None))

    def put(
        self,
        kind: str,
        candidates: Ints,
        values: NDArray[Any],
        half_life: str | None = None,
        argument: float | None = None,
    ) -> None:
        """Take the values of some candidates."""
        for s, out in self.found.items():
            if (s.kind, s.half_life, s.argument) == (kind, half_life, argument):
                out[candidates] = values

    def slots_of(self, batch: Batch) -> tuple[Ints, Ints]:
        """The events of a batch by place, and their rows of the table: the zero vector in the padding."""
        events, padding = batch.events()
        return events, np.where(padding, self.matrix.missing, self.event_slots[events])
