"""All inputs of a job: they are opened and checked against each other, and their keys are read and encoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Bools
from extembed_cli.data.columns.ids import check_id_kinds, id_kind, same_type
from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.files.parquet import Table, open_table
from extembed_cli.data.inputs.candidates import CandidateCounts, check_candidates, no_candidates, read_candidates
from extembed_cli.data.inputs.embeddings import TableIds, check_embedding, load_ids, load_vectors
from extembed_cli.data.inputs.encode import encode
from extembed_cli.data.inputs.interactions import EventCounts, check_interactions, no_events, read_interactions
from extembed_cli.data.inputs.residuals import Room, with_residuals
from extembed_cli.data.inputs.vector_cache import VectorCache
from extembed_cli.data.paths.hive import are_integers
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.partition import Partition
from extembed_cli.data.shards.scratch import Scratch
from extembed_cli.errors import Problems, SpecError, did_you_mean
from extembed_cli.histories.csr import Shard
from extembed_cli.spec.durations import time_us
from extembed_cli.spec.model import Spec

_READ = "read.json"


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
        """Return the digest of every input's content by its name in the spec; cut short when `stop` is set.

        `known` has digests of embedding tables that need not be computed.
        """
        digests: dict[str, Any] = {"interactions": self.interactions.digest(stop)}
        if self.candidates:
            digests["candidates"] = self.candidates.digest(stop)
        digests["embeddings"] = {}
        for name, table in self.embeddings.items():
            kind, _ = table.label.split()
            digests.setdefault(kind, {})[name] = known.get(name) or table.digest(stop)
        return digests

    def check_unchanged(self) -> None:
        """Raise if an input changed since it was opened: keys and vectors would come from different files."""
        for table in self.tables:
            table.check_unchanged()


@dataclass(frozen=True)
class Loaded:
    """Everything that is read before the vectors: ids, times and the values of the expressions."""

    inputs: Inputs
    events: EventCounts
    candidates: CandidateCounts
    vocabulary: Vocabulary
    ids: dict[str, TableIds]
    vectors_as_of: int
    """The as-of time of user vectors (us)."""

    def rows_of(self, table: str, ids: pl.Series) -> Bools:
        """(ids + 1) Whether a table has a row for each id; False for a null one."""
        each, known = same_type(ids, self.ids[table].ids)
        return np.append(each.is_in(known.drop_nulls().implode()).to_numpy(), False)


@dataclass(frozen=True)
class Sharded(Loaded):
    """The same, with the rows of the logs by shard of owners."""

    partition: Partition

    def tables(self, spec: Spec, index: int) -> tuple[pa.Table, pa.Table]:
        """Return the events and the candidates of one shard of users, in any order."""
        events, candidates = (self.partition.table(kind, index) for kind in ("events", "candidates"))
        return (
            ipc.to_arrow(no_events(spec)) if events is None else events,
            ipc.to_arrow(no_candidates()) if candidates is None else candidates,
        )

    def shard(self, spec: Spec, index: int) -> Shard:
        """Return one shard of users, its rows ordered by user."""
        return encode(spec, *self.tables(spec, index), self.vocabulary)


@dataclass
class Opened:
    """The inputs opened and checked so far, and the problems, so that one bad input does not hide those of others."""

    spec: Spec
    problems: Problems = field(default_factory=Problems)
    interactions: Table | None = None
    candidates: Table | None = None
    embeddings: dict[str, Table] = field(default_factory=dict)
    owners: pl.Series | None = None
    """Ids of the owners of a pass whose rows are read and counted; None = all"""

    @property
    def logs(self) -> list[Table]:
        """The interactions and candidates that could be opened."""
        return [table for table in (self.interactions, self.candidates) if table is not None]

    @property
    def tables(self) -> list[Table]:
        """All inputs that could be opened."""
        return [*self.logs, *self.embeddings.values()]

    def uses(self, role: str) -> list[tuple[Table, str]]:
        """Return the tables that have ids of users or items, with the column of these."""
        spec, kind = self.spec, "embeddings" if role == "item" else "user_embeddings"
        uses = [(table, spec.column("interactions", role)) for table in [self.interactions] if table is not None]
        uses += [(table, spec.column("candidates", role)) for table in [self.candidates] if table is not None]
        tables = ((table, name) for name, table in self.embeddings.items() if spec.kind_of(name) == kind)
        return [*uses, *((table, spec.id_column(name)) for table, name in tables)]

    def fit_keys(self, role: str) -> None:
        """Give ids that are the names of folders the type that the other inputs have."""
        columns = {column for _, column in self.uses(role)} - set(self.spec.columns.types)
        parts = [(part, column) for table, column in self.uses(role) for part in table.parts if column in columns]
        stored = {id_kind(p.schema.field(c).type) for p, c in parts if c in p.schema.names and c not in p.partition}
        keys = [(part, column) for part, column in parts if column in part.partition]
        kinds = {id_kind(part.schema.field(column).type) for part, column in keys}
        if not keys or stored | kinds in ({"integer"}, {"text"}):
            return
        texts = [part.partition[column] for part, column in keys]
        wanted = "integer" if stored == {"integer"} and are_integers(texts) else "text"
        for table, column in self.uses(role):
            changed = table.with_key_type(column, wanted)
            if table is self.interactions:
                self.interactions = changed
            elif table is self.candidates:
                self.candidates = changed
            else:
                self.embeddings = {n: changed if t is table else t for n, t in self.embeddings.items()}

    def complete(self) -> Inputs:
        """Return all tables of the spec; call this only if there are no problems."""
        assert self.interactions is not None
        embeddings = {name: self.embeddings[name] for name in self.spec.read_tables if self.spec.table_path(name)}
        return Inputs(self.interactions, self.candidates, embeddings)

    def of_pass(self, spec: Spec) -> Opened:
        """Return the inputs of a pass, with the same list of problems."""
        embeddings = {name: table for name, table in self.embeddings.items() if name in spec.read_tables}
        return replace(self, spec=spec, embeddings=embeddings)

    def of_owners(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a frame of users and items that are of the owners to read."""
        if self.owners is None:
            return frame
        owners, ids = same_type(self.owners, frame[self.spec.side.owner])
        return frame.filter(ids.is_in(owners.implode()))


