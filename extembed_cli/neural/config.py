"""What a model is and what it was trained on, as `config.json` of its folder keeps it; read without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from extembed_cli.errors import SpecError
from extembed_cli.spec.defaults import Encoder, Loss
from extembed_cli.spec.model import HistorySpec
from extembed_cli.spec.types import Time

AGE_BUCKETS = 64  # half octaves of seconds: the last begins at 96 years


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Layers(_Part):
    """What is chosen of a model, whatever it learns from."""

    encoder: Encoder = "attention"
    """How the history becomes a state: decayed means, a GRU, attention beside the candidate, or a transformer."""
    dim: int = Field(default=32, ge=4, multiple_of=4)
    """Length of the vectors inside the model."""
    heads: int = 4
    """Of attention and transformer: each weighs its own part of the vectors."""
    layers: int = 1
    """Of the transformer."""
    half_lives: int = Field(default=2, ge=1)
    """Decayed means of each history."""
    dropout: float = 0.3
    """Share of what is dropped in training."""
    id_embedding: bool = False
    """Whether a vector is learned for each item id as well."""
    id_dropout: float = 0.3
    """Share of items whose id is hidden in training, so that the model can do without."""
    whiten: bool = False
    """Whether vectors are made uncorrelated, of variance 1, before they are adapted."""
    candidate: bool = True
    """Whether the transformer reads the candidate beside the events."""
    recency_mask_s: float = 86_400
    """In training the transformer does not see the newest events of a random time of at most so many seconds ..."""
    recency_mask_share: float = 0.1
    """... in this share of the rows."""

    @property
    def reads_candidate(self) -> bool:
        """Whether the state is of a user and a candidate; else it is of the user alone, and can be a vector."""
        return self.encoder == "attention" or (self.encoder == "transformer" and self.candidate)

    def check_vectors(self, where: str) -> None:
        """Refuse to make vectors of users that there are not; `where` is the folder or the flag that asks for them."""
        if self.reads_candidate:
            raise SpecError(
                f"{where}: the encoder `{self.encoder}` reads the candidate, so users have no vectors. Train with "
                "--encoder mean, gru, or transformer --no-candidate"
            )


class Architecture(Layers):
    """Kinds and sizes of all layers."""

    widths: tuple[int, ...]
    """Length of the vectors of each embedding table."""
    histories: int
    id_buckets: int = 0
    """Learned vectors for hashes of item ids; 0 = none."""


class TrainedTable(_Part):
    """An embedding table as the model knew it."""

    dim: int
    rows: int
    sha256: str
    """Of its files."""
    probes: dict[str, str]
    """Projections of the vectors of a few items, by id: `neural/probes.py`."""
    normalize: bool
    center: bool


class TrainingSettings(_Part):
    """How a model is trained."""

    label: str
    """Column of the candidates to predict: 0 or 1, or grades with `group`."""
    until: Time | None = None
    """Only candidates before this time, ISO 8601; null = all."""
    group: str | None = None
    """Column that the candidates of one request share."""
    loss: Loss = "bce"
    """`bce` judges candidates one by one; `softmax` those of a request against each other."""
    max_events: int = Field(default=100, ge=1)
    """The model reads the newest so many visible events."""
    epochs: int = Field(default=30, ge=1)
    """At most; training stops earlier when the last rows by time are not ranked better any more."""
    patience: int = Field(default=4, ge=1)
    """Epochs without a better AUC before it stops."""
    batch_size: int = Field(default=256, ge=1)
    """Candidates of a step."""
    lr: float = Field(default=1e-3, gt=0, le=10, allow_inf_nan=False)
    """Learning rate."""
    weight_decay: float = Field(default=0.1, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "cpu"


class ModelConfig(_Part):
    """A trained model."""

    format: Literal[1] = 1
    version: str
    """Of extembed."""
    architecture: Architecture
    tables: dict[str, TrainedTable]
    """In the order in which their vectors stand side by side."""
    histories: dict[str, HistorySpec]
    """In the order of the model's."""
    lag: str
    as_of_step: str | None
    settings: TrainingSettings
    trained_until: str
    """Time of the newest candidate that was learned from or stopped by, ISO 8601 UTC."""
    rows: dict[str, int]
    """Candidates by what they were for, or why they were left out."""
    spec: dict[str, Any]
    """That named tables and histories."""
    job: dict[str, Any]
    """What decides the weights: settings, and digests of what is larger."""
    weights_sha256: str
    """Of `model.safetensors`."""
