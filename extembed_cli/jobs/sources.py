"""The files that a run reads: their paths, digests of those beside its tables, and what has changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extembed_cli.data.files.parquet import open_table
from extembed_cli.data.inputs.frozen import frozen_digest
from extembed_cli.errors import ExtembedError, counted
from extembed_cli.features.registry import models_of
from extembed_cli.neural.folder import read_config
from extembed_cli.spec.model import Spec
from extembed_cli.spec.paths import SPARK_TABLE

_OTHERS: dict[str, Callable[[str, str], str]] = {
    "models": lambda folder, label: read_config(folder).weights_sha256,
    "frozen": frozen_digest,
}
"""The digest of each kind of files that are no tables, from path and label"""
_DIGEST = {"files", "rows", "bytes", "sha256"}
"""The keys of the digest of a table"""


def input_paths(spec: Spec) -> dict[str, Any]:
    """Return the paths of the inputs as the spec has them, with the keys that their digests have in the run report."""
    paths: dict[str, Any] = {"interactions": spec.interactions, "candidates": spec.candidates}
    for name in spec.tables:
        if path := spec.table_path(name):
            paths.setdefault(spec.kind_of(name), {})[name] = path
    paths["models"] = models_of(spec)
    paths["frozen"] = {name: table.frozen for name, table in spec.tables.items() if table.frozen}
    return {key: path for key, path in paths.items() if path}


def other_digests(paths: dict[str, Any]) -> dict[str, Any]:
    """Return the digests of what a spec names beside its tables: trained models, and frozen sums of tables."""
    digests: dict[str, Any] = {}
    for keys, path in _leaves(paths):
        if keys[0] in _OTHERS:
            inner = digests
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})
            inner[keys[-1]] = _OTHERS[keys[0]](path, _label(keys, paths))
    return digests


NOT_COMPARED = "not compared: a table of Spark"
"""What `changes` says of an input that it cannot read"""


def changes(paths: dict[str, Any], digests: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield each input of a run report, and how it differs from when the run read it; None = not at all."""
    before = dict(_leaves(digests))
    for keys, path in _leaves(paths):
        label = _label(keys, paths)
        if any(each.startswith(SPARK_TABLE) for each in ([path] if isinstance(path, str) else path)):
            yield label, NOT_COMPARED
            continue
        yield label, _change(keys[0], label, path, before[keys])


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield paths or digests with all keys above each."""
    if isinstance(value, dict) and value.keys() != _DIGEST:
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, key))
    else:
        yield keys, value


def _label(keys: tuple[str, ...], paths: dict[str, Any]) -> str:
    """Return an input as messages name it: `interactions`, `embeddings text`, `embeddings text center`."""
    if keys[0] != "frozen":
        return " ".join(keys)
    kind = "embeddings" if keys[1] in paths.get("embeddings", {}) else "user_embeddings"
    return " ".join((kind, *keys[1:]))


def _change(kind: str, label: str, path: Any, before: Any) -> str | None:
    try:
        if kind in _OTHERS:
            return None if _OTHERS[kind](path, label) == before else f"{label}: {path}: has changed since the run"
        table = open_table(label, path if isinstance(path, str) else tuple(path))
        now = {"files": len(table.parts), "rows": table.rows, "bytes": table.bytes}
        if all(before[key] == value for key, value in now.items()) and table.digest_now() == before:
            return None
    except ExtembedError as error:
        return "; ".join(map(str, error.args))
    then, at_present = (f"{counted(each['rows'], 'row')} in {counted(each['files'], 'file')}" for each in (before, now))
    return f"{label}: has changed since the run: {then} then, {'as many' if then == at_present else at_present} now"