def open_inputs(spec: Spec) -> Opened:
    """Open all inputs; check their footers, and that their ids can match."""
    opened = Opened(spec)
    problems = opened.problems
    with problems.collect():
        table = open_table("interactions", spec.interactions, spec.columns.types)
        check_interactions(spec, table)
        opened.interactions = table
    if spec.candidates is not None:
        with problems.collect():
            table = open_table("candidates", spec.candidates, spec.columns.types)
            check_candidates(spec, table)
            opened.candidates = table
    for name in spec.tables:
        path = spec.table_path(name)
        if path is None:  # derived
            continue
        with problems.collect():
            table = open_table(spec.table_label(name), path, spec.columns.types)
            check_embedding(spec, name, table)
            opened.embeddings[name] = table

    _check_types(opened)
    for role in ("user", "item"):
        opened.fit_keys(role)
        with problems.collect():
            check_id_kinds(role, opened.uses(role))
    return opened


def _check_types(opened: Opened) -> None:
    """Add the problems of `columns.types` about columns that are no names of folders.

    Those of an input with problems are not known, nor those of candidates that a job leaves out.
    """
    if opened.problems.errors or opened.candidates is None:
        return
    parts = [part for table in opened.tables for part in table.parts]
    keys = {key for part in parts for key in part.partition}
    stored = {name for part in parts for name in part.schema.names}
    for name in opened.spec.columns.types:
        with opened.problems.collect():
            if name in stored - keys:
                raise SpecError(
                    f"columns.types.{name}: is stored in the files, which have its type; this is for names of folders, "
                    "such as month=01. Leave it out"
                )
            if name not in keys:
                raise SpecError(
                    f"columns.types.{name}: no input has folders of this name{did_you_mean(name, sorted(keys))}"
                )


