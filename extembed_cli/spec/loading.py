"""Building a spec from a TOML file or from flags; all problems are raised together, in the user's words."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from extembed_cli.errors import SpecError, did_you_mean
from extembed_cli.spec.groups import Group
from extembed_cli.spec.model import FOR_TRAINING, Spec, spec_type
from extembed_cli.spec.paths import SPARK_TABLE, expanded

STANDARD_INPUT = Path("-")


def load_spec(
    path: Path, overrides: Sequence[str] = (), output: str | None = None, *, for_training: bool = False
) -> Spec:
    """Return the spec in a TOML file, with `KEY=VALUE` overrides; relative paths in the file start at its folder.

    A spec `for_training` a model needs no group.
    """
    return build_spec(read_data(path, overrides, output), str(path), {FOR_TRAINING: for_training})


def read_data(path: Path, overrides: Sequence[str] = (), output: str | None = None) -> dict[str, Any]:
    """Return the plain data of a spec in a TOML file with overrides, its paths absolute, not checked otherwise."""
    data = _read(path)
    _anchor_paths(data, path.absolute().parent)
    if output is not None:
        data["output"] = _anchored(output, Path.cwd())
    for override in overrides:
        _override(data, override)
    return data


def spec_from_flags(data: Mapping[str, Any], overrides: Sequence[str] = (), *, for_training: bool = False) -> Spec:
    """Return the spec that flags describe; None = not given. Relative paths start at the working directory.

    A spec `for_training` a model needs no group.
    """
    given = _without_none(data)
    _anchor_paths(given, Path.cwd())
    for override in overrides:
        _override(given, override)
    return build_spec(given, "flags", {FOR_TRAINING: for_training})


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    """Return the data of a TOML file; of `-`, of the standard input."""
    try:
        data = _standard_input() if path == STANDARD_INPUT else path.read_bytes()
        if data.startswith(b"PAR1"):
            raise SpecError(f"{path}: is Parquet; name a spec, the TOML file that says what to compute")
        return tomllib.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec file; `extembed sample DIR` writes one to start from") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a directory; name the spec file in it, such as {path / 'spec.toml'}") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read as a spec: {error}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not UTF-8 text; save it as UTF-8 (not UTF-16 or another encoding)") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{path}: its lists or tables are nested too deeply") from None


@cache
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()


def build_spec(data: Mapping[str, Any], where: str, context: Mapping[str, bool] | None = None) -> Spec:
    """Return a checked spec from plain data; raise all problems in one `SpecError`."""
    try:
        return spec_type().model_validate(data, context=context)
    except ValidationError as error:
        raise SpecError(*problems_of(error, where)) from None


def problems_of(error: ValidationError, where: str) -> list[str]:
    """Return all problems of a spec in the user's words, a line each."""
    # Pydantic also calls a list too short if its only entry is wrong; this is not a second problem.
    reported = [p for p in error.errors() if p["type"] != "too_short" or not p["input"]]
    return [f"{where}: {line}" for problem in reported for line in _explain(problem, where)]


_KINDS = {
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
}
_FLAGS = {
    "half_lives": "--half-life",
    "percentiles": "--percentile",
    "thresholds": "--threshold",
    "as_of": "--as-of",
    "lag": "--lag",
    "window": "--window",
    "max_events": "--max-events",
    "time_unit": "--time-unit",
    "regularization": "--regularization",
    "unobserved_weight": "--unobserved-weight",
    "scaling": "--scaling",
    "half_life": "--half-life",
    "target": "--target",
    "residual": "--residual",
    "prior_events": "--prior-events",
    "residual_half_life": "--residual-half-life",
    "temperatures": "--temperature",
    "top": "--top",
    "loss": "--loss",
    "user_vectors": "--user-vectors",
    "item_vectors": "--item-vectors",
    "all_vectors": "--all-vectors",
    "side": "--side",
    "own": "--own",
    "refit_every": "--refit-every",
}


def _explain(problem: Any, where: str) -> list[str]:
    """Return one pydantic problem in the user's words, a line for each thing to fix."""
    # Union members appear in `loc` as type names such as `tuple[str, ...]`, which are not the user's keys.
    loc = [part for part in problem["loc"] if not (isinstance(part, str) and ("[" in part or part == "str"))]
    key = ".".join(str(part) for part in loc)
    if where == "flags" and problem["type"] != "extra_forbidden":
        key = next((_FLAGS[str(part)] for part in reversed(loc) if part in _FLAGS), key)
    if problem["type"] == "extra_forbidden":
        *above, unknown = problem["loc"]  # it may look like the name of a type
        return [
            f"`{'.'.join(map(str, problem['loc']))}` is not a known key{did_you_mean(str(unknown), _fields_at(above))}"
        ]
    if problem["type"] == "missing":
        return [f"`{key}` is missing"]
    if problem["type"] == "value_error":
        lines = [_under(key, line) for line in problem["ctx"]["error"].args]
        return [_as_flag(line) for line in lines] if where == "flags" else lines
    if problem["type"] == "too_short":
        return [f"`{key}` needs at least one entry"]
    if key in Group.known and isinstance(problem["input"], dict):
        return [f"`[{key}]` is one table; groups are a list, so write `[[{key}]]`"]
    text = _KINDS.get(problem["type"], problem["msg"][0].lower() + problem["msg"][1:])
    return [f"`{key}`: {text}, got {problem['input']!r}"]


