"""Technique 1: decayed statistics of the cosines between a candidate and the user's history."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch
from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.columns import Column, Dtype, Statistic, Technique
from extembed_cli.features.tensors import Tensors, Weights
from extembed_cli.features.visibility import Visible, visible_with
from extembed_cli.kernels import cosines as cos
from extembed_cli.kernels import statistics as stats
from extembed_cli.spec import AggregateSpec, Spec, half_life_suffix, threshold_label
from extembed_cli.watch import Cost

Values = NDArray[np.float64] | NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """A statistic: how its column is called, and what it means.

    In both texts `{h}` is the history and `{e}` the embedding table; `{n}`, `{a}`, `{d}` are the group's name, the
    percentile or threshold, and the decay, as a column's name or as its meaning writes them.
    """

    dtype: Dtype
    name: str
    meaning: str


KINDS = {
    "count": Kind("UInt32", "{h}__{n}count", "visible events of `{h}`"),
    "age_last_s": Kind("Float32", "{h}__{n}age_last_s", "t − newest visible event of `{h}`, seconds"),
    "decayed_count": Kind("Float32", "{h}__{n}decayed_count{d}", "Σ w over visible events of `{h}`, {d}"),
    "vector_count": Kind(
        "UInt32", "{e}__{h}__{n}vector_count", "visible events of `{h}` whose item has a vector in `{e}`"
    ),
    "cos_min": Kind("Float32", "{e}__{h}__{n}cos_min", "smallest c over visible events of `{h}` in `{e}`"),
    "cos_max": Kind("Float32", "{e}__{h}__{n}cos_max", "largest c over visible events of `{h}` in `{e}`"),
    "cos_to_mean": Kind(
        "Float32", "{e}__{h}__{n}cos_to_mean{d}", "cosine of the candidate with Σ w v / Σ w over `{h}` in `{e}`, {d}"
    ),
    "cos_mean": Kind("Float32", "{e}__{h}__{n}cos_mean{d}", "Σ w c / Σ w over `{h}` in `{e}`, {d}"),
    "cos_p": Kind(
        "Float32",
        "{e}__{h}__{n}cos_p{a}{d}",
        "smallest c of `{h}` in `{e}` whose cumulative weight ≥ {a} % of Σ w, {d}",
    ),
    "cos_share_ge": Kind("Float32", "{e}__{h}__{n}cos_share_ge_{a}{d}", "Σ w [c ≥ {a}] / Σ w over `{h}` in `{e}`, {d}"),
}


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: AggregateSpec) -> Iterator[Column]:
    """Columns of one group: the counters of its histories first, then each table with each history."""
    for history in spec.histories_of(group):
        column = partial(_column, group, "counters", history)
        yield column(None, "count")
        yield column(None, "age_last_s")
        for half_life in group.half_lives:
            yield column(None, "decayed_count", half_life)
    for embedding in spec.embeddings_of(group):
        for history in spec.histories_of(group):
            column = partial(_column, group, "aggregate", history, embedding)
            yield column("vector_count")
            yield column("cos_min")
            yield column("cos_max")
            for half_life in group.half_lives:
                yield column("cos_to_mean", half_life)
                yield column("cos_mean", half_life)
                for percentile in group.percentiles:
                    yield column("cos_p", half_life, percentile, f"{percentile:02d}")
                for threshold in group.thresholds:
                    yield column("cos_share_ge", half_life, round(threshold, 2), threshold_label(threshold))


def _column(
    group: AggregateSpec,
    technique: Technique,
    history: str,
    embedding: str | None,
    kind: str,
    half_life: str | None = None,
    argument: float | None = None,
    label: str = "",
) -> Column:
    made = KINDS[kind]
    suffix = "" if half_life is None else half_life_suffix(half_life)
    decay = f"w = weight · 2^(−age / {half_life})" if suffix else "w = weight"
    return Column(
        name=made.name.format(h=history, e=embedding, n=f"{group.name}_" if group.name else "", a=label, d=suffix),
        dtype=made.dtype,
        technique=technique,
        meaning=made.meaning.format(h=history, e=embedding, a=argument, d=decay),
        statistic=Statistic(kind, history, embedding, half_life, argument),
    )


# --- batch -> columns --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The statistics of a job in the order they are computed: by table, history and half-life."""

    counters: dict[str, dict[str, Statistic]]
    """history -> half-life -> decayed_count"""
    cosines: dict[str, dict[str, dict[str | None, list[Statistic]]]]
    """table -> history -> half-life (None: those without weights) -> statistics"""

    @classmethod
    def of(cls, statistics: list[Statistic]) -> Wanted:
        counters: dict[str, dict[str, Statistic]] = defaultdict(dict)
        cosines: dict[str, dict[str, dict[str | None, list[Statistic]]]] = {}
        for s in dict.fromkeys(statistics):
            if s.embedding is not None:
                by_half_life = cosines.setdefault(s.embedding, {}).setdefault(s.history, defaultdict(list))
                by_half_life[s.half_life].append(s)
            elif s.kind == "decayed_count" and s.half_life is not None:
                counters[s.history][s.half_life] = s
        return cls(dict(counters), cosines)


