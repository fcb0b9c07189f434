"""The effects that each encoder can learn, and the batches of a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extembed_cli.neural.config import Architecture, TrainingSettings
from extembed_cli.neural.events import Examples
from extembed_cli.neural.model import ExampleBatch, Items, Model
from extembed_cli.neural.training.dataset import Dataset
from extembed_cli.neural.training.trainer import Trainer


def order_world(rng: np.random.Generator, n: int, clusters: int = 6) -> tuple[Dataset, NDArray[np.float32]]:
    """Return data: a candidate is liked if it has the cluster of the newest event; others have that of an older one."""
    length = 8
    of_item = np.arange(60) % clusters
    vectors = np.eye(clusters, dtype=np.float32)[of_item] + 0.1 * rng.standard_normal((60, clusters)).astype(np.float32)
    events = rng.integers(0, 60, (n, length)).astype(np.int32)
    liked = rng.random(n) < 0.5
    cluster = np.where(liked, of_item[events[:, -1]], of_item[events[np.arange(n), rng.integers(0, length - 1, n)]])
    candidates = (cluster + clusters * rng.integers(0, 60 // clusters, n)).astype(np.int32)
    labels = (of_item[candidates] == of_item[events[:, -1]]).astype(np.float32)
    times = np.full(n, 10**12)
    ages = 60_000_000 * np.arange(length, 0, -1)
    end = length * np.arange(1, n + 1)
    examples = Examples(
        rows=np.arange(n),
        times=times,
        items=candidates,
        starts=(end - length)[:, None],
        ends=end[:, None],
        max_events=length,
        lengths=np.full(n, length),
        history_events=[np.arange(n * length)],
        event_items=events.ravel(),
        event_times=(times[:, None] - ages).ravel(),
    )
    cut = n * 3 // 4
    return Dataset(examples, labels, np.arange(n), np.arange(cut), np.arange(cut, n)), vectors


def learned(encoder: str, rows: int = 6000) -> float:
    """Return the AUC of an encoder on data where the newest event decides."""
    data, vectors = order_world(np.random.default_rng(3), rows)
    torch.manual_seed(0)
    model = Model(Architecture(encoder=encoder, widths=(6,), histories=1, dim=16, dropout=0.0))
    trainer = fitted(model, data, vectors, lr=5e-3)
    return max(epoch.valid_auc for epoch in trainer.epochs)


def trainer_of(model: Model, data: Dataset, vectors: NDArray[np.float32], lr: float, epochs: int = 12) -> Trainer:
    """Return a trainer on items that all have a vector."""

    def of(nums: NDArray[np.int64]) -> Items:
        known = torch.ones((len(nums), 1), dtype=torch.bool)
        return Items(torch.from_numpy(vectors[nums]), known, torch.zeros(len(nums), dtype=torch.long))

    torch.set_num_threads(1)  # as in a training
    how = TrainingSettings(label="label", epochs=epochs, lr=lr, patience=12)
    return Trainer(model, data, how, of, len(vectors))


def fitted(model: Model, data: Dataset, vectors: NDArray[np.float32], lr: float) -> Trainer:
    """Train a model for twelve epochs."""
    trainer = trainer_of(model, data, vectors, lr)
    while not trainer.finished:
        trainer.run_epoch(lambda count: None, lambda: False)
    return trainer


@pytest.mark.soak
@pytest.mark.parametrize(("encoder", "rows"), [("gru", 2500), ("attention", 6000), ("transformer", 6000)])
def test_an_effect_of_order_is_learned(encoder: str, rows: int) -> None:
    assert learned(encoder, rows) > 0.95


@pytest.mark.soak
def test_means_over_weeks_do_not_see_the_order() -> None:
    assert learned("mean") < 0.85


@pytest.mark.soak
def test_a_half_life_is_learned() -> None:
    """The labels depend on the share of the candidate's cluster, with a half-life of 12 days."""
    rng = np.random.default_rng(8)
    n, length, clusters, day = 4000, 10, 4, 86_400_000_000
    of_item = np.arange(40) % clusters
    vectors = np.eye(clusters, dtype=np.float32)[of_item]
    events = rng.integers(0, 40, (n, length)).astype(np.int32)
    ages = -np.sort(-rng.integers(1, 90 * day, (n, length)), axis=1)
    weights = 2.0 ** (-ages / (12 * day))
    candidates = rng.integers(0, 40, n).astype(np.int32)
    share = (weights * (of_item[events] == of_item[candidates][:, None])).sum(1) / weights.sum(1)
    labels = (rng.random(n) < 1 / (1 + np.exp(-12 * (share - 0.25)))).astype(np.float32)
    end, times = length * np.arange(1, n + 1), np.full(n, 10**15)
    examples = Examples(
        rows=np.arange(n), times=times, items=candidates, starts=(end - length)[:, None], ends=end[:, None],
        max_events=length, lengths=np.full(n, length), history_events=[np.arange(n * length)],
        event_items=events.ravel(), event_times=(times[:, None] - ages).ravel(),
    )  # fmt: skip
    data = Dataset(examples, labels, np.arange(n), np.arange(n * 3 // 4), np.arange(n * 3 // 4, n))

    torch.manual_seed(0)
    model = Model(Architecture(encoder="mean", widths=(clusters,), histories=1, dim=8, half_lives=1, dropout=0.0))
    fitted(model, data, vectors, lr=2e-2)
    days = 2 ** model.encoder.log2_half_life.item() / 86_400
    assert 8 < days < 18


@pytest.mark.soak
def test_the_weights_that_are_kept_are_a_decayed_mean_over_steps() -> None:
    data, vectors = order_world(np.random.default_rng(5), 3000)
    torch.manual_seed(0)
    model = Model(Architecture(encoder="mean", widths=(6,), histories=1, dim=8))
    trainer = trainer_of(model, data, vectors, lr=1e-2, epochs=1)
    after_steps: list[np.ndarray] = []

    def note(_: int) -> None:
        after_steps.append(model.adapter.linear.weight.detach().numpy().astype(np.float64))

    trainer.run_epoch(note, lambda: False)
    mean = after_steps[0]
    for steps, weights in enumerate(after_steps[1:], 1):
        decay = min(0.99, steps / (steps + 9))
        mean = decay * mean + (1 - decay) * weights
    kept = trainer.trained.weights["adapter.linear.weight"].numpy()
    np.testing.assert_allclose(kept, mean, rtol=1e-5, atol=1e-7)
    assert len(after_steps) == 9
    assert np.abs(after_steps[-1] - kept).max() > 1e-4


def test_batches_can_be_whole_requests() -> None:
    data, _ = order_world(np.random.default_rng(4), 400)
    data = replace(data, groups=np.repeat(np.arange(80), 5))
    batches = data.batches(0, 0, 32, whole_groups=True)
    assert sorted(np.concatenate(batches).tolist()) == data.train.tolist()
    for batch in batches:
        assert all((data.groups[batch] == group).sum() == 5 for group in np.unique(data.groups[batch]))
    again = data.batches(0, 0, 32, whole_groups=True)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert ExampleBatch.of(data.examples.padded(batches[0], 8)).visible.all()
