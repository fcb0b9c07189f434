"""What is left of a spec with problems, so that a check can also tell the problems of its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from extembed_cli.spec.groups import Group
from extembed_cli.spec.loading import problems_of, read_data
from extembed_cli.spec.model import PARTIAL, UNKNOWN, Spec, spec_type

Place: TypeAlias = Sequence[int | str]


class Salvaged(NamedTuple):
    """What is left of a spec."""

    spec: Spec | None
    """None if too little is left"""
    unknown: list[str]
    """Names in it that stand for nothing: they are looked up only where all values have the right types"""


def salvage(path: Path, overrides: Sequence[str] = ()) -> Salvaged:
    """Return the spec in a TOML file without the keys, tables and groups that are wrong.

    If a group is not as it was, patterns for its columns are left out too: they could miss what it should have.
    """
    data = read_data(path, overrides)
    whole = deepcopy(data)
    unknown: list[str] = []
    while True:
        try:
            spec = spec_type().model_validate(data, context={PARTIAL: True})
        except ValidationError as error:
            if _names(data) == _names(whole):
                unknown += [line for line in problems_of(error, str(path)) if UNKNOWN in line]
            problem = error.errors()[0]
            if not (_removed(data, _place(problem)) or _without_groups(data, problem["msg"])):
                return Salvaged(None, unknown)
            continue
        if _groups(data) != _groups(whole):
            within = spec.within and spec.within.model_copy(update={"columns": ("*",)})
            require = spec.require.model_copy(update={"non_null": 0.0})
            spec = spec.model_copy(update={"within": within, "require": require})
        return Salvaged(spec, unknown)


def _place(problem: Any) -> Place:
    """Return the key that a problem is about. A check of a whole table names it at the beginning of its message."""
    place: list[int | str] = list(problem["loc"])
    if problem["type"] != "value_error":
        return place
    inner = re.match(r"[\w.-]+(?=: )", str(problem["ctx"]["error"].args[0]))
    return [*place, *(inner[0].split(".") if inner else ())]


def _removed(data: Any, place: Place) -> bool:
    """Remove what a problem is about, or what lacks a key; return False where that is the whole spec.

    The place of a problem may end with names of types, which are no keys.
    """
    above, key = None, None
    for part in place:
        known: int | str = int(part) if isinstance(data, list) and str(part).isdecimal() else part
        if not (known in data if isinstance(data, dict) else isinstance(data, list) and isinstance(known, int)):
            break
        above, key, data = data, known, data[known]
    if above is None:
        return False
    del above[key]
    return True


def _names(data: Any) -> list[list[str]]:
    """Return the names that others may use."""
    kinds = [data.get(kind) for kind in ("embeddings", "user_embeddings", "histories")]
    return [list(names) if isinstance(names, dict) else [] for names in kinds]


def _groups(data: Any) -> dict[str, Any]:
    return {technique: data[technique] for technique in Group.known if technique in data}


def _without_groups(data: Any, message: str) -> bool:
    """Remove the groups that need what the spec does not have, or else all; return False where there are none."""
    groups = _groups(data)
    for technique in [name for name in groups if f"[[{name}]]" in message] or groups:
        del data[technique]
    return bool(groups)
