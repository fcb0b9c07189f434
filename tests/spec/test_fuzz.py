"""No spec ends with a bug: every key of the JSON Schema gets every odd value, in the file and by `--set`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from conftest import ROOT, World, extembed, soak, vectors

SCHEMA = json.loads((ROOT / "docs/reference/spec.schema.json").read_text())
NAMES = {"embeddings": "text", "user_embeddings": "taste", "histories": "liked"}
"""A name for each table of tables"""
EXPECTED = {0, 1, 2, 3}
SPEC: dict[str, Any] = {
    "interactions": "interactions.parquet",
    "candidates": "candidates.parquet",
    "output": "out.parquet",
    "embeddings": {"text": {"path": "text.parquet"}},
    "user_embeddings": {"taste": {"path": "taste.parquet"}},
    "histories": {"liked": {"where": "rating >= 3"}},
    "within": {"by": "user_id", "columns": ["*__count"]},
    "counters": [{"name": "counters"}],
    "aggregate": [{"target": "rating", "residual": "item"}],
    "direct": [{}],
    "dual": [{}],
}


def deep(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "text": "text",
    "no text": "",
    "negative": -1,
    "zero": 0,
    "large": 2**70,
    "infinite": math.inf,
    "nan": math.nan,
    "true": True,
    "no list": [],
    "no table": {},
    "nested": deep(50),
    "mixed": [1, "a", {"b": []}, 2.5],
    "time": datetime(2026, 1, 31, tzinfo=UTC),
    "day": datetime(2026, 1, 31, tzinfo=UTC).date(),
    "clock": datetime(2026, 1, 31, tzinfo=UTC).time(),
    "long": "x" * 100_000,
    "control": "a\x00b\x1b[31m\n\x7f",
    "emoji": "😀\u202e`'\"[",
    "duration": "9" * 400 + "d",
    "pattern": "**/[*",
    "home": "~nobody-of-this-name/${NO_SUCH}/$",
    "url": "s3://",
}


def keys(schema: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every key of a schema, with one entry of each list and each table of tables."""
    for part in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
        if "$ref" in part:
            yield from keys(SCHEMA["$defs"][part["$ref"].rpartition("/")[2]], path)
        for key, inner in part.get("properties", {}).items():
            yield (*path, key)
            yield from keys(inner, (*path, key))
        entries = part.get("additionalProperties")
        if isinstance(entries, dict):
            name = NAMES.get(str(path[-1]), "text")
            yield (*path, name)
            yield from keys(entries, (*path, name))
        if isinstance(part.get("items"), dict):
            yield (*path, 0)
            yield from keys(part["items"], (*path, 0))


KEYS = list(dict.fromkeys(keys(SCHEMA)))


def with_value(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return the spec with another value at a path."""
    spec: Any = json.loads(json.dumps(SPEC))
    node = spec
    for at, following in pairwise(path):
        default: Any = [] if isinstance(following, int) else {}
        if isinstance(node, list):
            node += [default] * (not node)
        elif not isinstance(node.setdefault(at, default), type(default)):
            node[at] = default
        node = node[at]
    if isinstance(node, list):
        node[:1] = [value]
    else:
        node[path[-1]] = value
    return spec


def problem(label: str, *args: str | Path) -> str | None:
    """Run a command; return what is wrong with how it ended, if anything."""
    done = extembed(*args)
    if done.code not in EXPECTED or "Traceback" in done.err or (done.code and "error: " not in done.err):
        return f"{label}: exit {done.code}: {done.err[-400:]}"
    return None


@pytest.fixture
def inputs(world: World) -> World:
    """Provides inputs for a spec of every technique that needs no model."""
    rng = np.random.default_rng(3)
    world.write("taste", {"user_id": np.arange(30), "embedding": vectors(rng.standard_normal((30, 8)))})
    return world


@pytest.mark.parametrize("command", ["columns", soak("run")])
def test_each_key_with_some_value_is_taken_or_refused(inputs: World, command: str) -> None:
    """The next value for the next key: `make soak` has all pairs."""
    path, names, problems = inputs.folder / "spec.toml", list(VALUES), []
    for place, key in enumerate(KEYS[:: 1 if command == "run" else 3]):
        name = names[place % len(names)]
        path.write_text(tomli_w.dumps(with_value(key, VALUES[name])))
        problems.append(problem(f"{key} = {name}", command, path))
    assert not any(problems), "\n".join(filter(None, problems))


@pytest.mark.parametrize("name", [soak(name) for name in VALUES])
@pytest.mark.parametrize("by_set", [False, True])
def test_any_value_of_any_key_is_taken_or_refused(inputs: World, name: str, by_set: bool) -> None:
    path, problems, value = inputs.folder / "spec.toml", [], VALUES[name]
    text = "{}" if value == {} else tomli_w.dumps({"v": value}).partition("=")[2].strip()
    path.write_text(tomli_w.dumps(SPEC))
    for key in KEYS:
        if by_set:
            setting = ("--set", f"{'.'.join(map(str, key))}={text}")
        else:
            setting = ()
            path.write_text(tomli_w.dumps(with_value(key, value)))
        problems.append(problem(f"{key} = {name}", "run", path, *setting))
    assert not any(problems), "\n".join(filter(None, problems))


ODD_SETTINGS = [
    *("=", "a", "a.", ".a=1", "a..b=1", "0=1", "\x00=1", "columns.user=\ud800", "a" * 5000 + "=1", "a." * 5000 + "a=1"),
    *("aggregate=", "aggregate.-1.name=a", "aggregate.00000000000000000000009.name=a", "aggregate.²=1"),
    *("aggregate." + "9" * 5000 + "=1", "v=" + "[" * 5000),
]


@pytest.mark.parametrize("setting", ODD_SETTINGS, ids=range(len(ODD_SETTINGS)))
def test_odd_settings_are_refused(inputs: World, setting: str) -> None:
    path = inputs.folder / "spec.toml"
    path.write_text(tomli_w.dumps(SPEC))
    extembed("columns", path, "--set", setting).failed(2, "error: ")
