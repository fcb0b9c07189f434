"""All inputs of a job together: opened, checked against each other, their keys read and encoded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data import ids as keys
from extembed_cli.data.embeddings import EmbeddingMatrix, TableIds, check_embedding, load_ids, load_vectors
from extembed_cli.data.interactions import (
    Asked,
    Log,
    check_candidates,
    check_interactions,
    no_candidates,
    no_events,
    read_candidates,
    read_interactions,
)
from extembed_cli.data.parquet import Table, open_table
from extembed_cli.data.partition import Partition
from extembed_cli.data.scratch import Scratch
from extembed_cli.data.vector_cache import VectorCache
from extembed_cli.errors import Problems
from extembed_cli.histories.csr import Shard, encode
from extembed_cli.spec.model import DAY_US, Spec, duration_us, time_us

_YEAR_US = 365 * DAY_US
_KEYS = "keys.json"


@dataclass(frozen=True)
class Inputs:
    """The tables of a spec, their footers checked."""

    interactions: Table
    candidates: Table | None
    embeddings: dict[str, Table]

    @property
    def tables(self) -> list[Table]:
        return [table for table in (self.interactions, self.candidates, *self.embeddings.values()) if table]

    def digests(self, stop: threading.Event, known: dict[str, Any]) -> dict[str, Any]:
        """Digest of every input's content by its name in the spec; cut short when `stop` is set.

        Those of embedding tables may be known.
        """
        return {
            "interactions": self.interactions.digest(stop),
            **({"candidates": self.candidates.digest(stop)} if self.candidates else {}),
            "embeddings": {name: known.get(name) or table.digest(stop) for name, table in self.embeddings.items()},
        }

    def check_unchanged(self) -> None:
        """Refuse inputs that changed since they were opened: keys and vectors would be of different files."""
        for table in self.tables:
            table.check_unchanged()


@dataclass(frozen=True)
class Loaded:
    """Everything that is read before a vector is: ids, times and what the expressions say."""

    inputs: Inputs
    log: Log
    asked: Asked
    partition: Partition
    vocabulary: pl.Series
    """Item ids in order."""
    ranks: NDArray[np.int32]
    """The place in the vocabulary of each item's num in the partition."""
    ids: dict[str, TableIds]
    vectors_as_of: int
    """The moment of user vectors (us)."""

    def shard(self, spec: Spec, index: int) -> Shard:
        """One shard of users, its rows by user."""
        events, asked = (self.partition.frame(kind, index) for kind in ("events", "candidates"))
        return encode(
            no_events(spec) if events is None else events,
            no_candidates() if asked is None else asked,
            self.ranks,
            all_users=self.partition.all_users,
        )

    def items_in(self, table: str) -> NDArray[np.bool_]:
        """(items + 1) Which items have a row in an embedding table; the last stands for a null item."""
        items, ids = keys.same_type(self.vocabulary, self.ids[table].ids)
        return np.append(items.is_in(ids.drop_nulls().implode()).to_numpy(), False)


@dataclass
class Totals:
    """What there is in some shards, for the run report and for doubts; plain data."""

    users_asked: int = 0
    users_met: int = 0
    """Users with a candidate and an event."""
    events: int = 0
    candidates: int = 0
    members: dict[str, int] = field(default_factory=dict)
    """Events by history that has a `where`."""
    targets: dict[str, int] = field(default_factory=dict)
    """Events with a target, by its expression."""
    events_covered: dict[str, int] = field(default_factory=dict)
    candidates_covered: dict[str, int] = field(default_factory=dict)
    """Those whose item has a vector, by table."""
    oldest: int | None = None
    """The oldest event of the users (us)."""
    latest: int | None = None
    """The latest as-of time (us)."""

    @classmethod
    def of(cls, shard: Shard, with_vector: dict[str, NDArray[np.bool_]]) -> Totals:
        """Of one shard; by table, which items (items + 1, the last is a null item) count as having a vector."""
        history, asked = shard.history, shard.asked
        events_of, asked_of = np.diff(history.indptr), np.diff(asked.indptr)
        return cls(
            users_asked=_count(asked_of > 0),
            users_met=_count((asked_of > 0) & (events_of > 0)),
            events=len(history.items),
            candidates=len(asked.items),
            members={name: _count(flags) for name, flags in history.members.items()},
            targets={text: _count(~np.isnan(values)) for text, values in history.targets.items()},
            events_covered={name: _count(having[history.items]) for name, having in with_vector.items()},
            candidates_covered={name: _count(having[asked.items]) for name, having in with_vector.items()},
            oldest=int(history.times.min()) if len(history.times) else None,
            latest=int(asked.times.max()) if len(asked.times) else None,
        )

    def add(self, other: Totals, times: int = 1) -> None:
        """Add those of another shard, which may stand for several."""
        for name in ("users_asked", "users_met", "events", "candidates"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))
        for name in ("members", "targets", "events_covered", "candidates_covered"):
            counts = getattr(self, name)
            for key, count in getattr(other, name).items():
                counts[key] = counts.get(key, 0) + times * count
        self.oldest = min((t for t in (self.oldest, other.oldest) if t is not None), default=None)
        self.latest = max((t for t in (self.latest, other.latest) if t is not None), default=None)

    def coverage(self, table: str) -> dict[str, float | None]:
        """The share of used events and of candidates whose item has a vector."""
        return {
            "events": _share(self.events_covered.get(table, 0), self.events),
            "candidates": _share(self.candidates_covered.get(table, 0), self.candidates),
        }


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


