"""Scores by fits of everybody's events: one linear model over the vectors of items at each step of time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Nums, Values
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.data.shards.matrices import EmbeddingMatrix, places_of
from extembed_cli.features.dual.fits import Fit, FitStatistic
from extembed_cli.features.technique.protocol import ShardWork, Task
from extembed_cli.kernels.segments import run_starts

_FLOATS = 2**18  # vector elements gathered at a time
_ARRAYS = ("steps", "is_new", "vectors", "pairs", "deviations")


@dataclass(frozen=True)
class Everybody:
    """One fit at all steps where it is needed."""

    steps: Ints
    """(K) steps since 1970, ascending; none before the first event is seen"""
    is_new: Bools
    """(K) whether a step sees new events"""
    vectors: Doubles
    """u (K, D) in the coordinates of the table"""
    pairs: Ints
    """(P) place of a step and of an item of its candidates, as one number, ascending; none where no deviation is needed
    """
    deviations: Floats
    """(P) the standard deviation of the score of each pair"""
    ids: pl.Series
    """Ids of the items, by the places in pairs"""

    def places(self, steps: Ints) -> Ints:
        """Return the place of each step; -1 where no event is seen."""
        place = np.searchsorted(self.steps, steps)
        known = np.append(self.steps, np.iinfo(np.int64).min)[place] == steps
        return np.where(known, place, -1)

    def deviations_of(self, places: Ints, items: Ints) -> Floats:
        """Return the standard deviation of the scores of some items, all of them in pairs, at the places of steps."""
        return self.deviations[np.searchsorted(self.pairs, places * len(self.ids) + items)]

    def save(self, arrays: ArrayFolder, name: str) -> dict[str, Any]:
        """Keep it in mapped files; returns what `open` needs."""
        ipc.write_table(arrays.folder / f"{name}.ids.arrow", ipc.to_arrow(self.ids.to_frame("id")))
        kept = {part: arrays.put(f"{name}.{part}", getattr(self, part)) for part in _ARRAYS}
        return {**kept, "ids": f"{name}.ids.arrow"}

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any]) -> Everybody:
        """Open what `save` kept."""
        ids = ipc.from_arrow(ipc.map_table(arrays.folder / about["ids"]))["id"]
        return cls(**{part: arrays.get(about[part]) for part in _ARRAYS}, ids=ids)


class EverybodyScores:
    """The scores of candidates by one fit, and their standard deviations."""

    def __init__(
        self, fit: Fit, everybody: Everybody, matrix: EmbeddingMatrix, items: pl.Series, *, normalized: bool
    ) -> None:
        self.fit, self.everybody, self.matrix, self.normalized = fit, everybody, matrix, normalized
        self.items = places_of(items, everybody.ids, -1)
        """By num: the place of each item in pairs"""

    def tasks(self, work: ShardWork, statistics: Sequence[FitStatistic]) -> Iterator[Task]:
        """Yield tasks that score the candidates of some steps and items; those of one step and item are scored once."""
        candidates = work.candidates
        values = {s.kind: np.full(len(candidates.rows), np.nan, np.float32) for s in statistics if s.fit == self.fit}
        work.values.update({FitStatistic(kind, self.fit): each for kind, each in values.items()})
        places = self.everybody.places(candidates.times // self.fit.step_us)
        slots = self.matrix.slots_of(candidates.partners, candidates.times)
        known = np.flatnonzero((places >= 0) & (slots != self.matrix.missing))
        if "sd" in values:
            items = self.items[candidates.partners[known]]
            values["sd"][known] = self.everybody.deviations_of(places[known], items)
        if "score" in values:
            order = known[np.lexsort((slots[known], places[known]))]
            bounds = np.append(run_starts(places[order], slots[order]), len(order))
            pairs = max(1, _FLOATS // self.everybody.vectors.shape[1])
            for low in range(0, len(bounds) - 1, pairs):
                yield partial(self._score, values["score"], places, slots, order, bounds[low : low + pairs + 1])

    def _score(self, scores: Values, places: Ints, slots: Nums, order: Ints, bounds: Ints) -> Tally:
        """Score the candidates between the first and the last of some bounds of `order`."""
        began = time.perf_counter()
        first = order[bounds[:-1]]
        rows = self.matrix.exact(slots[first], normalized=self.normalized, bias=self.fit.bias)
        of_pairs = np.vecdot(rows, self.everybody.vectors[places[first]])
        scores[order[bounds[0] : bounds[-1]]] = np.repeat(of_pairs, np.diff(bounds))
        return Tally(seconds={"dual": time.perf_counter() - began})
