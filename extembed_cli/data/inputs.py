"""All inputs of a job together: opened, checked against each other, their keys read and encoded."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data import keys
from extembed_cli.data.embeddings import EmbeddingMatrix, TableIds, check_embedding, load_ids
from extembed_cli.data.histories import Candidates, Encoded, History
from extembed_cli.data.interactions import (
    Interactions,
    check_candidates,
    check_interactions,
    load_candidates,
    load_interactions,
    no_candidates,
)
from extembed_cli.data.tables import Table, open_table
from extembed_cli.errors import Problems
from extembed_cli.spec import DAY_US, Spec, duration_us, time_us

_YEAR_US = 365 * DAY_US


@dataclass(frozen=True)
class Inputs:
    """The tables of a spec, their footers checked."""

    interactions: Table
    candidates: Table | None
    embeddings: dict[str, Table]

    @property
    def tables(self) -> list[Table]:
        return [table for table in (self.interactions, self.candidates, *self.embeddings.values()) if table]

    def digests(self, stop: threading.Event) -> dict[str, Any]:
        """Digest of every input's content by its name in the spec; cut short when `stop` is set."""
        return {
            "interactions": self.interactions.digest(stop),
            **({"candidates": self.candidates.digest(stop)} if self.candidates else {}),
            "embeddings": {name: table.digest(stop) for name, table in self.embeddings.items()},
        }

    def check_unchanged(self) -> None:
        """Refuse inputs that changed since they were opened: keys and vectors would be of different files."""
        for table in self.tables:
            table.check_unchanged()


@dataclass(frozen=True)
class Loaded:
    """Everything that is read before a vector is: ids, times and what the expressions say."""

    inputs: Inputs
    interactions: Interactions
    candidates: pl.DataFrame
    ids: dict[str, TableIds]
    encoded: Encoded
    vectors_as_of: int
    """The moment of user vectors (us)."""

    @property
    def history(self) -> History:
        return self.encoded.history

    @property
    def asked(self) -> Candidates:
        return self.encoded.asked

    @cached_property
    def coverage(self) -> dict[str, dict[str, float | None]]:
        """By table: the share of used events and of candidates whose item has a row in it."""
        shares: dict[str, dict[str, float | None]] = {}
        for name, table in self.ids.items():
            items, ids = keys.same_type(self.encoded.vocabulary, table.ids)
            shares[name] = self.share_of(np.append(items.is_in(ids.drop_nulls().implode()).to_numpy(), False))
        return shares

    def share_of(self, items: NDArray[np.bool_]) -> dict[str, float | None]:
        """The share of used events and of candidates with one of the chosen items (items + 1; the last = null)."""
        return {"events": _share(items[self.history.items]), "candidates": _share(items[self.asked.items])}


@dataclass
class Opened:
    """What could be opened and checked so far: so that one bad input does not hide what is wrong with the others."""

    interactions: Table | None = None
    candidates: Table | None = None
    embeddings: dict[str, Table] = field(default_factory=dict)

    def complete(self, spec: Spec) -> Inputs:
        """All tables of a spec; call it when no problem was found."""
        assert self.interactions is not None
        return Inputs(self.interactions, self.candidates, {name: self.embeddings[name] for name in spec.embeddings})


def open_inputs(spec: Spec, problems: Problems) -> Opened:
    """Open all inputs, check their footers, and that their ids can meet."""
    opened = Opened()
    with problems.collect():
        table = open_table("interactions", spec.interactions)
        check_interactions(spec, table)
        opened.interactions = table
    if spec.candidates is not None:
        with problems.collect():
            table = open_table("candidates", spec.candidates)
            check_candidates(spec, table)
            opened.candidates = table
    for name, options in spec.embeddings.items():
        with problems.collect():
            table = open_table(f"embeddings {name}", options.path)
            check_embedding(spec, name, table)
            opened.embeddings[name] = table

    users, items = [], []
    if opened.interactions is not None:
        users.append((opened.interactions, spec.column("interactions", "user")))
        items.append((opened.interactions, spec.column("interactions", "item")))
    if opened.candidates is not None:
        users.append((opened.candidates, spec.column("candidates", "user")))
        items.append((opened.candidates, spec.column("candidates", "item")))
    items += [(table, spec.embedding_column(name, "item")) for name, table in opened.embeddings.items()]
    for what, uses in (("user", users), ("item", items)):
        with problems.collect():
            keys.check_id_kinds(what, uses)
    return opened


