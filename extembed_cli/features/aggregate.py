"""Technique 1: decayed statistics of the cosines between a candidate and the user's history."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.batches import Batch, Tiles, tiles
from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.data.histories import Candidates, History
from extembed_cli.features.columns import Column, Dtype, Statistic, Technique
from extembed_cli.features.tensors import Tensors, Weights
from extembed_cli.features.visibility import Seen, visible
from extembed_cli.kernels import cosines as cos
from extembed_cli.kernels import statistics as stats
from extembed_cli.kernels.sums import sum_of_products
from extembed_cli.spec import AggregateSpec, Spec, half_life_suffix, threshold_label
from extembed_cli.watch import Cost

Ints = NDArray[np.int64]
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


ByHalfLife = dict[str | None, list[Statistic]]
"""Statistics of one table by half-life; None: those without weights."""


@dataclass
class Group:
    """Statistics of one list of events: counters, and cosines with tables that have all its vectors."""

    history: str
    seen: Seen
    counters: list[Statistic] = field(default_factory=list)
    tables: dict[str, ByHalfLife] = field(default_factory=dict)

    def tiles(self, candidates: Candidates, lengths: Ints) -> Tiles:
        """The candidates that see anything, with what they see; lengths (U) of the users' whole histories."""
        return tiles(candidates.indptr, self.seen.start, self.seen.end, lengths, candidates.times)


def grouped(
    statistics: list[Statistic], seen: dict[str, Seen], with_vector: Callable[[str], NDArray[np.bool_]]
) -> list[Group]:
    """Statistics by the events that they are of: those of a history, or its part with a vector in a table.

    seen by history; with_vector gives (N) flags of the shard's events by table.
    """
    groups: dict[int, Group] = {}
    parts = dict.fromkeys((s.history, s.embedding) for s in statistics)
    flags = {table: with_vector(table) for table in dict.fromkeys(t for _, t in parts if t is not None)}
    for history, table in parts:
        part = seen[history] if table is None else seen[history].only(flags[table])
        group = groups.setdefault(id(part), Group(history, part))
        if table is not None:
            group.tables[table] = defaultdict(list)
        for s in statistics:
            if (s.history, s.embedding) == (history, table):
                if table is not None:
                    group.tables[table][s.half_life].append(s)
                elif s.kind == "decayed_count":
                    group.counters.append(s)
    return [group for group in groups.values() if group.counters or group.tables]


def expected_cosines(spec: Spec, history: History, candidates: Candidates) -> tuple[int, int]:
    """How many cosines a shard takes, and how many times one is weighted, were there a vector for every item."""
    made = (column.statistic for group in spec.aggregate for column in columns(spec, group))
    statistics = [s for s in dict.fromkeys(made) if isinstance(s, Statistic)]
    names = dict.fromkeys(s.history for s in statistics)
    seen = {name: visible(spec, name, history, candidates) for name in names}
    everything = np.ones(len(history.times), np.bool_)
    cosines = weighted = 0
    for group in grouped(statistics, seen, lambda table: everything):
        cut = group.tiles(candidates, np.diff(history.indptr))
        each = int(cut.cosines.sum())
        cosines += each * len(group.tables)
        weighted += each * sum(len(by_half_life) - (None in by_half_life) for by_half_life in group.tables.values())
    return cosines, weighted


