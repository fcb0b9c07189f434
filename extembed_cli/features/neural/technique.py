"""Technique 3: the score of a trained model that reads the history. Only where a spec has one is torch imported."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extembed_cli.arrays import Bools
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.features.neural.explanations import explanation
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.features.technique.protocol import (
    Estimate,
    ItemVectors,
    Memory,
    Prepared,
    ShardWork,
    State,
    Task,
    Technique,
    VectorFile,
)
from extembed_cli.neural import folder
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.events import BATCH_EVENTS, MIN_BATCH_ROWS
from extembed_cli.spec.groups import NeuralGroup
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix
from extembed_cli.system.progress import Cost

if TYPE_CHECKING:
    from extembed_cli.features.neural.scores import NeuralShard, Scorer

# Measured on 2 cores, see docs/decisions/. Batches: 17 to 30 MiB with vectors of 32, 85 with those of 256; 101 with
# 5,000 events of 32.
_BYTES_FOR_TORCH = 130 * 2**20
_BYTES_OF_A_BATCH, _COPIES_OF_A_BATCH = 20 * 2**20, 10
_SECONDS_PER_SCORE = 30e-6
_NOT_NEWER = "not_newer_than_training"


class Neural(Technique):
    """Scores of trained models."""

    group = NeuralGroup
    step = "neural"
    is_trained = True

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(NeuralGroup):
            config = folder.read_config(group.model)
            folder.check_fits(group, config, spec)
            # With one as-of time for all rows, a row may be scored by a model that was trained on it.
            yield _column(group, config, out_of_time=config.is_out_of_time and spec.as_of is None)

    def matrices(self, spec: Spec) -> Iterator[Matrix]:
        for group in spec.of(NeuralGroup):
            yield from map(spec.matrix, sorted(_tables_of(group, spec)))

    def models(self, spec: Spec) -> dict[str, str]:
        return {
            column.name: statistic.folder
            for column in self.columns(spec)
            if isinstance(statistic := column.statistic, Trained)
        }

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version  # noqa: PLC0415  slow to import

        return {"torch": version("torch")}

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> NeuralState:
        folder.need_extra()
        from extembed_cli.features.neural.scores import prepare_scorer  # noqa: PLC0415

        tables = _as_tables_say(spec, prepared)
        return _state(
            spec,
            statistics,
            {
                group.model: prepare_scorer(spec, group, tables, prepared.vocabulary.ids, prepared.mapped)
                for group in spec.of(NeuralGroup)
            },
            {name: matrix.with_vector[:-1] for name, matrix in tables.items()},
        )

    def open(
        self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared, arrays: ArrayFolder, about: dict[str, Any]
    ) -> NeuralState:
        folder.need_extra()
        from extembed_cli.features.neural.scores import Scorer  # noqa: PLC0415

        return _state(
            spec,
            statistics,
            {model: Scorer.open(arrays, kept) for model, kept in about.items()},
            {name: matrix.with_vector[:-1] for name, matrix in _as_tables_say(spec, prepared).items()},
        )

    def memory(self, spec: Spec, items: int) -> Memory:
        configs = [folder.read_config(model) for model in {group.model for group in spec.of(NeuralGroup)}]
        return Memory(
            libraries=_BYTES_FOR_TORCH,
            state=sum(4 * items * config.architecture.dim * len(config.folds) for config in configs),
            batch=max((_batch_bytes(config) for config in configs), default=0),
        )

    def seconds_per_candidate(self, spec: Spec, events: float) -> float:
        return len(spec.of(NeuralGroup)) * _SECONDS_PER_SCORE

    def estimate(self, spec: Spec, work: ShardWork, dims: Mapping[str, int]) -> Estimate:
        return Estimate(len(spec.of(NeuralGroup)) * len(work.candidates.rows) * _SECONDS_PER_SCORE)

    def warnings(
        self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]], candidates: int
    ) -> Iterator[str]:
        count = tally.counts.get(_NOT_NEWER, 0)
        if count:
            yield (
                f"{count:,} of {candidates:,} candidates are not newer than what a neural model "
                "was trained on, which flatters their scores: do not train or test a ranker on them (`evaluate` does "
                "not)"
            )


@dataclass(frozen=True)
class Trained:
    """A trained model: what its column holds."""

    folder: str
    weights: str
    """Their SHA-256"""


def _column(group: NeuralGroup, config: ModelConfig, *, out_of_time: bool) -> Column:
    histories, tables = (", ".join(f"`{name}`" for name in names) for names in (config.histories, config.tables))
    settings, read = config.settings, ", ".join(f"`{value.expression.meaning}`" for value in config.values)
    values = f" with {read}" if read else ""
    return Column(
        name=f"neural_{group.name + '_' if group.name else ''}score",
        dtype="Float32",
        technique="neural",
        meaning=f"logit of `{settings.label}` by a model (`{config.architecture.encoder}`) over the newest "
        f"{settings.max_events} visible events of {histories} in {tables}{values}, trained on "
        + (
            f"candidates before the one that it scores ({len(config.folds)} models)"
            if out_of_time
            else f"candidates until {config.trained_until}"
        ),
        statistic=Trained(group.model, config.weights_sha256),
        trained_until=None if out_of_time else config.trained_until,
        out_of_time=out_of_time,
    )


def _as_tables_say(spec: Spec, prepared: Prepared) -> dict[str, EmbeddingMatrix]:
    """Return the vectors by table that are centred as their table says."""
    return {m.table: vectors for m, vectors in prepared.embeddings.items() if m == spec.matrix(m.table)}


def _tables_of(group: NeuralGroup, spec: Spec) -> set[str]:
    """Return the tables of the spec that a model reads."""
    return set(folder.read_config(group.model).tables) & set(spec.embeddings)


def _batch_bytes(config: ModelConfig) -> int:
    events = max(BATCH_EVENTS, MIN_BATCH_ROWS * config.settings.max_events)
    return _BYTES_OF_A_BATCH + 4 * _COPIES_OF_A_BATCH * events * config.architecture.dim


def _state(
    spec: Spec, statistics: Sequence[Hashable], scorers: dict[str, Scorer], has_vector: dict[str, Bools]
) -> NeuralState:
    groups = [group for group in spec.of(NeuralGroup) if group.model in scorers]
    return NeuralState(
        scorers,
        [statistic for statistic in statistics if isinstance(statistic, Trained)],
        {group.user_vectors: scorers[group.model] for group in groups if group.user_vectors is not None},
        {group.item_vectors: scorers[group.model] for group in groups if group.item_vectors is not None},
        has_vector,
    )


@dataclass(frozen=True)
class NeuralState(State):
    """The models that score."""

    scorers: dict[str, Scorer]
    """By folder"""
    trained: list[Trained]
    user_files: dict[str, Scorer]
    """The models whose user vectors are written, by path"""
    item_files: dict[str, Scorer]
    has_vector: dict[str, Bools]
    """(items) by table"""

    @property
    def passes(self) -> int:
        return len(self.trained) + len(self.user_files)

    def vector_files(self) -> Mapping[str, VectorFile]:
        return self.user_files

    def item_vectors(self) -> Iterator[ItemVectors]:
        for path, scorer in self.item_files.items():
            has_vector = np.any([self.has_vector[table] for table in scorer.config.tables], axis=0)
            yield ItemVectors(
                path,
                list(scorer.config.tables),
                has_vector,
                scorer.adapted[-1].numpy()[:-1][has_vector],
                "what a user's vector of the same model is multiplied with",
            )

    def save(self, arrays: ArrayFolder) -> dict[str, Any]:
        return {
            model: scorer.save(arrays, f"model-{place}", Path(model))
            for place, (model, scorer) in enumerate(self.scorers.items())
        }

    def tasks(self, work: ShardWork) -> Iterator[Task]:
        """Yield the tasks of the candidates' scores, then of the users' vectors."""
        from extembed_cli.features.neural.scores import NeuralShard  # noqa: PLC0415

        single = [t for t in self.trained if not self.scorers[t.folder].config.is_out_of_time]
        if single:
            until = max(self.scorers[trained.folder].trained_until_us for trained in single)
            count = int(np.count_nonzero(work.candidates.times <= until))
            yield lambda: Tally(counts={_NOT_NEWER: count})
        for trained in self.trained:
            shard = NeuralShard(work.spec, self.scorers[trained.folder], work.history, work.candidates)
            work.values[trained] = shard.score
            yield from _tasks(shard, 1.0)
        for path, scorer in self.user_files.items():
            shard = NeuralShard(work.spec, scorer, work.history, work.owners, with_vectors=True)
            work.vectors[path] = shard.vectors
            yield from _tasks(shard, work.passes_per_owner)

    def explain(self, work: ShardWork, place: int, statistics: Sequence[Hashable]) -> dict[Hashable, Explanation]:
        candidate = ExplainedCandidate(work, place)
        return {
            t: explanation(candidate, t.folder, self.scorers[t.folder]) for t in statistics if isinstance(t, Trained)
        }


def _tasks(shard: NeuralShard, passes_per_row: float) -> Iterator[Task]:
    """Yield tasks that compute scores and vectors, batch by batch, into the shard's own arrays."""

    def run(score: Callable[[], int]) -> Tally:
        began = time.perf_counter()
        rows = score()
        seconds = time.perf_counter() - began
        return Tally(passes=passes_per_row * rows, seconds={"neural": seconds}, stages={"score": Cost(seconds, rows)})

    return (partial(run, task) for task in shard.tasks())