@dataclass
class Keys:
    """Ids and times of the inputs, and what the expressions say."""

    interactions: Interactions | None = None
    candidates: pl.DataFrame | None = None
    ids: dict[str, TableIds] = field(default_factory=dict)


def read_keys(spec: Spec, opened: Opened, problems: Problems) -> Keys:
    """Read the keys of all inputs that could be opened."""
    found = Keys()
    if opened.interactions is not None:
        with problems.collect():
            found.interactions = load_interactions(spec, opened.interactions)
    if opened.candidates is not None:
        with problems.collect():
            found.candidates = load_candidates(spec, opened.candidates)
    if spec.candidates is None:
        found.candidates = no_candidates()
    for name, table in opened.embeddings.items():
        with problems.collect():
            found.ids[name] = load_ids(spec, name, table)
    return found


def vectors_as_of(spec: Spec, interactions: Interactions) -> int:
    """The moment of user vectors (us): `as_of`, or else just after the newest interaction, floored to `as_of_step`."""
    newest: Any = interactions.frame["time"].max()
    moment = time_us(spec.as_of) if spec.as_of else (newest or 0) + 1
    return moment // spec.as_of_step_us * spec.as_of_step_us


def report(loaded: Loaded, embeddings: dict[str, EmbeddingMatrix] | None = None) -> dict[str, Any]:
    """The inputs in the run report: rows, what was dropped and why, coverage (by vectors once they are loaded)."""
    frame = loaded.candidates
    tables = {name: {**ids.report, "coverage": loaded.coverage[name]} for name, ids in loaded.ids.items()}
    for name, matrix in (embeddings or {}).items():
        tables[name] = {**matrix.report, "coverage": loaded.share_of(matrix.slots != matrix.missing)}
    return {
        "interactions": {
            "rows": loaded.interactions.rows,
            "dropped": loaded.interactions.dropped,
            "null_targets": loaded.interactions.null_targets,
            "of_users_without_candidates": len(loaded.interactions.frame) - len(loaded.history.items),
            "used": len(loaded.history.items),
        },
        "histories": {name: int(np.count_nonzero(flags)) for name, flags in loaded.history.members.items()},
        "candidates": {
            "rows": len(frame),
            "users": int(np.count_nonzero(np.diff(loaded.asked.indptr))),
            "null_user_or_time": int((frame["user"].is_null() | frame["time"].is_null()).sum()),
            "null_item": int(frame["item"].null_count()),
        },
        "embeddings": tables,
    }


def mismatches(spec: Spec, loaded: Loaded) -> list[str]:
    """Signs that the inputs do not meet: the features would be valid and worthless."""
    found: list[str] = []
    times = spec.column("interactions", "time")
    if keys.has_dates(loaded.inputs.interactions, times) and duration_us(spec.lag) < DAY_US:
        found.append(
            f"interactions: column `{times}` has dates without a time of day: a candidate at 09:00 would see that "
            'day\'s evening. Set lag = "1d" (--lag 1d)'
        )
    if loaded.inputs.candidates is not None:
        if not len(loaded.asked.rows):
            return found
        found += _mismatched_candidates(spec, loaded)
    if not len(loaded.history.items):
        return found or ["no interaction can be used, every history is empty"]
    if loaded.interactions.frame["time"].max() < _YEAR_US:  # type: ignore[operator]
        found.append("all interactions are in 1970, so candidates would see their future. Is time_unit right?")
    for name, flags in loaded.history.members.items():
        if not flags.any():
            found.append(
                f"histories.{name}: no interaction fits where = {spec.history(name).where!r}: it is always empty"
            )
    for text, values in loaded.history.targets.items():
        if np.isnan(values).all():
            found.append(f"target = {text!r}: null for every interaction, so there is nothing to fit")
    for name, share in loaded.coverage.items():
        if 0 in share.values():
            side = "interactions" if share["events"] == 0 else "candidates"
            found.append(f"embeddings {name}: no item of the {side} has a vector. Are the item ids the same?")
    return found


def _mismatched_candidates(spec: Spec, loaded: Loaded) -> list[str]:
    asked, history = loaded.asked, loaded.history
    if not np.diff(history.indptr)[np.diff(asked.indptr) > 0].any():
        return ["no user of the candidates has an interaction, every history is empty. Are the user ids the same?"]
    if int(asked.times.max()) - duration_us(spec.lag) <= int(history.times.min()):
        return ["all candidates are before the first interaction, so every history is empty. Is time_unit right?"]
    return []


def _share(flags: NDArray[np.bool_]) -> float | None:
    return round(float(flags.mean()), 4) if len(flags) else None
