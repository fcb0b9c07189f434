"""A technique, as the rest of the program knows it: no other module knows one by name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import polars as pl

from extembed_cli.arrays import Bools, Doubles, Floats, Ints, Values
from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.data.shards.matrices import EmbeddingMatrix, TableVectors
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.histories.csr import Candidates, History, Shard
from extembed_cli.histories.event_lists import EventList
from extembed_cli.histories.visibility import Seen, visible
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.groups import Group
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix
from extembed_cli.system import threads

Task = Callable[[], Tally]
"""A piece of work of a shard: it computes its part of the results and returns the counts of it."""


# --- once --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableTotals:
    """Sums over all partners of an embedding table, whether or not the job needs their vectors."""

    partners: int
    """Partners that have a vector"""
    gramian: Doubles
    """Σ x xᵀ, each x with a constant 1 behind it: (d + 1, d + 1)"""


@dataclass(frozen=True)
class Prepared:
    """The embedding tables of a job, for a technique to prepare its own state from."""

    embeddings: dict[Matrix, EmbeddingMatrix]
    """Vectors of partners"""
    owner_tables: dict[Matrix, TableVectors]
    """Tables with vectors of the owners"""
    totals: dict[Matrix, TableTotals]
    """Of those whose Gramian a technique needs"""
    vocabulary: Vocabulary
    mapped: threads.Mapping = map
    folder: Path | None = None
    """Where arrays lie in mapped files; None = in memory"""
    surveyed: Mapping[str, Any] = field(default_factory=dict)
    """What techniques have learnt from the events of all items, by their keys"""


class Surveyed(NamedTuple):
    """What a technique has learnt from the events of all items."""

    result: Any
    tally: Tally
    bytes_in_memory: int = 0


class Rows(NamedTuple):
    """The rows of a job's log."""

    events: int
    candidates: int
    span_us: int | None
    """From the earliest to the latest of their times, if known before they are read"""


class Survey(Protocol):
    """Learns from the events of all items, before any shard is computed."""

    def add(self, shard: Shard) -> None:
        """Take the events and candidates of some items, in any number of shards: the result is the same."""

    def result(self, mapped: threads.Mapping) -> Surveyed:
        """Return the result, once all items have been added."""


class VectorFile(Protocol):
    """A file with one vector for each owner."""

    @property
    def dim(self) -> int:
        """Numbers of a vector as it is computed, the bias included."""

    @property
    def with_bias(self) -> bool:
        """Whether the last of them is a bias."""

    @property
    def meaning(self) -> str:
        """The meaning of the vectors."""

    def original(self, vectors: Floats) -> Values:
        """Return vectors (n, dim) in the coordinates in which they are written."""


@dataclass(frozen=True)
class MomentVectors:
    """A file with vectors that count from a time on."""

    path: str
    times: Ints
    """(n) us"""
    vectors: Doubles
    """(n, dim), with a bias last if there is one"""
    with_bias: bool
    meaning: str


@dataclass(frozen=True)
class ItemVectors:
    """A file with one vector for each partner of some tables."""

    path: str
    tables: Sequence[str]
    """Where the ids of the partners come from"""
    has_vector: Bools
    """(partners) in order of the vocabulary"""
    vectors: Floats
    """(partners that have one, dim)"""
    meaning: str


class State(Protocol):
    """The state of a technique that all shards share. Subclass it."""

    @property
    def passes(self) -> int:
        """Passes over the candidates of a shard."""
        ...

    def tasks(self, work: ShardWork) -> Iterator[Task]:
        """Yield the pieces of work of a shard, to be run in any order and by any thread."""
        ...

    def explain(self, work: ShardWork, place: int, statistics: Sequence[Hashable]) -> Mapping[Hashable, Explanation]:
        """Return how the values of some statistics come out for the candidate at a place; none by default."""
        return {}

    def vector_files(self) -> Mapping[str, VectorFile]:
        """Return the files of owner vectors, by path."""
        return {}

    def item_vectors(self) -> Iterator[ItemVectors]:
        """Yield the files of partner vectors."""
        return iter(())

    def moment_vectors(self) -> Iterator[MomentVectors]:
        """Yield the files of vectors that belong to nobody, but to moments."""
        return iter(())

    def save(self, arrays: ArrayFolder) -> dict[str, Any]:
        """Keep it in mapped files; returns the plain data that `Technique.open` needs."""
        return {}


# --- per slice of owners ------------------------------------------------------------------------------


