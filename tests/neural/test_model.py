"""The model: shapes, gradients, and invariance to padding and other rows of a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extembed_cli.neural.config import Architecture
from extembed_cli.neural.events import fixed_batches
from extembed_cli.neural.model import ExampleBatch, Items, Model, dropped
from extembed_cli.neural.training.trainer import softmax_loss
from extembed_cli.neural.training.whitening import whitening

ENCODERS = ("mean", "gru", "attention", "transformer")
B, L, H, V, N = 6, 9, 2, 12, 20
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
torch.set_num_threads(1)  # as in trainings and runs


def architecture(encoder: str, **more: object) -> Architecture:
    return Architecture(encoder=encoder, widths=(8, 4), histories=H, dim=16, id_buckets=8, values=2, **more)


def items(rng: np.random.Generator) -> Items:
    known = torch.from_numpy(rng.random((N, 2)) < 0.8)
    return Items(
        torch.from_numpy(rng.standard_normal((N, V)).astype(np.float32)), known, torch.from_numpy(rng.integers(0, 8, N))
    )


def rows(rng: np.random.Generator) -> ExampleBatch:
    """Return rows with 1 to L events."""
    count = np.array([L, L - 1, 5, 3, 2, 1])
    members = (rng.random((B, L, H)) < 0.6) | (np.arange(H) == 0)
    members &= (np.arange(L) < count[:, None])[:, :, None]
    ages = -np.sort(-rng.integers(1, 10**8, (B, L)).astype(np.float64))
    return ExampleBatch(
        torch.from_numpy(rng.integers(0, N, B)),
        torch.from_numpy(rng.integers(0, N, (B, L))),
        torch.from_numpy(members),
        torch.from_numpy(ages),
        torch.from_numpy(values(rng, (B, L))),
    )


def values(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return two values of each event, some of them null, then which are known."""
    known = rng.random((*shape, 2)) < 0.8
    return np.concatenate([known * rng.standard_normal((*shape, 2)), known], axis=2, dtype=np.float32)


def scores(model: Model, of: Items, batch: ExampleBatch) -> torch.Tensor:
    with torch.inference_mode():
        return model(model.adapter(of), batch)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_has_a_gradient(encoder: str) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = Model(architecture(encoder, layers=2, recency_mask_share=0.0))
    of, batch = items(rng), rows(rng)
    noise = torch.Generator().manual_seed(0)
    logits = model(model.adapter(of, noise), batch, noise)
    assert logits.shape == (B,)
    logits.square().sum().backward()
    gradients = {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}
    without = {
        name for name, _ in model.named_parameters() if name not in gradients or not gradients[name].isfinite().all()
    }
    assert not without
    blind = {name for name, gradient in gradients.items() if not gradient.abs().sum() > 0}
    assert blind <= {"encoder.unit.2.bias"}  # a softmax does not change if a constant is added to all


