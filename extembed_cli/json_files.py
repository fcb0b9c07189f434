"""JSON that other programs may have written, or somebody may have changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parsed(text: str | bytes) -> dict[str, Any]:
    """Return the object that a JSON document holds; raise ValueError if it is none."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return data


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is no such file, or nothing readable in it."""
    try:
        return parsed(path.read_bytes())
    except (OSError, ValueError):
        return None


def with_texts(data: Any, change: Callable[[str], str]) -> Any:
    """Return data as JSON holds it, with all its texts and keys changed."""
    if isinstance(data, dict):
        return {change(key): with_texts(each, change) for key, each in data.items()}
    if isinstance(data, list | tuple):
        return [with_texts(each, change) for each in data]
    return change(data) if isinstance(data, str) else data
