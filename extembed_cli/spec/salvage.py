"""What is left of a spec with problems, so that a check can also tell the problems of its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from extembed_cli.spec.loading import read_data
from extembed_cli.spec.model import FOR_TRAINING, Spec, spec_type


def salvage(path: Path, overrides: Sequence[str] = ()) -> Spec | None:
    """Return the spec in a TOML file without the keys, tables and groups that are wrong; None if too little is left."""
    data = read_data(path, overrides)
    while True:
        try:
            return spec_type().model_validate(data, context={FOR_TRAINING: True})
        except ValidationError as error:
            problem = error.errors()[0]
        if not _removed(data, problem["loc"]):
            return None


def _removed(data: Any, loc: Sequence[int | str]) -> bool:
    """Remove what a problem is about, or what lacks a key; return False where that is the whole spec.

    The place of a problem may end with names of types, which are no keys.
    """
    above, key = None, None
    for part in loc:
        known = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if not known:
            break
        above, key, data = data, part, data[part]
    if above is None:
        return False
    del above[key]
    return True