@pytest.mark.parametrize("encoder", ENCODERS)
@given(seed=st.integers(0, 10**6))
def test_padding_has_no_influence(encoder: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model, of, batch = Model(architecture(encoder)), items(rng), rows(rng)
    padding = ~batch.visible
    other = replace(
        batch,
        events=torch.where(padding, torch.from_numpy(rng.integers(0, N, (B, L))), batch.events),
        ages=torch.where(padding, torch.from_numpy(rng.random((B, L)) * 1e7), batch.ages),
        values=torch.where(padding[:, :, None], torch.from_numpy(values(rng, (B, L))), batch.values),
    )
    assert torch.equal(scores(model, of, batch), scores(model, of, other))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_a_score_does_not_depend_on_the_batch(encoder: str, length: int) -> None:
    """A score has the same bits at any place in a batch, and with any other candidates."""
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    model, of = Model(architecture(encoder)), items(rng)
    n = 300
    candidates = ExampleBatch(
        torch.from_numpy(rng.integers(0, N, n)),
        torch.from_numpy(rng.integers(0, N, (n, length))),
        torch.ones((n, length, H), dtype=torch.bool),
        torch.from_numpy(rng.random((n, length)) * 1e7),
        torch.from_numpy(values(rng, (n, length))),
    )
    lengths = np.full(n, length)
    results = np.full((3, n), np.nan, np.float32)
    for place, order in enumerate((np.arange(n), rng.permutation(n), rng.permutation(n)[: n // 3])):
        for chosen, _ in fixed_batches(order, lengths):
            part = ExampleBatch(
                candidates.candidates[chosen],
                candidates.events[chosen],
                candidates.members[chosen],
                candidates.ages[chosen],
                candidates.values[chosen],
            )
            results[place, chosen] = scores(model, of, part).numpy()
    assert (results[0] == results[1]).all()
    both = ~np.isnan(results[2])
    assert (results[0, both] == results[2, both]).all()


def test_means_survive_a_long_absence() -> None:
    model = Model(Architecture(encoder="mean", widths=(4,), histories=1, dim=4, half_lives=1))
    model.encoder.log2_half_life.data.fill_(0.0)  # one second
    batch = ExampleBatch(
        torch.zeros(1, dtype=torch.long),
        torch.zeros((1, 2), dtype=torch.long),
        torch.ones((1, 2, 1), dtype=torch.bool),
        torch.tensor([[3e8 + 1, 3e8]], dtype=torch.float64),
    )
    with torch.inference_mode():
        means, total = model.encoder.means(torch.eye(4)[None, :2], batch)
    np.testing.assert_allclose(means[0, 0, 0].numpy(), [1 / 3, 2 / 3, 0, 0], atol=1e-6)
    assert total[0, 0, 0] == 1.5


def test_the_softmax_is_over_each_request() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0, 0.5, -1.0, 7.0])
    labels = torch.tensor([0.0, 1.0, 1.0, 2.0, 0.0, 0.0])
    groups = torch.tensor([5, 5, 5, 9, 9, 2])
    first = -torch.log_softmax(logits[:3], 0)[1:].mean()
    second = -torch.log_softmax(logits[3:5], 0)[0]
    total, count = softmax_loss(logits, labels, groups)
    assert count == 2  # the third request has no positive
    assert total.item() == pytest.approx((first + second).item(), rel=1e-6)


def test_dropout_drops_a_share_and_scales_up_the_rest() -> None:
    x = torch.ones(400, 300)
    assert dropped(x, 0.3, None) is x
    kept = dropped(x, 0.3, torch.Generator().manual_seed(0))
    assert (kept == 0).double().mean().item() == pytest.approx(0.3, abs=0.005)
    assert kept.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(kept, dropped(x, 0.3, torch.Generator().manual_seed(0)))
    assert not torch.equal(kept, dropped(x, 0.3, torch.Generator().manual_seed(1)))


def test_the_recency_mask_hides_the_newest_events_only_in_training() -> None:
    rng = np.random.default_rng(5)
    of, batch = items(rng), rows(rng)
    batch = replace(batch, ages=torch.linspace(9, 1, L).expand(B, L).double() * 3600)
    masked = Model(architecture("transformer", dropout=0.0, recency_mask_share=1.0, recency_mask_s=1e9))
    noise = torch.Generator().manual_seed(1)
    masked.adapter.id_dropout = 0.0
    in_training, scored = masked(masked.adapter(of, noise), batch, noise), masked(masked.adapter(of), batch)
    assert not torch.allclose(in_training, scored, atol=1e-4)
    share, _ = torch.rand(2, B, 1, generator=torch.Generator().manual_seed(1).set_state(after_ids(of)))
    older = batch.members & (batch.ages >= share * 1e9)[:, :, None]
    assert torch.allclose(in_training, masked(masked.adapter(of), replace(batch, members=older)), atol=1e-5)


def after_ids(of: Items) -> torch.Tensor:
    """Return the state of a generator of seed 1 after it has drawn which ids to hide."""
    noise = torch.Generator().manual_seed(1)
    torch.rand(len(of.buckets), 1, generator=noise)
    return noise.get_state()


def test_ids_are_hidden_for_some_items_in_training() -> None:
    rng = np.random.default_rng(6)
    of, model = items(rng), Model(architecture("mean", id_dropout=0.5))
    torch.nn.init.normal_(model.adapter.ids.weight)
    with_ids = model.adapter(of)
    without = with_ids - model.adapter.ids(of.buckets)
    vectors = model.adapter(of, torch.Generator().manual_seed(0))
    hidden, shown = (vectors - without).abs().amax(1) < 1e-6, (vectors - with_ids).abs().amax(1) < 1e-6
    assert (hidden ^ shown).all()
    assert hidden.any()
    assert shown.any()


def test_whitened_vectors_are_uncorrelated() -> None:
    rng = np.random.default_rng(7)
    vectors = torch.from_numpy((rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3).astype(np.float32))

    def of(nums: NDArray[np.int64]) -> Items:
        return Items(
            vectors[nums], torch.ones((len(nums), 1), dtype=torch.bool), torch.zeros(len(nums), dtype=torch.long)
        )

    mean, matrix = whitening(of, np.arange(500))
    white = (vectors - mean) @ matrix
    np.testing.assert_allclose((white.T @ white / 500).numpy(), np.eye(6), atol=1e-3)
