"""The files that a run reads: their paths, digests of those beside its tables, and what has changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extembed_cli.data.frozen import frozen_digest
from extembed_cli.data.parquet import open_table
from extembed_cli.errors import ExtembedError, counted
from extembed_cli.features.registry import models_of
from extembed_cli.neural.folder import read_config
from extembed_cli.spec.model import Spec

_OTHERS: dict[str, Callable[[str, str], str]] = {
    "models": lambda folder, label: read_config(folder).weights_sha256,
    "frozen": frozen_digest,
}
"""The digest of each kind of files that are no tables, from path and label"""


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

    def digests(value: Any, kind: str, label: str) -> Any:
        if isinstance(value, dict):
            return {key: digests(inner, kind, f"{label} {key}") for key, inner in value.items()}
        return _OTHERS[kind](value, label)

    return {kind: digests(paths[kind], kind, kind) for kind in _OTHERS if kind in paths}


def changes(paths: dict[str, Any], digests: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield each input of a run report, and how it differs from when the run read it; None = not at all."""
    before = dict(_leaves(digests))
    for label, path in _leaves(paths):
        yield label, _change(label, path, before[label])


def _leaves(value: Any, label: str = "") -> Iterator[tuple[str, Any]]:
    """Yield paths or digests with the words of all keys above each, such as `embeddings text`."""
    if isinstance(value, dict) and "sha256" not in value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{label} {key}".strip())
    else:
        yield label, value


def _change(label: str, path: Any, before: Any) -> str | None:
    kind = label.partition(" ")[0]
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
