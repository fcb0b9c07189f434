"""Technique 3 with torch: items as a model sees them, and its scores of a shard's candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.errors import DataError
from extembed_cli.features.neural.technique import BATCH_EVENTS, FEWEST_ROWS
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.kernels.segments import padded
from extembed_cli.neural import folder, probes
from extembed_cli.neural.config import ModelConfig
from extembed_cli.neural.events import Examples, PaddedRows, examples
from extembed_cli.neural.model import Items, Model, Rows
from extembed_cli.neural.weights import load_model
from extembed_cli.spec.model import NeuralSpec, Spec, time_us
from extembed_cli.system.threads import Mapping

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCK = 1024  # items adapted at a time: a fixed size, so that the bits of each are fixed


# --- shared state ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scorer:
    """A model, and the items of the job as it sees them."""

    config: ModelConfig
    model: Model
    adapted: Tensor
    """(items + 1, D); the last stands for every item that is null"""
    with_bias: ClassVar[bool] = True

    @property
    def dim(self) -> int:
        """Of a user's vector, with the bias."""
        return self.config.architecture.dim + 1

    @property
    def trained_until_us(self) -> int:
        """Time of the newest candidate that it has seen."""
        return time_us(self.config.trained_until)

    @property
    def meaning(self) -> str:
        return f"logit of `{self.config.settings.label}` = embedding · the model's vector of the item + bias"

    def shard(self, spec: Spec, history: History, asked: Candidates, *, with_vectors: bool = False) -> NeuralShard:
        """What it makes of a shard."""
        return NeuralShard(spec, self, history, asked, with_vectors=with_vectors)

    def original(self, vectors: Floats) -> Floats:
        """Vectors of users as they are written."""
        return vectors


def prepare_scorer(
    spec: Spec, group: NeuralSpec, embeddings: dict[str, EmbeddingMatrix], vocabulary: pl.Series, mapped: Mapping
) -> Scorer:
    """Load a model, and adapt the items once."""
    config = folder.read_config(group.model)
    folder.check_fits(group.model, config, spec)
    if group.user_vectors or group.item_vectors:
        config.architecture.check_vectors(group.model)
    model = load_model(group.model, config)
    torch.set_num_threads(1)  # as many batches as there are workers are scored at once
    for name, table in config.tables.items():
        folder.check_dim(group.model, config, name, embeddings[name].vectors.shape[1])
        nums, then = probes.find(vocabulary, table.probes)
        vectors, known = model_vectors(embeddings[name], table.normalize, nums)
        probes.check(f"{group.model}: `{name}`", then[known], vectors[known])
    tables = [(embeddings[name], table.normalize) for name, table in config.tables.items()]
    buckets = id_buckets(vocabulary, config.architecture.id_buckets)
    adapted = adapted_items(model, lambda nums: item_block(tables, buckets, nums), len(buckets), mapped)
    return Scorer(config, model, adapted)


def adapted_items(model: Model, items: Callable[[Ints], Items], count: int, mapped: Mapping = map) -> Tensor:
    """(count, D) the first items as the model sees them, on its device."""
    device = str(model.adapter.linear.weight.device)
    adapted = torch.empty((count, model.a.dim), device=device)

    def adapt(low: int) -> None:
        nums = np.minimum(np.arange(low, low + _BLOCK), count - 1)
        with torch.inference_mode():
            made = model.adapter(items(nums).to(device))[: count - low]
        if not made.isfinite().all():
            raise DataError("an item's vectors are too long for the model's arithmetic: train with `normalize = true`")
        adapted[low : low + _BLOCK] = made

    for _ in mapped(adapt, range(0, count, _BLOCK)):
        pass
    return adapted


def id_buckets(vocabulary: pl.Series, buckets: int) -> Ints:
    """(items + 1) a bucket for each id by its text, the same in every job; 0 for a null item, and without buckets."""
    found = np.zeros(len(vocabulary) + 1, np.int64)
    if buckets:
        for num, item in enumerate(vocabulary.to_list()):
            digest = hashlib.blake2b(probes.id_text(item).encode(), digest_size=8).digest()
            found[num] = int.from_bytes(digest) % buckets
    return found


def model_vectors(table: EmbeddingMatrix, normalized: bool, nums: Ints) -> tuple[Floats, Bools]:
    """(n, V) vectors of some items, of norm 1 where the table says so, and (n) whether there is one."""
    at = table.slots[nums]
    scale = 1.0 if normalized else table.norms[at, None]
    return (table.vectors[at] * scale).astype(np.float32, copy=False), at != table.missing