def read_inputs(
    opened: Opened,
    partition: Partition,
    rows: int,
    *,
    scratch: Scratch | None = None,
    cache: VectorCache | None = None,
    vectors: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Sharded:
    """Read ids, times and expressions of all inputs that could be opened, `rows` at a time, into the partition.

    Raises all problems together, earlier ones included; with `vectors`, also those of the vectors. Rows that a killed
    run has left in the scratch folder are not read again.
    """
    spec, problems = opened.spec, opened.problems
    events, candidates = EventCounts(), CandidateCounts()
    kept = scratch.read_json(_READ) if scratch is not None else None
    if kept is not None and partition.reopen(kept["partition"]):
        events, candidates = EventCounts(**kept["events"]), CandidateCounts(**kept["candidates"])
    else:
        _read_logs(opened, partition, rows, events, candidates, progress)
        if scratch is not None and not problems.errors:
            about = partition.keep()
            opened.complete().check_unchanged()  # kept rows and digests must be of the same files
            scratch.write_json(_READ, {"partition": about, "events": asdict(events), "candidates": asdict(candidates)})
    ids = read_ids(opened, cache, vectors=vectors)
    for every in ids_of_all(spec, ids):
        partition.numbering.numbers(every)
    return Sharded(
        opened.complete(),
        events,
        candidates,
        partition.numbering.vocabulary(),
        ids,
        vectors_as_of(spec, events),
        partition,
    )


def read_ids(opened: Opened, cache: VectorCache | None = None, *, vectors: bool = False) -> dict[str, TableIds]:
    """Return the ids of the embedding tables; raise all problems so far together, with `vectors` those of these too."""
    spec, problems = opened.spec, opened.problems
    ids: dict[str, TableIds] = {}
    for name, table in opened.embeddings.items():
        with problems.collect():
            ids[name] = (cache and cache.ids(name)) or load_ids(spec, name, table)
    if problems.errors and vectors:
        for name, table_ids in ids.items():
            with problems.collect():
                load_vectors(
                    spec, name, opened.embeddings[name], table_ids, None, [(bool(spec.table(name).center), None)]
                )
    problems.raise_any()
    return ids


def ids_of_all(spec: Spec, ids: dict[str, TableIds]) -> list[pl.Series]:
    """Return the ids of tables that a vocabulary needs, besides those of the logs."""
    return [each.ids for each in ids.values()] if any(group.reads_all_items for group in spec.groups.values()) else []


def _read_logs(
    opened: Opened,
    partition: Partition,
    rows: int,
    events: EventCounts,
    candidates: CandidateCounts,
    progress: Callable[[int], None],
) -> None:
    spec, problems = opened.spec, opened.problems
    has_residuals = any(target.residual is not None for target in spec.targets)

    def usable(table: Table) -> Iterator[pl.DataFrame]:
        for frame in read_interactions(spec, table, rows):
            counted = events.usable_events(spec, opened.of_owners(frame))
            if has_residuals and opened.owners is not None:  # they need the events of all
                yield EventCounts().usable_events(spec, frame)
            else:
                yield counted
            progress(len(frame))

    if opened.candidates is not None:
        with problems.collect(), partition.adding("candidates") as add:
            for frame in read_candidates(spec, opened.candidates, rows):
                add(opened.of_owners(candidates.usable_candidates(frame)))
                progress(len(frame))
    if opened.interactions is not None:
        with problems.collect(), partition.adding("events") as add:
            room = Room(partition.folder, partition.shards, rows, partition.most)
            for frame in with_residuals(spec, usable(opened.interactions), room):
                events.count_null_residuals(spec, frame)
                add(opened.of_owners(frame))


def vectors_as_of(spec: Spec, events: EventCounts) -> int:
    """Return the as-of time of user vectors (us): `as_of`, or just after the newest event, floored to `as_of_step`."""
    moment = time_us(spec.as_of) if spec.as_of else (events.newest or 0) + 1
    return moment // spec.as_of_step_us * spec.as_of_step_us
