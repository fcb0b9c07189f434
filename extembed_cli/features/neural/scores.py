"""Technique 3 with torch: the scores of a shard's candidates, and vectors of its users."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from extembed_cli.arrays import Floats, Ints
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.neural import folder, probes
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.events import BATCH_EVENTS, Reading, build_examples, fixed_batches
from extembed_cli.neural.items import adapted_items, id_buckets, item_block, model_vectors
from extembed_cli.neural.model import ExampleBatch, Model
from extembed_cli.neural.weights import load_models, read_weights
from extembed_cli.spec.durations import time_us
from extembed_cli.spec.groups import NeuralGroup
from extembed_cli.spec.model import Spec
from extembed_cli.system.threads import Mapping

# --- once --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scorer:
    """The trained models of a folder, and the items of the job in the space of each."""

    config: ModelConfig
    models: list[Model]
    """Oldest first"""
    adapted: list[Tensor]
    """(items + 1, D) for each model; the last stands for every item that is null"""
    with_bias: ClassVar[bool] = True

    @property
    def dim(self) -> int:
        """Numbers of a user's vector, the bias included."""
        return self.config.architecture.dim + 1

    @property
    def trained_until_us(self) -> int:
        """Time of the newest candidate that the newest model was trained on (us)."""
        return time_us(self.config.trained_until)

    def model_at(self, times: Ints) -> Ints:
        """Return for each time the newest model whose training ended before it, or -1; a single one is for all."""
        if not self.config.is_out_of_time:
            return np.zeros(len(times), np.int64)
        ends = np.array([time_us(fold.trained_until) for fold in self.config.folds])
        return np.searchsorted(ends, times, "left") - 1

    @property
    def meaning(self) -> str:
        return f"logit of `{self.config.settings.label}` = embedding · the model's vector of the item + bias"

    def original(self, vectors: Floats) -> Floats:
        """Return the vectors of users as they are written."""
        return vectors

    def save(self, arrays: ArrayFolder, name: str, model: Path) -> dict[str, Any]:
        """Keep it and the folder of its model; returns what `open` needs."""
        kept = arrays.folder / name
        kept.mkdir(exist_ok=True)
        (kept / folder.CONFIG).write_text(json.dumps(folder.config_json(self.config)), encoding="utf-8")
        (kept / folder.WEIGHTS).write_bytes(read_weights(str(model), self.config))
        adapted = [arrays.put(f"{name}.adapted-{fold}", items.numpy()) for fold, items in enumerate(self.adapted)]
        return {"model": name, "adapted": adapted}

    @classmethod
    def open(cls, arrays: ArrayFolder, about: dict[str, Any]) -> Scorer:
        """Open what `save` kept."""
        model = str(arrays.folder / about["model"])
        config = folder.read_config(model)
        torch.set_num_threads(1)  # as many batches as there are workers are scored at once
        adapted = [torch.from_numpy(arrays.get(kept, writable=True)) for kept in about["adapted"]]
        return cls(config, load_models(model, config), adapted)


def prepare_scorer(
    spec: Spec, group: NeuralGroup, embeddings: dict[str, EmbeddingMatrix], vocabulary: pl.Series, mapped: Mapping
) -> Scorer:
    """Load a model, and adapt the items once."""
    config = folder.read_config(group.model)
    folder.check_fits(group, config, spec)
    if group.user_vectors or group.item_vectors:
        config.architecture.check_vectors(group.model)
    models = load_models(group.model, config)
    torch.set_num_threads(1)  # as many batches as there are workers are scored at once
    for name, table in config.tables.items():
        folder.check_dim(group.model, config, name, embeddings[name].vectors.shape[1])
        nums, then = probes.find(vocabulary, table.probes)
        vectors, known = model_vectors(embeddings[name], table.normalize, nums)
        probes.check(f"{group.model}: `{name}`", then[known], vectors[known])
    tables = [(embeddings[name], table.normalize) for name, table in config.tables.items()]
    buckets = id_buckets(vocabulary, config.architecture.id_buckets)
    items = partial(item_block, tables, buckets)
    return Scorer(config, models, [adapted_items(model, items, len(buckets), mapped) for model in models])