def item_block(tables: Sequence[tuple[EmbeddingMatrix, bool]], buckets: Ints, nums: Ints) -> Items:
    """Vectors of all tables side by side, and hashes of the ids, of some items."""
    vectors, known = zip(*(model_vectors(table, normalized, nums) for table, normalized in tables), strict=True)
    side_by_side, knowns = np.concatenate(vectors, axis=1), np.stack(known, axis=1)
    return Items(torch.from_numpy(side_by_side), torch.from_numpy(knowns), torch.from_numpy(buckets[nums]))


# --- batch -> columns --------------------------------------------------------------------------------


def as_rows(rows: PaddedRows) -> Rows:
    """As the model takes them."""
    return Rows(
        torch.from_numpy(rows.candidates.astype(np.int64)),
        torch.from_numpy(rows.events.astype(np.int64)),
        torch.from_numpy(rows.members),
        torch.from_numpy(rows.ages),
    )


class NeuralShard:
    """Scores of the candidates of a shard: null where no event is visible, or the item is null."""

    def __init__(
        self, spec: Spec, scorer: Scorer, history: History, asked: Candidates, *, with_vectors: bool = False
    ) -> None:
        config = scorer.config
        self.scorer = scorer
        self.seen = examples(spec, list(config.histories), config.settings.max_events, history, asked)
        self.score = np.full(len(asked.rows), np.nan, np.float32)
        self.with_vectors = with_vectors
        self.vectors = np.full((len(asked.rows) if with_vectors else 0, scorer.dim), np.nan, np.float32)
        """(U, D + 1) by candidate, the bias last; NaN where no event is visible."""
        reads = self.seen.lengths > 0
        if config.architecture.reads_candidate:
            self.leaders = np.flatnonzero(reads & (asked.items >= 0))
        else:  # candidates of one user and time share a state: that of the first
            again = (np.diff(asked.users, prepend=-1) == 0) & (np.diff(asked.times, prepend=0) == 0)
            self.request = np.cumsum(~again) - 1
            self.leaders = np.flatnonzero(reads & ~again)
            self.followers = np.append(np.flatnonzero(~again), len(again))

    def tasks(self) -> Iterator[Callable[[], int]]:
        """Pieces of work; each returns how many candidates it scored."""
        run = self._candidates if self.scorer.config.architecture.reads_candidate else self._requests
        for chosen, length in fixed_batches(self.leaders, self.seen.lengths):
            yield partial(run, chosen, length)

    def _candidates(self, chosen: Ints, length: int) -> int:
        with torch.inference_mode():
            rows = as_rows(self.seen.padded(chosen, length))
            self.score[chosen] = self.scorer.model(self.scorer.adapted, rows).numpy()
        return len(np.unique(chosen))

    def _requests(self, chosen: Ints, length: int) -> int:
        vectors, bias = user_vectors(self.scorer, self.seen, chosen, length)
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
            score = np.einsum("nd,nd->n", vectors[of], self.scorer.adapted.numpy()[items]) + bias[of]
            self.score[at] = np.where(items >= 0, score, np.float32(np.nan))
        return len(mine)


def user_vectors(scorer: Scorer, seen: Examples, chosen: Ints, length: int) -> tuple[Floats, Floats]:
    """Vectors (B, D) and biases (B) of the users of some candidates: score = vector · adapted item + bias."""
    with torch.inference_mode():
        states = scorer.model.state(scorer.adapted, as_rows(seen.padded(chosen, length)))
        vectors, bias = scorer.model.user_vectors(states)
    return vectors.numpy(), bias.numpy()


def fixed_batches(chosen: Ints, lengths: Ints) -> Iterator[tuple[Ints, int]]:
    """Candidates (B) of one padded length together, the longest first; the last batch repeats its last candidate.

    The shape of a batch depends on the length alone, so that no score depends on who shares it.
    """
    length = padded(lengths[chosen])
    order = chosen[np.argsort(-length, kind="stable")]
    length = np.sort(length)[::-1]
    cuts = np.flatnonzero(np.diff(length)) + 1
    for group, size in zip(np.split(order, cuts), np.split(length, cuts), strict=True):
        if not len(group):
            continue
        L = int(size[0])
        B = max(FEWEST_ROWS, BATCH_EVENTS // L // FEWEST_ROWS * FEWEST_ROWS)
        for at in range(0, len(group), B):
            yield group[np.minimum(np.arange(at, at + B), len(group) - 1)], L