@dataclass
class ShardWork:
    """Some owners with their events and candidates, and the results for them."""

    spec: Spec
    embeddings: dict[Matrix, EmbeddingMatrix]
    """The vectors of partners"""
    history: History
    candidates: Candidates
    owners: Candidates
    """One candidate for each owner, at the moment of owner vectors"""
    end: Ints
    """(Q) place of the first event that a candidate may not see any more"""
    owner_vectors: dict[Matrix, EmbeddingMatrix] = field(default_factory=dict)
    """The vectors of owners, by their nums"""
    partner_ids: pl.Series | None = None
    """Ids of partners by num, where messages name them"""
    values: dict[Hashable, Values] = field(default_factory=dict)
    """Results: (Q) of each statistic of the technique, NaN where it is undefined"""
    vectors: dict[str, Floats] = field(default_factory=dict)
    """Results: (U, dim) of each file of owner vectors, NaN where there is none"""
    flagged: dict[str, set[int]] = field(default_factory=dict)
    """Results: owners with a doubtful one, by reason"""
    _histories: dict[tuple[str, Expression], History] = field(default_factory=dict, init=False)
    _seen: dict[tuple[str, int], Seen] = field(default_factory=dict, init=False)
    _selected: dict[tuple[int, Matrix | Expression | None], Seen] = field(default_factory=dict, init=False)
    _lists: dict[int, EventList] = field(default_factory=dict, init=False)

    @property
    def passes_per_owner(self) -> float:
        """The share of an owner, where all owners together count as one pass over the candidates."""
        candidates = len(self.candidates.rows) if self.spec.candidates is not None else len(self.owners.rows)
        return candidates / max(1, len(self.owners.rows))

    def seen(self, history: str, target: Expression | None = None) -> Seen:
        """Return the events of a history that each candidate sees, ties in the order of a target."""
        events = self.in_order_of(history, target)
        key = history, id(events)
        if key not in self._seen:
            self._seen[key] = visible(self.spec, history, events, self.candidates, self.end)
        return self._seen[key]

    def event_list(self, history: str, target: Expression | None = None, matrix: Matrix | None = None) -> EventList:
        """Return the events of a history whose partner has a vector in a matrix, or without one those with a target.

        Ties are in the order of the target. Where the same events count in the same order, it is the same object, whose
        sums are there once.
        """
        events, seen = self.in_order_of(history, target), self.seen(history, target)
        key = id(seen), target if matrix is None else matrix
        if key not in self._selected:
            if matrix is not None:
                vectors = self.embeddings[matrix]
                seen = seen.only(vectors.has_vector(events.partners, events.times))
            elif target is not None:
                seen = seen.only(~np.isnan(events.values[target]))
            self._selected[key] = seen
        seen = self._selected[key]
        if id(seen) not in self._lists:
            self._lists[id(seen)] = EventList(events, self.candidates, seen)
        return self._lists[id(seen)]

    def in_order_of(self, history: str, target: Expression | None) -> History:
        """Return all events with ties in the order of a target and of what selects the history."""
        if target is None:
            return self.history
        key = history, target
        if key not in self._histories:
            used = (target, self.spec.membership(history))
            self._histories[key] = self.history.in_order_of([each for each in used if each is not None])
        return self._histories[key]


# --- what a run costs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes that a technique takes however the owners are cut into shards."""

    libraries: int = 0
    state: int = 0
    batch: int = 0
    """In each worker"""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a shard."""

    seconds: float = 0.0
    """Of one thread"""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers of results, such as cosines"""


# --- the technique -----------------------------------------------------------------------------------


class Technique(Protocol):
    """One way to get features from histories and embeddings. Subclass it, and list it in `features/registry.py`."""

    group: ClassVar[type[Group]]
    """Its table in a spec"""
    step: ClassVar[str]
    """The step of the ladder of an evaluation that its columns belong to"""
    is_trained: ClassVar[bool] = False
    """Whether models that have seen labels are behind its columns"""

    # --- what it computes ---

    def columns(self, spec: Spec) -> Iterator[Column]:
        """Yield the columns of all its groups; equal ones may come more than once."""
        ...

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> State:
        """Return the state of a job; `statistics` are what the technique's columns hold, each once."""
        ...

    def open(
        self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared, arrays: ArrayFolder, about: dict[str, Any]
    ) -> State:
        """Return the state that `State.save` kept. By default it is prepared again."""
        return self.prepare(spec, statistics, prepared)

    # --- what it reads ---

    def survey(self, spec: Spec, prepared: Prepared, events: int, candidates: int) -> Survey | None:
        """Return what learns from so many rows of all items, for the groups that survey; `prepared` numbers items."""
        return None

    def check_dims(self, spec: Spec, dims: Mapping[str, int]) -> None:
        """Raise if it cannot use vectors of these lengths, by table."""
        return

    def matrices(self, spec: Spec) -> Iterator[Matrix]:
        """Yield the vectors that it reads."""
        for group in spec.of(self.group):
            for kind in group.tables:
                yield from (spec.matrix(table, group) for table in spec.tables_of(group, kind))

    def needs_gramian(self, spec: Spec, matrix: Matrix) -> bool:
        """Whether it needs the Gramian of some vectors."""
        return False

    def copies(self, spec: Spec, matrix: Matrix) -> int:
        """Return how many copies of some vectors it keeps, in coordinates of its own."""
        return 0

    def models(self, spec: Spec) -> dict[str, str]:
        """Return the folder of the trained model behind each of its columns; none by default."""
        return {}

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that may change its bits."""
        return {}

    # --- what it costs ---

    def memory(self, spec: Spec, partners: int) -> Memory:
        """Return the memory that the technique takes, with so many partners in all tables."""
        return Memory()

    def memory_of_survey(self, spec: Spec, rows: Rows, dims: Mapping[str, int]) -> Memory:
        """Return the memory of a survey; its state may be in files."""
        return Memory()

    def bytes_of_longest(self, spec: Spec, events: int) -> int:
        """Return the bytes that a history of so many events takes in each worker, beyond those of a batch."""
        return 0

    def seconds_per_candidate(self, spec: Spec, events: float) -> float:
        """Return the estimated seconds of a candidate, with so many events of the log per candidate."""
        return 0.0

    def estimate(self, spec: Spec, work: ShardWork, dims: Mapping[str, int]) -> Estimate:
        """Return the estimated cost of a shard; `dims` are the lengths of the tables' vectors."""
        return Estimate()

    # --- what it reports ---

    def report(self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the technique's part of the run report."""
        return {}

    def closing(self, report: dict[str, Any]) -> Iterator[str]:
        """Yield its parts of the line that closes the log."""
        return iter(())

    def warnings(
        self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]], candidates: int
    ) -> Iterator[str]:
        """Yield warnings where its results may be worthless."""
        return iter(())

    # --- what an evaluation shows ---

    def chart_of(self, column: str) -> str | None:
        """Return the chart of distributions that may show a column of this name: the best column of each is shown."""
        return None