def read_keys(
    spec: Spec,
    opened: Opened,
    partition: Partition,
    rows: int,
    problems: Problems,
    *,
    scratch: Scratch | None = None,
    cache: VectorCache | None = None,
    vectors: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Loaded | None:
    """Read ids, times and expressions of all inputs that could be opened, `rows` at a time, into the partition.

    None where something is wrong: `problems` then has it, and with `vectors` what is wrong with those too. What a
    killed run had read into its scratch folder is not read again.
    """
    log, asked = Log(), Asked()
    kept = scratch.read_json(_KEYS) if scratch is not None else None
    if kept is not None and partition.reopen(kept["files"]):
        log, asked = Log(**kept["log"]), Asked(**kept["asked"])
    else:
        _read_logs(spec, opened, partition, rows, problems, log, asked, progress)
        if scratch is not None and not problems.errors:
            files = partition.keep()
            opened.complete(spec).check_unchanged()  # what is kept has to be of what the digests are of
            scratch.write_json(_KEYS, {"files": files, "log": asdict(log), "asked": asdict(asked)})
    ids: dict[str, TableIds] = {}
    for name, table in opened.embeddings.items():
        with problems.collect():
            ids[name] = (cache and cache.ids(name)) or load_ids(spec, name, table)
    if problems.errors and vectors:
        for name, found in ids.items():
            with problems.collect():
                load_vectors(spec, name, opened.embeddings[name], found, None)
    if problems.errors:
        return None
    if spec.all_items:
        for found in ids.values():
            partition.vocabulary.nums(found.ids)
    moment = vectors_as_of(spec, log)
    vocabulary = partition.vocabulary
    return Loaded(opened.complete(spec), log, asked, partition, vocabulary.ids, vocabulary.ranks, ids, moment)


def _read_logs(
    spec: Spec,
    opened: Opened,
    partition: Partition,
    rows: int,
    problems: Problems,
    log: Log,
    asked: Asked,
    progress: Callable[[int], None],
) -> None:
    if opened.candidates is not None:
        with problems.collect(), partition.adding("candidates") as add:
            for frame in read_candidates(spec, opened.candidates, rows):
                add(asked.known(frame))
                progress(len(frame))
    if opened.interactions is not None:
        with problems.collect(), partition.adding("events") as add:
            for frame in read_interactions(spec, opened.interactions, rows):
                add(log.usable_events(frame))
                progress(len(frame))


def vectors_as_of(spec: Spec, log: Log) -> int:
    """The moment of user vectors (us): `as_of`, or else just after the newest interaction, floored to `as_of_step`."""
    moment = time_us(spec.as_of) if spec.as_of else (log.newest or 0) + 1
    return moment // spec.as_of_step_us * spec.as_of_step_us


def report(loaded: Loaded, totals: Totals, embeddings: dict[str, EmbeddingMatrix] | None = None) -> dict[str, Any]:
    """The inputs in the run report: rows, what was dropped and why, coverage (by vectors once they are loaded)."""
    log, asked = loaded.log, loaded.asked
    tables = {name: ids.report for name, ids in loaded.ids.items()}
    tables |= {name: matrix.report for name, matrix in (embeddings or {}).items()}
    return {
        "interactions": {
            "rows": log.rows,
            "dropped": log.dropped,
            "null_targets": log.null_targets,
            "of_users_without_candidates": log.usable - totals.events,
            "used": totals.events,
        },
        "histories": dict(totals.members),
        "candidates": {
            "rows": asked.rows,
            "users": totals.users_asked,
            "null_user_or_time": asked.null_user_or_time,
            "null_item": asked.null_item,
        },
        "embeddings": {name: {**table, "coverage": totals.coverage(name)} for name, table in tables.items()},
    }


def mismatches(spec: Spec, loaded: Loaded, totals: Totals) -> list[str]:
    """Signs that the inputs do not meet: the features would be valid and worthless."""
    found: list[str] = []
    times = spec.column("interactions", "time")
    if keys.has_dates(loaded.inputs.interactions, times) and duration_us(spec.lag) < DAY_US:
        found.append(
            f"interactions: column `{times}` has dates without a time of day: a candidate at 09:00 would see that "
            'day\'s evening. Set lag = "1d" (--lag 1d)'
        )
    if loaded.inputs.candidates is not None:
        if not totals.candidates:
            return found
        found += _mismatched_candidates(spec, totals)
    if not totals.events:
        return found or ["no interaction can be used, every history is empty"]
    if loaded.log.newest is not None and loaded.log.newest < _YEAR_US:
        found.append("all interactions are in 1970, so candidates would see their future. Is time_unit right?")
    for name, members in totals.members.items():
        if not members:
            found.append(
                f"histories.{name}: no interaction fits where = {spec.history(name).where!r}: it is always empty"
            )
    for text, targets in totals.targets.items():
        if not targets:
            found.append(f"target = {text!r}: null for every interaction, so there is nothing to fit")
    for name in loaded.ids:
        share = totals.coverage(name)
        if 0 in share.values():
            side = "interactions" if share["events"] == 0 else "candidates"
            found.append(f"embeddings {name}: no item of the {side} has a vector. Are the item ids the same?")
    return found


def _mismatched_candidates(spec: Spec, totals: Totals) -> list[str]:
    if not totals.users_met:
        return ["no user of the candidates has an interaction, every history is empty. Are the user ids the same?"]
    assert totals.oldest is not None
    assert totals.latest is not None
    if totals.latest - duration_us(spec.lag) <= totals.oldest:
        return ["all candidates are before the first interaction, so every history is empty. Is time_unit right?"]
    return []


def _count(flags: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(flags))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