# --- per slice of users ------------------------------------------------------------------------------


class NeuralShard:
    """Scores of the candidates of a shard: null where no event is visible, or the item is null."""

    def __init__(
        self, spec: Spec, scorer: Scorer, history: History, candidates: Candidates, *, with_vectors: bool = False
    ) -> None:
        config = scorer.config
        self.scorer = scorer
        reading = Reading(list(config.histories), config.settings.max_events, config.values)
        self.seen = build_examples(spec, reading, history, candidates)
        self.score = np.full(len(candidates.rows), np.nan, np.float32)
        self.with_vectors = with_vectors
        self.vectors = np.full((len(candidates.rows) if with_vectors else 0, scorer.dim), np.nan, np.float32)
        """(U, D + 1) by candidate, the bias last; NaN where no event is visible."""
        self.model = np.full(len(candidates.rows), len(scorer.models) - 1)
        """(Q) of each candidate; that of user vectors is the newest"""
        if not with_vectors:
            self.model = scorer.model_at(candidates.times)
        reads = (self.seen.lengths > 0) & (self.model >= 0)
        if config.architecture.reads_candidate:
            self.leaders = np.flatnonzero(reads & (candidates.partners >= 0))
        else:  # candidates of one user and time share a state: that of the first
            again = (np.diff(candidates.owners, prepend=-1) == 0) & (np.diff(candidates.times, prepend=0) == 0)
            self.request = np.cumsum(~again) - 1
            self.leaders = np.flatnonzero(reads & ~again)
            self.followers = np.append(np.flatnonzero(~again), len(again))

    def tasks(self) -> Iterator[Callable[[], int]]:
        """Yield pieces of work; each returns the number of candidates that it scored."""
        run = self._candidates if self.scorer.config.architecture.reads_candidate else self._requests
        models = self.model[self.leaders]
        for fold in np.unique(models).tolist():
            for chosen, length in fixed_batches(self.leaders[models == fold], self.seen.lengths):
                yield partial(run, fold, chosen, length)

    def _candidates(self, fold: int, chosen: Ints, length: int) -> int:
        with torch.inference_mode():
            rows = ExampleBatch.of(self.seen.padded(chosen, length))
            self.score[chosen] = self.scorer.models[fold](self.scorer.adapted[fold], rows).numpy()
        return len(np.unique(chosen))

    def _requests(self, fold: int, chosen: Ints, length: int) -> int:
        model, adapted = self.scorer.models[fold], self.scorer.adapted[fold]
        vectors, bias = user_vectors(model, adapted, ExampleBatch.of(self.seen.padded(chosen, length)))
        leaders, place = np.unique(chosen, return_index=True)
        if self.with_vectors:
            self.vectors[leaders] = np.concatenate([vectors[place], bias[place, None]], axis=1)
            return len(leaders)
        request = self.request[leaders]
        first, last = self.followers[request], self.followers[request + 1]
        owner = np.repeat(place, last - first)
        mine = np.repeat(first - np.cumsum(last - first) + (last - first), last - first) + np.arange(len(owner))
        for low in range(0, len(mine), BATCH_EVENTS):
            at, of = mine[low : low + BATCH_EVENTS], owner[low : low + BATCH_EVENTS]
            items = self.seen.items[at]
            score = np.einsum("nd,nd->n", vectors[of], adapted.numpy()[items]) + bias[of]
            self.score[at] = np.where(items >= 0, score, np.float32(np.nan))
        return len(mine)


def user_vectors(model: Model, adapted: Tensor, rows: ExampleBatch) -> tuple[Floats, Floats]:
    """Return the vectors (B, D) and biases (B) of some candidates' users: score = vector · adapted item + bias."""
    with torch.inference_mode():
        vectors, bias = model.user_vectors(model.state(adapted, rows))
    return vectors.numpy(), bias.numpy()
