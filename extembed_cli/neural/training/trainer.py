"""The training loop: epochs of steps, early stopping, and a state that can be saved between any two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from extembed_cli.arrays import Ints
from extembed_cli.errors import DataError
from extembed_cli.kernels import metrics
from extembed_cli.neural.config import TrainingSettings
from extembed_cli.neural.events import fixed_batches
from extembed_cli.neural.items import adapted_items
from extembed_cli.neural.model import ExampleBatch, Items, Model
from extembed_cli.neural.training.dataset import Dataset
from extembed_cli.system.threads import Mapping

_DIVERGED = "Lower --lr, or set `normalize = true` if a table has very long vectors"
_MAX_NORM = 1.0  # of the gradient
_MAX_AVERAGE_DECAY = 0.99
MICRO_BATCH = 64  # candidates of a step that one thread computes: a fixed number, so that workers do not change sums


@dataclass
class Epoch:
    """The metrics of one pass over the training candidates."""

    epoch: int
    loss: float
    valid_loss: float
    valid_auc: float
    """AUC of the early stopping candidates; with requests, the mean AUC inside requests."""
    seconds: float


@dataclass
class TrainingProgress:
    """The progress of a training: its state without the tensors."""

    epoch: int = 0
    step: int = 0
    """Number of steps done in this epoch."""
    loss: float = 0.0
    """Sum of the losses of these steps."""
    rows: int = 0
    seconds: float = 0.0
    best: int = -1
    """The epoch whose weights are kept."""

    def begin(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.step, self.loss, self.rows, self.seconds = self.epoch + 1, 0, 0.0, 0, 0.0


@dataclass(frozen=True)
class Trained:
    """A model whose training is finished."""

    weights: dict[str, Tensor]
    epochs: list[Epoch]
    best: int
    """The epoch whose weights are kept."""


class Trainer:
    """A model in training, with its optimizer and progress."""

    def __init__(
        self,
        model: Model,
        data: Dataset,
        settings: TrainingSettings,
        items: Callable[[Ints], Items],
        all_items: int,
        mapped: Mapping = map,
    ) -> None:
        self.model, self.data, self.settings = model.to(settings.device), data, settings
        self.items, self.all_items, self.mapped = items, all_items, mapped
        # Only matrices get weight decay: it would pull a learned half-life or gain from its initial value towards 0.
        modules = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding | nn.GRU)]
        decayed = [p for module in modules for p in module.parameters(recurse=False) if p.ndim > 1]
        decayed_ids = {id(p) for p in decayed}
        undecayed = [p for p in model.parameters() if p.requires_grad and id(p) not in decayed_ids]
        self.parameters = [*decayed, *undecayed]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": undecayed, "weight_decay": 0.0}],
            lr=settings.lr,
        )
        # The weights that are kept are a decayed mean over steps (Polyak averaging): the last steps alone are noisy.
        self.averaged = AveragedModel(self.model, avg_fn=_average)
        self.best = self._weights()
        self.epochs: list[Epoch] = []
        self.now = TrainingProgress()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the AUC did not improve in the last ones."""
        done = len(self.epochs)
        return done >= self.settings.epochs or (done > 0 and done - 1 - self.now.best >= self.settings.patience)

    def run_epoch(self, moved: Callable[[int], None], stop: Callable[[], bool]) -> bool:
        """Run the remaining steps of the epoch; return False if `stop` ended it early."""
        settings, data, now = self.settings, self.data, self.now
        whole = settings.loss == "softmax"
        batches = data.batches(settings.seed, now.epoch, settings.batch_size, whole_groups=whole)
        began, before = time.perf_counter(), now.seconds
        for batch in batches[now.step :]:
            loss = self._step(batch)
            if not math.isfinite(loss):
                raise DataError(f"the loss is {loss} in epoch {now.epoch + 1}: the training diverged. {_DIVERGED}")
            now.loss += loss * len(batch)
            now.rows += len(batch)
            now.step += 1
            now.seconds = before + time.perf_counter() - began
            moved(len(batch))
            if stop():
                return False
        valid_loss, valid_auc = self._validate()
        if not math.isfinite(valid_loss):
            raise DataError(
                f"the loss of the early stopping candidates is {valid_loss}: the training diverged. {_DIVERGED}"
            )
        self.epochs.append(Epoch(now.epoch, now.loss / now.rows, valid_loss, valid_auc, round(now.seconds, 3)))
        if self._is_best():
            now.best, self.best = now.epoch, self._weights()
        now.begin()
        return True

    def _is_best(self) -> bool:
        *earlier, last = (epoch.valid_auc for epoch in self.epochs)
        return last > max(earlier, default=-math.inf)

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in self.averaged.module.state_dict().items()
        }

    def _step(self, batch: Ints) -> float:
        size = MICRO_BATCH if self.settings.device == "cpu" else len(batch)
        loss, count = 0.0, 0
        sums = [torch.zeros_like(parameter) for parameter in self.parameters]
        micro_batches = enumerate(self.data.split(batch, size))
        for partial_loss, partial_count, gradients in self.mapped(self._micro_batch, micro_batches):
            loss, count = loss + partial_loss, count + partial_count
            for total, gradient in zip(sums, gradients, strict=True):
                total.add_(gradient)
        count = max(1, count)  # 0 if no request has a label above 0
        for parameter, total in zip(self.parameters, sums, strict=True):
            parameter.grad = total / count
        torch.nn.utils.clip_grad_norm_(self.parameters, _MAX_NORM)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        return loss / count

    def _micro_batch(self, micro_batch: tuple[int, Ints]) -> tuple[float, int, tuple[Tensor, ...]]:
        """Return the summed loss of some candidates of a step, the divisor of the loss, and the gradients."""
        index, chosen = micro_batch
        # Dropout depends on the step and the index in it alone, so that a training can resume after any step.
        seed = np.random.SeedSequence([self.settings.seed, self.now.epoch, self.now.step, index]).generate_state(1)[0]
        device = self.settings.device
        noise = torch.Generator(device).manual_seed(int(seed))
        rows = self.data.examples.padded(chosen, int(self.data.examples.lengths[chosen].max()))
        items, indices = np.unique(np.append(rows.events.ravel(), rows.candidates), return_inverse=True)
        adapted = self.model.adapter(self.items(items.astype(np.int64)).to(device), noise)
        logits = self.model(adapted, ExampleBatch.of(rows).at(torch.from_numpy(indices)).to(device), noise)
        labels = torch.from_numpy(self.data.labels[chosen]).to(device)
        loss, count = self._loss(logits, labels, self.data.groups[chosen])
        return loss.item(), count, torch.autograd.grad(loss, self.parameters, materialize_grads=True)

    def _loss(self, logits: Tensor, labels: Tensor, groups: Ints) -> tuple[Tensor, int]:
        """Return the summed loss of candidates, or of requests, and their number."""
        if self.settings.loss == "bce":
            positive = (labels > 0).to(logits.dtype)
            return functional.binary_cross_entropy_with_logits(logits, positive, reduction="sum"), len(labels)
        return softmax_loss(logits, labels, torch.from_numpy(groups).to(logits.device))

    def _validate(self) -> tuple[float, float]:
        """Return loss and AUC of the early stopping candidates."""
        chosen, data = self.data.valid, self.data
        scores = np.empty(len(data.labels), np.float32)
        model = cast(Model, self.averaged.module)
        adapted = adapted_items(model, self.items, self.all_items, self.mapped)

        def score(batch: tuple[Ints, int]) -> None:
            rows = ExampleBatch.of(data.examples.padded(*batch)).to(self.settings.device)
            with torch.inference_mode():
                scores[batch[0]] = model(adapted, rows).cpu().numpy()

        for _ in self.mapped(score, fixed_batches(chosen, data.examples.lengths)):
            pass
        labels, groups = data.labels[chosen], data.groups[chosen]
        total, count = self._loss(torch.from_numpy(scores[chosen]), torch.from_numpy(labels), groups)
        loss = float(total) / max(1, count)
        if self.settings.group is None:
            return loss, metrics.auc(scores[chosen], labels > 0)
        requests = metrics.Groups.of(groups)
        aucs = metrics.group_aucs(scores[chosen], labels > 0, requests)
        known = np.isfinite(aucs)
        return loss, float(np.average(aucs[known], weights=requests.sizes[known]))

    @property
    def trained(self) -> Trained:
        """The model with its best weights."""
        return Trained(self.best, self.epochs, self.now.best)

    # --- a state that can be saved ---

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors, which the next step changes in place, and the rest of the state."""
        tensors = {f"now.{name}": tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        tensors |= {f"averaged.{name}": tensor.detach().cpu() for name, tensor in self.averaged.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{index}.{name}"] = value.detach().cpu()
        return tensors, {"now": asdict(self.now), "epochs": [asdict(epoch) for epoch in self.epochs]}

    def restore(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Set the state to a saved one; errors of torch are raised if it does not fit the model."""
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "averaged": {}, "best": {}, "adam": {}}
        for name, tensor in tensors.items():
            part, _, inner = name.partition(".")
            parts[part][inner] = tensor
        self.model.load_state_dict(parts["now"])
        self.averaged.load_state_dict(parts["averaged"])
        self.best = parts["best"]
        for name, tensor in parts["adam"].items():
            index, _, inner = name.partition(".")
            parameter = self.parameters[int(index)]
            value = tensor if inner == "step" else tensor.to(parameter.device)
            self.optimizer.state[parameter][inner] = value
        self.now = TrainingProgress(**rest["now"])
        self.epochs = [Epoch(**epoch) for epoch in rest["epochs"]]


def _average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
    """Return the decayed mean after one more step; it forgets faster while there are few steps."""
    decay = min(_MAX_AVERAGE_DECAY, float(steps) / (float(steps) + 9))
    return averaged + (1 - decay) * (current - averaged)


def softmax_loss(logits: Tensor, labels: Tensor, groups: Tensor) -> tuple[Tensor, int]:
    """Return −Σ y log softmax(logits) / Σ y of each group, summed over groups with a label above 0, and their number.

    logits, labels, groups (B).
    """
    _, group = torch.unique(groups, return_inverse=True)  # (B)
    G = int(group.max()) + 1
    highest = torch.full((G,), -math.inf, device=logits.device).scatter_reduce(0, group, logits.detach(), "amax")
    total = torch.zeros(G, device=logits.device).index_add(0, group, torch.exp(logits - highest[group]))
    log_probability = logits - highest[group] - torch.log(total)[group]
    label_sums = torch.zeros(G, device=logits.device).index_add(0, group, labels)
    weight = labels / label_sums.clamp_min(1e-9)[group]
    return -(weight * log_probability).sum(), int((label_sums > 0).sum())
