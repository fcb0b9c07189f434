"""Which columns of a table are the id and the vector."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from extembed_cli.data.columns.ordering import in_natural_order
from extembed_cli.data.foreign.source import MAX_DIM, Choices
from extembed_cli.errors import DataError, SpecError, did_you_mean, listing

_MOST_COLUMNS = MAX_DIM + 1000
_VECTOR_NAMES = ("embedding", "vector")


def choose_columns(path: Path, names: Sequence[str], choices: Choices) -> tuple[str | None, list[str]]:
    """Return the column of the ids (None = the ids are in another file) and those of the vectors, in order."""
    if len(names) > _MOST_COLUMNS:
        raise DataError(f"{path}: has {len(names):,} columns; tables of at most {_MOST_COLUMNS:,} are read")
    id_column = None if choices.ids is not None else _id_column(path, names, choices)
    others = [name for name in names if name != id_column]
    vectors = _vector_columns(path, others, choices.vector_columns)
    counts = Counter(names)
    twice = [name for name in (id_column, *vectors) if counts[name or ""] > 1]
    if twice:
        raise DataError(f"{path}: column `{twice[0]}` occurs twice; rename one")
    return id_column, vectors


def _id_column(path: Path, names: Sequence[str], choices: Choices) -> str:
    if choices.id_column is not None:
        if choices.id_column not in names:
            raise SpecError(f"{path}: no column `{choices.id_column}`{did_you_mean(choices.id_column, names)}")
        return choices.id_column
    for name in (choices.id_name, "id"):
        if name in names:
            return name
    index = " The one without a name is an index of pandas; if it has the ids: --id-column ''." if "" in names else ""
    raise SpecError(
        f"{path}: no column `{choices.id_name}` or `id`; name that of the ids with --id-column NAME "
        f"(columns: {listing(names, 8)}).{index}"
    )


def _vector_columns(path: Path, names: Sequence[str], pattern: str | None) -> list[str]:
    if pattern is not None:
        chosen = [name for name in names if name == pattern] or [n for n in names if fnmatchcase(n, pattern)]
        if not chosen:
            raise SpecError(f"{path}: no column fits --vector-columns {pattern}{did_you_mean(pattern, names)}")
        return in_natural_order(chosen)
    for name in _VECTOR_NAMES:
        if name in names:
            return [name]
    families = defaultdict(list)
    for name in names:
        if match := re.fullmatch(r"(.*?)[0-9]+", name, re.DOTALL):
            families[match[1]].append(name)
    numbered = [family for family in families.values() if len(family) > 1]
    if len(numbered) != 1:
        raise SpecError(
            f"{path}: which columns are the vector? Name one with lists of numbers, or a pattern of several with one "
            f"number each: --vector-columns 'd*' (columns: {listing(names, 8)})"
        )
    return in_natural_order(numbered[0])
