"""Technique 3, the score of a trained model that reads the history: what a spec asks for. No torch is needed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extembed_cli.errors import DataError
from extembed_cli.features.columns import Column
from extembed_cli.neural import folder
from extembed_cli.spec import NeuralSpec, Spec

if TYPE_CHECKING:
    from extembed_cli.features.neural_scores import Scorer


@dataclass(frozen=True)
class Trained:
    """A trained model: what its column holds."""

    folder: str
    weights: str
    """Their SHA-256."""


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: NeuralSpec) -> Iterator[Column]:
    """The one column of a group; the folder has to fit the spec."""
    config = folder.read_config(group.model)
    folder.check_fits(group.model, config, spec)
    histories, tables = (", ".join(f"`{name}`" for name in names) for names in (config.histories, config.tables))
    settings = config.settings
    yield Column(
        name=f"neural_{group.name + '_' if group.name else ''}score",
        dtype="Float32",
        technique="neural",
        meaning=f"logit of `{settings.label}` by a {config.architecture.encoder} model over the newest "
        f"{settings.max_events} visible events of {histories} in {tables}, trained on candidates until "
        f"{config.trained_until}",
        statistic=trained(group),
        trained_until=config.trained_until,
    )


def trained(group: NeuralSpec) -> Trained:
    """What a group's column holds."""
    return Trained(group.model, folder.read_config(group.model).weights_sha256)


def vector_files(spec: Spec) -> dict[str, Trained]:
    """The files of user vectors that a spec asks for, with the model of each."""
    return {group.user_vectors: trained(group) for group in spec.neural if group.user_vectors is not None}


def item_vectors(spec: Spec, scorers: dict[Trained, Scorer]) -> dict[str, Scorer]:
    """The files of item vectors that a spec asks for, with the model of each."""
    return {group.item_vectors: scorers[trained(group)] for group in spec.neural if group.item_vectors is not None}


def digests(spec: Spec) -> dict[str, dict[str, str]]:
    """The models of a spec among the digests of its inputs; nothing where there is none."""
    models = {column.name: trained(group).weights for group in spec.neural for column in columns(spec, group)}
    return {"models": models} if models else {}


def check_unchanged(spec: Spec, before: dict[str, dict[str, str]]) -> None:
    """Refuse models that were trained again while the job was reading them."""
    if digests(spec) != before:
        raise DataError("a neural model changed while the job was reading it. Run again; the old output is untouched")