class AggregateShard:
    """Aggregate statistics of one shard: ranges and counts for all candidates at once, cosines batch by batch."""

    def __init__(
        self,
        statistics: list[Statistic],
        embeddings: dict[str, EmbeddingMatrix],
        history: History,
        candidates: Candidates,
        seen: dict[str, Seen],
    ) -> None:
        self.embeddings = embeddings
        self.history = history
        self.candidates = candidates
        self.seen = seen
        self.statistics = statistics
        self.slots = {
            name: embeddings[name].slots[history.items]
            for name in dict.fromkeys(s.embedding for s in statistics if s.embedding is not None)
        }
        self.groups = grouped(statistics, seen, lambda table: self.slots[table] != embeddings[table].missing)

    def without_cosines(self) -> dict[Statistic, Values]:
        """Counts and ages, from the ranges alone: (Q) each, NaN where undefined."""
        out: dict[Statistic, Values] = {}
        for name, seen in self.seen.items():
            out[Statistic("count", name)] = seen.count
            age = (self.candidates.times - seen.newest(self.history.times)) / 1e6
            out[Statistic("age_last_s", name)] = np.where(seen.count > 0, age, np.nan)
        for group in self.groups:
            for table in group.tables:
                out[Statistic("vector_count", group.history, table)] = group.seen.count
        return out

    def tensors(self, group: Group, batch: Batch) -> Tensors:
        """What the statistics of one batch share."""
        return Tensors(self.history, self.candidates, group.seen, batch)

    def counters(self, group: Group, tensors: Tensors) -> Iterator[tuple[Statistic, Values]]:
        """Decayed counts of one batch: (B, C) each."""
        for s in group.counters:
            if s.half_life is not None:
                yield s, tensors.decayed_count(s.half_life)

    def cosines(self, group: Group, tensors: Tensors, costs: dict[str, Cost]) -> Iterator[tuple[Statistic, Values]]:
        """Statistics of the cosines of one batch: (B, C) each, NaN where undefined."""
        for table, by_half_life in group.tables.items():
            matrix, batch = self.embeddings[table], tensors.batch
            began = time.perf_counter()
            event_slots = np.where(batch.is_event, self.slots[table][tensors.events], matrix.missing)
            asked_slots = matrix.slots[self.candidates.items[batch.candidates]]
            vectors = matrix.vectors.take(asked_slots, axis=0)
            events = cos.EventVectors(matrix.vectors, event_slots, batch.block)
            gathered = time.perf_counter()
            values = cos.cosines(vectors, events)
            thresholds = _thresholds(by_half_life)
            for threshold in thresholds:
                cos.decide(values, threshold, vectors, events)
            multiplied = time.perf_counter()
            rows = event_slots.size + asked_slots.size
            costs.setdefault("gather", Cost()).add(gathered - began, rows, rows * vectors.shape[-1] * 4)
            costs.setdefault("cosines", Cost()).add(multiplied - gathered, batch.cosines)
            cosines = _Cosines(values, thresholds, vectors, events, tensors)
            defined = (tensors.count > 0) & (asked_slots != matrix.missing)
            for half_life, statistics in by_half_life.items():
                if half_life is None:
                    found = cosines.extremes(statistics)
                else:
                    found = cosines.weighted(statistics, tensors.weights(half_life))
                for statistic, value in found:
                    yield statistic, np.where(defined, value, np.float32(np.nan))


def _thresholds(by_half_life: ByHalfLife) -> list[float]:
    """The thresholds of the shares of a table."""
    statistics = (s for group in by_half_life.values() for s in group)
    return sorted({s.argument for s in statistics if s.kind == "cos_share_ge" and s.argument is not None})


class _Cosines:
    """The cosines of a batch with one table, and what all half-lives share of them."""

    def __init__(
        self,
        values: NDArray[np.float32],
        thresholds: list[float],
        candidates: NDArray[np.float32],
        events: cos.EventVectors,
        tensors: Tensors,
    ) -> None:
        self.candidates = candidates
        self.events = events
        self.visible = tensors.visible
        self.count = np.broadcast_to(tensors.count, candidates.shape[:2])
        length = tensors.batch.length
        self.ranked = stats.rank(values[..., :length], tensors.hidden[..., :length])
        self.at_or_above = {threshold: self.ranked.at_or_above(threshold) for threshold in thresholds}
        np.copyto(values, 0, where=tensors.hidden)
        self.values = values

    def extremes(self, statistics: list[Statistic]) -> Iterator[tuple[Statistic, NDArray[np.float32]]]:
        """Smallest and largest cosine, (B, C) each; arbitrary where nothing is visible."""
        ranks = {"cos_min": np.zeros_like(self.count), "cos_max": np.maximum(self.count - 1, 0)}
        for s in statistics:
            if s.kind in ranks:
                yield s, self.ranked.values(ranks[s.kind])

    def weighted(
        self, statistics: list[Statistic], weights: Weights
    ) -> Iterator[tuple[Statistic, NDArray[np.float32]]]:
        """Weighted statistics, (B, C) each; arbitrary where nothing is visible."""
        percentiles = [s for s in statistics if s.kind == "cos_p"]
        shares = [s for s in statistics if s.kind == "cos_share_ge"]
        if percentiles or shares:
            total = weights.whole_total
            cumulative = stats.cumulative_weights(self.ranked, weights.whole)
            wanted = [int(s.argument or 0) for s in percentiles]
            yield from zip(percentiles, stats.weighted_percentiles(self.ranked, cumulative, total, wanted), strict=True)
            for s in shares:
                yield s, stats.share_from(self.ranked, cumulative, total, self.at_or_above[s.argument or 0.0])
        # Of all views even where one row serves them: batch mates decide whether it does, and not how a sum is taken.
        single = np.broadcast_to(weights.single, self.visible.shape)
        weighted = sum_of_products(single, self.values, self.events.k)
        for s in statistics:
            if s.kind == "cos_mean":
                yield s, cos.clipped(weighted / weights.total)
            elif s.kind == "cos_to_mean":
                factor = weights.relative.factor
                yield s, cos.cosine_to_mean(factor, self.visible, weighted, self.candidates, self.events)
