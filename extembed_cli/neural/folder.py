"""The folder of a model: config, weights, metrics and curves of its training. No file of it is a pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from extembed_cli.data.files.sealed import sealed, unsealed
from extembed_cli.errors import InputError, Problems, SpecError, listing, to_install
from extembed_cli.json_files import parsed
from extembed_cli.neural.config import ModelConfig
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.groups import NeuralGroup
from extembed_cli.spec.model import HistorySpec, Spec

CONFIG, WEIGHTS, METRICS, CURVES = "config.json", "model.safetensors", "metrics.json", "training.html"
CHECKPOINT = "checkpoint.safetensors"
"""State of an unfinished training."""
FILES = {CONFIG, WEIGHTS, METRICS, CURVES, CHECKPOINT}
RESTORE_HINT = "Restore the folder, or train again"
"""How to repair a folder that was changed."""


def need_extra(*modules: str) -> None:
    """Raise if a module of the extra is not installed."""
    missing = [name for name in ("torch", "safetensors", *modules) if find_spec(name) is None]
    if missing:
        raise SpecError(f"neural models need {to_install(missing, 'neural')}")


def config_json(config: ModelConfig) -> dict[str, Any]:
    """Return the config as it is written, with a checksum of the other keys."""
    return sealed(config.model_dump(mode="json"))


def is_ours(folder: Path) -> bool:
    """Whether the folder has a config of ours, whole or damaged; other libraries use the same file name."""
    data = (folder / CONFIG).read_bytes() if (folder / CONFIG).exists() else b""
    return b"checksum" in data and b"weights_sha256" in data


def read_config(folder: str) -> ModelConfig:
    """Return the config of a trained model; raise if there is none or if it was changed."""
    path = Path(folder) / CONFIG
    try:
        data, is_whole = unsealed(parsed(path.read_bytes()))
        config = ModelConfig.model_validate(data)
    except (FileNotFoundError, NotADirectoryError):
        unfinished = (Path(folder) / CHECKPOINT).exists()
        hint = (
            "its training is unfinished: resume it with --resume"
            if unfinished
            else "`extembed neural train` writes one"
        )
        raise InputError(f"{folder}: has no trained model ({CONFIG} is missing); {hint}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        reason = (
            f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}" if isinstance(error, ValidationError) else error
        )
        raise InputError(
            f"{path}: is not a readable config of a model of this version ({reason}). {RESTORE_HINT}"
        ) from None
    if not is_whole:
        raise InputError(f"{path}: was changed after it was written. {RESTORE_HINT}")
    return config


def pending_weights(folder: Path, weights_sha256: str) -> Path:
    """Return the path of new weights until their config is renamed; that rename makes the new model valid."""
    return folder / f".{WEIGHTS}.{weights_sha256}.tmp"


def check_fits(group: NeuralGroup, config: ModelConfig, spec: Spec) -> None:
    """Raise if the spec lacks a table, history or value of the model, or defines it differently."""
    folder, problems = group.model, Problems()

    def add(problem: str) -> None:
        problems.errors.append(SpecError(f"{folder}: {problem}. Use the spec of the training, or train again"))

    for name, table in config.tables.items():
        if name not in spec.embeddings:
            add(f"the model reads the embedding table `{name}`, which the spec does not have")
            continue
        options = spec.embeddings[name]
        for option in ("normalize", "center"):
            if bool(getattr(options, option)) != getattr(table, option):
                value = str(getattr(table, option)).lower()
                add(f"the model was trained with embeddings.{name}.{option} = {value}")
    for name, history in config.histories.items():
        if name not in {"all", *spec.histories}:
            add(f"the model reads the history `{name}`, which the spec does not have")
        elif spec.history(name) != history:
            add(
                f"the model was trained with histories.{name} = {_as_text(history)}, not {_as_text(spec.history(name))}"
            )
    for key in ("lag", "as_of_step"):
        if getattr(spec, key) != getattr(config, key):
            add(f"the model was trained with {key} = {getattr(config, key)}, not {getattr(spec, key)}")
    for problem in _value_problems(list(group.expressions().values()), [value.expression for value in config.values]):
        add(problem)
    problems.raise_any()


def _value_problems(now: list[Expression], then: list[Expression]) -> Iterator[str]:
    """Yield how the values of a group differ from those that its model was trained with."""
    if {each.of(None) for each in now} != {each.of(None) for each in then}:
        if missing := [f"`{each.meaning}`" for each in then if each not in now]:
            yield f"the model reads {listing(missing)}, which its group does not have in `values`"
        if added := [f"`{each.meaning}`" for each in now if each not in then]:
            yield f"the model does not read {listing(added)}, which its group has in `values`"
    elif set(now) != set(then):
        was, has = (_residual_text(read) for read in (then, now))
        yield f"the model was trained with {was}, and its group has {has}"
    elif now != then:
        yield "the model needs the `values` of its group in the order of the training"


def _residual_text(values: list[Expression]) -> str:
    residual = next((each.residual for each in values if each.residual is not None), None)
    if residual is None:
        return "no residual"
    by, prior_events, half_life = residual
    return f'residual = "{by}", prior_events = {prior_events:g}, residual_half_life = "{half_life}"'


def _as_text(history: HistorySpec) -> str:
    return json.dumps(history.model_dump(exclude_none=True))


def check_dim(folder: str, config: ModelConfig, name: str, dim: int) -> None:
    """Raise if the vectors of a table have another length than in the training."""
    if dim != config.tables[name].dim:
        raise SpecError(
            f"{folder}: the model was trained on vectors of length {config.tables[name].dim} in `{name}`, which has "
            f"length {dim} now. Name the table of the training, or train again"
        )
