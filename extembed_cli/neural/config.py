"""The config of a trained model, as `config.json` in its folder stores it; readable without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from extembed_cli.arrays import Doubles
from extembed_cli.errors import SpecError
from extembed_cli.spec.defaults import ENCODER, Encoder, Loss
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.model import HistorySpec
from extembed_cli.spec.types import Time

AGE_BUCKETS = 64  # half octaves of seconds: the last begins at 96 years


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Layers(_Part):
    """The options of a model that do not depend on the data."""

    encoder: Encoder = ENCODER
    """How the history becomes a state: decayed means, a GRU, attention with the candidate, or a transformer."""
    dim: int = Field(default=32, ge=4, multiple_of=4)
    """Length of the vectors inside the model."""
    heads: int = 4
    """Heads of the attention and the transformer; each uses its own part of the vectors."""
    layers: int = 1
    """Layers of the transformer."""
    half_lives: int = Field(default=2, ge=1)
    """Number of decayed means of each history."""
    dropout: float = 0.3
    """Share of numbers that are set to 0 in training."""
    id_embedding: bool = False
    """Whether the model also learns a vector for each item id."""
    id_dropout: float = 0.3
    """Share of items whose id is hidden in training, so that the model also works for new items."""
    whiten: bool = False
    """Whether vectors are first whitened: transformed to uncorrelated dimensions of variance 1."""
    candidate: bool = True
    """Whether the transformer reads the candidate together with the events."""
    recency_mask_s: float = 86_400
    """In training, the newest events within a random time of at most this many seconds are hidden from the transformer
    in some rows."""
    recency_mask_share: float = 0.1
    """Share of those rows."""

    @property
    def reads_candidate(self) -> bool:
        """Whether the state depends on the candidate. If not, each user has a vector."""
        return self.encoder == "attention" or (self.encoder == "transformer" and self.candidate)

    def check_vectors(self, where: str) -> None:
        """Raise if the model has no user vectors; `where` is the folder or the flag that needs them."""
        if self.reads_candidate:
            raise SpecError(
                f"{where}: the encoder `{self.encoder}` reads the candidate, so users have no vectors. Train with "
                "--encoder mean, gru, or transformer --no-candidate"
            )


class Architecture(Layers):
    """Types and sizes of all layers."""

    widths: tuple[int, ...]
    """Dimensions of each embedding table."""
    histories: int
    id_buckets: int = 0
    """Number of learned vectors for hashes of item ids; 0 = none."""
    values: int = 0
    """Number of values of an event."""


class TrainedTable(_Part):
    """An embedding table as it was in the training."""

    dim: int
    rows: int
    sha256: str
    """SHA-256 of its files."""
    probes: dict[str, str]
    """Projections of the vectors of a few items, by id (see `neural/probes.py`)."""
    normalize: bool
    center: bool


class EventValue(_Part):
    """A number of an event that the model reads, standardized as it was before the first cut of the training."""

    column: str
    """The expression over the interactions, and whether it is a residual, as `Expression.column` writes it."""
    mean: float
    sd: float

    @property
    def expression(self) -> Expression:
        """The expression over the interactions."""
        return Expression.of_column(self.column)

    def of(self, values: Doubles) -> Doubles:
        """Return values, standardized."""
        return (values - self.mean) / self.sd


class TrainingSettings(_Part):
    """How a model is trained."""

    label: str
    """Column of the candidates that the model predicts: 0 or 1, or grades with `group`."""
    until: Time | None = None
    """Only candidates before this time, ISO 8601; null = all."""
    folds: int = Field(default=5, ge=1, le=1000)
    """Number of models. The time of the candidates is cut into one stretch more, and each model is trained on all that
    is before its cut; 1 = a single model of all candidates."""
    group: str | None = None
    """Column that the candidates of one request share."""
    loss: Loss = "bce"
    """`bce` predicts each candidate alone; `softmax` ranks the candidates of a request."""
    max_events: int = Field(default=100, ge=1)
    """The model reads at most this many of the newest visible events."""
    epochs: int = Field(default=30, ge=1)
    """Largest number of epochs; training stops earlier when the AUC on the early stopping rows no longer improves."""
    patience: int = Field(default=4, ge=1)
    """Epochs without a better AUC before training stops."""
    batch_size: int = Field(default=256, ge=1)
    """Candidates in a step."""
    lr: float = Field(default=1e-3, gt=0, le=10, allow_inf_nan=False)
    """Learning rate."""
    weight_decay: float = Field(default=0.1, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "cpu"


class Fold(_Part):
    """One model of a folder."""

    trained_until: str
    """Time of the newest candidate of its training and early stopping rows, ISO 8601 UTC."""
    rows: dict[str, int]
    """Number of candidates by their use, or by the reason why they were left out."""


class ModelConfig(_Part):
    """Trained models of one architecture: each scores the candidates after its training and before the next one's."""

    format: Literal[2] = 2
    version: str
    """Version of extembed."""
    architecture: Architecture
    tables: dict[str, TrainedTable]
    """In the order in which their vectors are concatenated."""
    histories: dict[str, HistorySpec]
    """In the order of the model's parameters."""
    values: tuple[EventValue, ...] = ()
    """In the order of the model's parameters."""
    lag: str
    as_of_step: str | None
    settings: TrainingSettings
    folds: tuple[Fold, ...] = Field(min_length=1)
    """The models, oldest first."""
    spec: dict[str, Any]
    """The spec with the tables and histories."""
    job: dict[str, Any]
    """Everything that decides the weights: settings, and digests of larger values."""
    weights_sha256: str
    """SHA-256 of `model.safetensors`, which has the weights of all models."""

    @property
    def trained_until(self) -> str:
        """Time of the newest candidate that any of the models has seen."""
        return self.folds[-1].trained_until

    @property
    def is_out_of_time(self) -> bool:
        """Whether each candidate is scored by a model whose training ended before it."""
        return len(self.folds) > 1