class AggregateShard:
    """Aggregate statistics of one shard: ranges and counts for all candidates at once, cosines batch by batch."""

    def __init__(
        self,
        statistics: list[Statistic],
        embeddings: dict[str, EmbeddingMatrix],
        history: History,
        candidates: Candidates,
        seen: dict[str, Visible],
    ) -> None:
        self.wanted = Wanted.of(statistics)
        self.embeddings = embeddings
        self.history = history
        self.candidates = candidates
        self.seen = seen
        self.thresholds = {table: _thresholds(names) for table, names in self.wanted.cosines.items()}
        self.slots = {name: embeddings[name].slots[history.items] for name in self.wanted.cosines}
        self.with_vector = {
            (table, name): visible_with(seen[name], name, history, self.slots[table] != embeddings[table].missing)
            for table, names in self.wanted.cosines.items()
            for name in names
        }

    def without_cosines(self) -> dict[Statistic, Values]:
        """Counts and ages, from the ranges alone: (Q) each, NaN where undefined."""
        out: dict[Statistic, Values] = {}
        for name, seen in self.seen.items():
            out[Statistic("count", name)] = seen.count
            age = (self.candidates.times - self._times(seen.newest)) / 1e6
            out[Statistic("age_last_s", name)] = np.where(seen.count > 0, age, np.nan)
        for (table, name), seen in self.with_vector.items():
            out[Statistic("vector_count", name, table)] = seen.count
        return out

    def tensors(self, batch: Batch) -> Tensors:
        """What the statistics of one batch share."""
        return Tensors(self.history, self.candidates, self.seen, batch)

    def counters(self, tensors: Tensors) -> Iterator[tuple[Statistic, Values]]:
        """Decayed counts of one batch: (B, C) each."""
        for name, by_half_life in self.wanted.counters.items():
            for half_life, statistic in by_half_life.items():
                yield statistic, tensors.decayed_count(name, half_life)

    def cosines(self, tensors: Tensors, costs: dict[str, Cost]) -> Iterator[tuple[Statistic, Values]]:
        """Statistics of the cosines of one batch: (B, C) each, NaN where undefined."""
        for table, names in self.wanted.cosines.items():
            yield from self._cosine_statistics(tensors, table, names, costs)

    def _cosine_statistics(
        self,
        tensors: Tensors,
        table: str,
        names: dict[str, dict[str | None, list[Statistic]]],
        costs: dict[str, Cost],
    ) -> Iterator[tuple[Statistic, Values]]:
        matrix, batch = self.embeddings[table], tensors.batch
        began = time.perf_counter()
        event_slots = np.where(batch.is_event, self.slots[table][batch.events], matrix.missing)
        asked_slots = matrix.slots[self.candidates.items[batch.candidates]]
        candidates, events = matrix.vectors.take(asked_slots, axis=0), cos.EventVectors(matrix.vectors, event_slots)
        gathered = time.perf_counter()
        cosines = _Cosines(candidates, events, self.thresholds[table], batch.views.shape[1])
        rows = event_slots.size + asked_slots.size
        costs.setdefault("gather", Cost()).add(gathered - began, rows, rows * candidates.shape[-1] * 4)
        costs.setdefault("cosines", Cost()).add(time.perf_counter() - gathered, batch.cosines)
        has_vector = event_slots != matrix.missing
        for name, by_half_life in names.items():
            seen = self.with_vector[table, name]
            defined = (seen.count[batch.candidates] > 0) & (asked_slots != matrix.missing)
            for half_life, statistics in by_half_life.items():
                if half_life is None:
                    low, high = stats.minimum_and_maximum(cosines.ranked, tensors.visible(name, has_vector))
                    found = {Statistic("cos_min", name, table): low, Statistic("cos_max", name, table): high}
                else:
                    found = cosines.weighted(statistics, tensors.weights(name, half_life, seen, has_vector))
                for statistic, value in found.items():
                    yield statistic, np.where(defined, value, np.float32(np.nan))

    def _times(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Times of events; 0 for the position -1 of none."""
        return np.append(self.history.times, 0)[positions]


def _thresholds(names: dict[str, dict[str | None, list[Statistic]]]) -> list[float]:
    """The thresholds of the shares of a table."""
    all_of_them = (s for by_half_life in names.values() for group in by_half_life.values() for s in group)
    return sorted({s.argument for s in all_of_them if s.kind == "cos_share_ge" and s.argument is not None})


class _Cosines:
    """The cosines of a batch with one table, and what all histories and half-lives share of them."""

    def __init__(
        self, candidates: NDArray[np.float32], events: cos.EventVectors, thresholds: list[float], views: int
    ) -> None:
        self.candidates = candidates
        self.events = events
        self.views = views
        self.values = cos.cosines(candidates, events)
        for threshold in thresholds:
            cos.decide(self.values, threshold, candidates, events)

    @cached_property
    def ranked(self) -> stats.Ranked:
        return stats.rank(self.values, self.views)

    def weighted(self, statistics: list[Statistic], weights: Weights) -> dict[Statistic, NDArray[np.float32]]:
        """Weighted statistics, (B, C) each; arbitrary where nothing is visible."""
        found: dict[Statistic, NDArray[np.float32]] = {}
        percentiles = {s: int(s.argument) for s in statistics if s.kind == "cos_p" and s.argument is not None}
        shares = {s: s.argument for s in statistics if s.kind == "cos_share_ge" and s.argument is not None}
        with np.errstate(divide="ignore", invalid="ignore"):
            if percentiles or shares:
                cumulative = stats.cumulative_weights(self.ranked, weights.whole)
                values = stats.weighted_percentiles(self.ranked, cumulative, list(percentiles.values()))
                found.update(zip(percentiles, values, strict=True))
                for s, threshold in shares.items():
                    found[s] = stats.share_at_or_above(self.ranked, cumulative, threshold)
            for s in statistics:
                if s.kind == "cos_mean":
                    found[s] = stats.weighted_mean(weights.single, self.values)
                elif s.kind == "cos_to_mean":
                    found[s] = cos.cosine_to_mean(
                        weights.relative.factor,
                        weights.visible,
                        weights.single,
                        self.values,
                        self.candidates,
                        self.events,
                    )
        return found