def _under(key: str, line: str) -> str:
    """Return a message about a key of the table at `key`, or about `key` itself."""
    inner = re.match(r"[a-z_.0-9]+: ", line)
    return f"{key}{'.' if inner else ': '}{line}" if key else line


def _as_flag(line: str) -> str:
    """Return a message that begins with a key, with the key replaced by its flag."""
    for key, flag in (("user_embeddings", "--user-embedding"), ("embeddings", "--embedding")):
        line = line.replace(f"`{key}` is missing", f"{flag} NAME=PATH is missing")
    key, colon, text = line.partition(": ")
    return f"{_FLAGS.get(key.rpartition('.')[2], key)}{colon}{text}"


def _fields_at(loc: Iterable[str | int]) -> list[str]:
    """Return the known keys of the table that `loc` points to."""
    model: type[BaseModel] = spec_type()
    for part in loc:
        field = next((field for key, field in model.model_fields.items() if part == (field.alias or key)), None)
        if field is not None:
            model = _model_in(field.annotation) or model
    return [field.alias or key for key, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in get_args(annotation) if (model := _model_in(arg))), None)


def _override(data: Any, override: str) -> None:
    """Set one `a.b.0.c=VALUE` in `data`. VALUE is TOML or plain text; its paths start at the working directory."""
    required = override.startswith("require.")
    given = f"--require {override.removeprefix('require.')}" if required else f"--set {override}"
    if re.search("[\ud800-\udfff]", override):  # bytes of the shell that are no text
        raise SpecError(f"{given!a}: is not UTF-8 text")
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        form = "KEY=SHARE, such as `coverage=0.5`" if required else 'KEY=VALUE, such as `aggregate.0.half_lives=["7d"]`'
        raise SpecError(f"{given}: write {form}")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text
    wrapped = reduce(lambda inner, part: {part: inner}, reversed(parts), value)
    _anchor_paths(wrapped, Path.cwd())
    value = reduce(lambda outer, part: outer[part], parts, wrapped)

    node = data
    for depth, part in enumerate(parts):
        at: str | int = part
        if isinstance(node, list):
            if not re.fullmatch("[0-9]{1,9}", part) or int(part) > len(node):
                above = ".".join(parts[:depth])
                raise SpecError(f"{given}: `{above}` is a list of {len(node)} entries, numbered from 0")
            at = int(part)
            node += [{}] * (at == len(node))
        elif not isinstance(node, dict):
            raise SpecError(f"{given}: `{'.'.join(parts[:depth])}` is not a table")
        if depth == len(parts) - 1:
            node[at] = value
        else:
            if at not in node and isinstance(node, dict):
                node[at] = [] if depth == 0 and part in Group.known else {}
            node = node[at]


def _anchor_paths(data: dict[str, Any], folder: Path) -> None:
    """Make the paths of a spec absolute, in place; values that are not text are left to the validation."""
    holders = [(data, key) for key in ("interactions", "candidates", "output")]
    for technique, kind in Group.known.items():
        groups = data.get(technique)
        if isinstance(groups, dict):  # from an override, by number
            groups = list(groups.values())
        if isinstance(groups, list):
            holders += [(group, key) for group in groups if isinstance(group, dict) for key in kind.path_keys]
    for tables in (data.get("embeddings"), data.get("user_embeddings")):
        if isinstance(tables, dict):
            keys = ("path", "center", "gramian")
            holders += [(table, key) for table in tables.values() if isinstance(table, dict) for key in keys]
    for holder, key in holders:
        value = holder.get(key)
        if isinstance(value, str):
            holder[key] = _anchored(value, folder)
        elif isinstance(value, list):
            holder[key] = [_anchored(v, folder) if isinstance(v, str) else v for v in value]


def _anchored(path: str, folder: Path) -> str:
    """Return a path that starts at a folder, or a URL; without a slash at its end."""
    path = expanded(path, folder)
    if path.startswith(SPARK_TABLE) and not (folder / path).exists():
        return path
    return re.sub(r"(?<=[^:/])/+$", "", path) if "://" in path else str(folder / path)
