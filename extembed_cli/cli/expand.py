"""Options that commands share, declared once as the fields of a dataclass; paths as people write them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from extembed_cli.errors import SpecError
from extembed_cli.spec.paths import expanded

Command = TypeVar("Command", bound=Callable[..., None])


def expand(command: Command) -> Command:
    """Let a command take dataclasses of options, and paths with `~` and `${VAR}`.

    Typer sees the fields of the dataclasses as parameters of the command.

    The help lists the options in the order of the parameters, those of a dataclass in the order of its fields.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            parameters += [_parameter(field.name, types[field.name], _default(field)) for field in fields(groups[name])]
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))

    @functools.wraps(command)
    def with_groups(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups  # type: ignore[return-value]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind, *infos = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if Path in {kind, *get_args(kind)}:
        for info in infos:
            info.parser = _path
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _path(text: str) -> Path:
    """Return a local path of the command line."""
    path = expanded(text)
    if "://" in path:
        raise SpecError(f"{path}: this can only be a local path")
    return Path(path)


def _default(field: Field[Any]) -> Any:
    assert field.default_factory is MISSING, f"{field.name}: an option needs a plain default"
    return inspect.Parameter.empty if field.default is MISSING else field.default
