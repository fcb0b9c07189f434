"""Technique 3, the score of a trained model that reads the history: what a spec asks for. No torch is needed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extembed_cli.errors import DataError
from extembed_cli.features.technique.columns import Column
from extembed_cli.spec.model import NeuralSpec, Spec

if TYPE_CHECKING:
    from extembed_cli.neural.config import ModelConfig

BATCH_EVENTS = 8192  # of a scored batch: so few that its tensors stay near the processor's cache
FEWEST_ROWS = 16
# Measured: 17 to 30 MiB with vectors of 32, 85 with those of 256; 101 with 5,000 events of 32.
_BYTES_OF_A_BATCH, _COPIES_OF_A_BATCH = 20 * 2**20, 10


@dataclass(frozen=True)
class Trained:
    """A trained model: what its column holds."""

    folder: str
    weights: str
    """Their SHA-256."""


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: NeuralSpec) -> Iterator[Column]:
    """The one column of a group; the folder has to fit the spec."""
    from extembed_cli.neural.folder import check_fits  # noqa: PLC0415

    config = _config(group.model)
    check_fits(group.model, config, spec)
    histories, tables = (", ".join(f"`{name}`" for name in names) for names in (config.histories, config.tables))
    settings = config.settings
    yield Column(
        name=f"neural_{group.name + '_' if group.name else ''}score",
        dtype="Float32",
        technique="neural",
        meaning=f"logit of `{settings.label}` by a model (`{config.architecture.encoder}`) over the newest "
        f"{settings.max_events} visible events of {histories} in {tables}, trained on candidates until "
        f"{config.trained_until}",
        statistic=trained(group),
        trained_until=config.trained_until,
    )


def _config(model: str) -> ModelConfig:
    from extembed_cli.neural.folder import read_config  # noqa: PLC0415  most jobs have no model: 40 ms

    return read_config(model)


def trained(group: NeuralSpec) -> Trained:
    """What a group's column holds."""
    return Trained(group.model, _config(group.model).weights_sha256)


def bytes_needed(spec: Spec, items: int) -> tuple[int, int]:
    """Of the models of a spec: what all workers share, and what each takes for a batch."""
    configs = [_config(model) for model in {group.model for group in spec.neural}]
    shared = sum(4 * items * config.architecture.dim for config in configs)
    batch = max((_batch_bytes(config) for config in configs), default=0)
    return shared, batch


def _batch_bytes(config: ModelConfig) -> int:
    events = max(BATCH_EVENTS, FEWEST_ROWS * config.settings.max_events)
    return _BYTES_OF_A_BATCH + 4 * _COPIES_OF_A_BATCH * events * config.architecture.dim


def digests(spec: Spec) -> dict[str, dict[str, str]]:
    """The models of a spec among the digests of its inputs; nothing where there is none."""
    models = {column.name: trained(group).weights for group in spec.neural for column in columns(spec, group)}
    return {"models": models} if models else {}


def check_unchanged(spec: Spec, before: dict[str, dict[str, str]]) -> None:
    """Refuse models that were trained again while the job was reading them."""
    if digests(spec) != before:
        raise DataError("a neural model changed while the job was reading it. Run again; the old output is untouched")
