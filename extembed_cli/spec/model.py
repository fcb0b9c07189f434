"""The spec of a job: what to compute. How to compute it (workers, memory, engine) is up to the run options.

Flags and TOML files build the same frozen `Spec` (spec/loading.py). No data library is used here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PrivateAttr, ValidationInfo, create_model, model_validator

from extembed_cli.errors import did_you_mean
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.groups import DualGroup, Group, HistoryGroup, NeuralGroup, TableGroup
from extembed_cli.spec.requirements import Requirements
from extembed_cli.spec.sides import Side, TableKind
from extembed_cli.spec.tables import (
    Columns,
    DerivedSpec,
    EmbeddingSpec,
    Matrix,
    TableSpec,
    TimeColumn,
    TimeKeys,
    UserEmbeddingSpec,
)
from extembed_cli.spec.types import Duration, Frozen, Name, Paths, PositiveDuration, Time, TimeFormat, TimeUnit

ALL = "all"  # the history of every interaction; always exists
MAX_PASSES = 3  # of users, and of items with and without the candidate's own user
FOR_TRAINING = "for_training"  # key of the validation's context: a spec for training needs no group
UNKNOWN = "nothing is named"  # what messages say about a name that stands for nothing
PARTIAL = "partial"  # another: what is left of a spec needs neither a group nor a table

AnyGroup = TypeVar("AnyGroup", bound=Group)


class HistorySpec(Frozen):
    """A named history: which of a user's interactions belong to it."""

    where: str | None = None
    """A column's name or a row-wise SQL expression over the interactions; true = belongs to the history."""
    window: PositiveDuration | None = None
    """Only events at most this old at the as-of time; from the beginning unless set."""
    max_events: Annotated[int, Field(ge=1, le=10**12, strict=True)] | None = None
    """Only this many of the newest visible events; all unless set."""


class WithinSpec(Frozen):
    """Features relative to those of the other candidates of a request."""

    by: str
    """Column of the candidates that has the request of each."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of features, or patterns such as `text__liked__*`: each gets its rank in the request, its difference from
    the median, and that in standard deviations."""


class Spec(Frozen):
    """One job: which features, from which interactions, candidates and embedding tables."""

    interactions: Paths
    """File, list of files, glob or directory of Parquet with user ids, item ids and timestamps."""
    candidates: Paths | None = None
    """The (user, item, timestamp) rows that get features; their other columns pass through. May be missing where only
    user vectors are written."""
    output: str | None = None
    """The Parquet file to write, or a directory of parts where it does not end in `.parquet`."""
    as_of: Time | None = None
    """One as-of time for all candidates, ISO 8601; naive = UTC."""
    as_of_step: PositiveDuration | None = None
    """Floor as-of times to this step since 1970 UTC: what a nightly (`1d`) batch would have known."""
    lag: Duration = "0s"
    """Events this young at the as-of time are not visible yet."""
    time_unit: TimeUnit | None = None
    """The unit of timestamps that are numbers since 1970 UTC."""
    time_format: TimeFormat | None = None
    """The format of timestamps that are text, such as `%d/%m/%Y %H:%M`; ISO 8601 unless set."""
    weight: str | None = None
    """Weight of an interaction: a column's name or a row-wise SQL expression; 1 unless set."""
    columns: Columns = Columns()
    """Your column names."""
    embeddings: dict[Name, EmbeddingSpec] = Field(default_factory=dict)
    """Embedding tables by name; a spec of counters alone needs none."""
    user_embeddings: dict[Name, UserEmbeddingSpec] = Field(default_factory=dict)
    """Tables of users' own vectors by name."""
    histories: dict[Name, HistorySpec] = Field(default_factory=dict)
    """Named histories; `all` (every interaction) always exists."""
    within: WithinSpec | None = None
    """Features relative to those of the other candidates of a request."""
    require: Requirements = Requirements()
    """What the data must reach."""

    _values: dict[Expression, str] = PrivateAttr(default_factory=dict)
    """Numbers that are read from an event though no group does, with the key that has each: a training has none."""
    _side: Side | None = PrivateAttr(default=None)
    """Of a pass: only its groups count; None = all sides"""
    _reads: Literal["derivation", "survey"] | None = PrivateAttr(default=None)
    """What a pass reads the log for, if it has no candidates to compute: no group counts when vectors of users are
    derived, and those alone that have to learn from the events of all items in a survey"""

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Spec:
        problems = []
        if self.histories.get(ALL, HistorySpec()).where is not None:
            problems.append("histories.all: `all` is every interaction and takes no `where`; use another name")
        for key, group in self.groups.items():
            if isinstance(group, HistoryGroup):
                problems += _unknown(f"{key}.histories", group.histories, [ALL, *self.histories])
                problems += self._not_added_up(key, group) if group.surveys else []
            for kind, names in group.tables.items():
                problems += _unknown(f"{key}.{kind}", names, getattr(self, kind))
        for name, table in self.user_embeddings.items():
            if table.derived is not None:
                source, history = table.derived.embedding, table.derived.history
                key = f"user_embeddings.{name}.from"
                problems += _unknown(f"{key}.embedding", (source,), self.embeddings)
                problems += _unknown(f"{key}.history", (history,), [ALL, *self.histories])
        problems += self._timeless()
        problems += [
            f"user_embeddings.{name}: `{name}` is an embedding table of items too; use another name"
            for name in self.user_embeddings
            if name in self.embeddings
        ]
        for_training = (info.context or {}).get(FOR_TRAINING)
        items, users = self._in_need_of("embeddings"), self._in_need_of("user_embeddings")
        if not self.embeddings and (items or for_training):
            problems.append(f"`embeddings` is missing: {items or 'a model'} needs an embedding table")
        if not self.user_embeddings and users:
            problems.append(f"`user_embeddings` is missing: {users} needs a table of users")
        if not self.groups and not for_training and not (info.context or {}).get(PARTIAL):
            listed = [f"[[{technique}]]" for technique in Group.known]
            problems.append(f"nothing to compute: add a group, {', '.join(listed[:-1])} or {listed[-1]}")
        problems += self._wrong_paths()
        problems += self._wrong_requirements()
        if problems:
            raise ValueError(*problems)
        return self

    def _not_added_up(self, key: str, group: HistoryGroup) -> list[str]:
        """Return problems with histories whose old events go out of view."""
        limits = {name: (self.history(name).window, self.history(name).max_events) for name in self.histories_of(group)}
        return [
            f'{key}.histories: `{name}` has a {"window" if window else "max_events"}, but side = "all" adds up events '
            "along time and takes none off; use `half_life`, or name other histories"
            for name, (window, most) in limits.items()
            if window or most
        ]

    def _in_need_of(self, kind: TableKind) -> str:
        """Return the groups that need a kind of tables, as messages name them."""
        labels = (group.label for group in self.groups.values() if group.needs_tables and kind in group.tables)
        return " and ".join(dict.fromkeys(labels))

    def _timeless(self) -> list[str]:
        """Return problems with groups that need a sum over all vectors of a table whose vectors change."""
        problems = []
        for key, group in self.groups.items():
            if not isinstance(group, TableGroup):
                continue
            for name in self.tables_of(group, "user_embeddings"):
                table = self.user_embeddings.get(name)
                if table is None:  # unknown
                    continue
                if isinstance(group, DualGroup) and group.unobserved_weight and table.changes:
                    problems.append(f"{key}.unobserved_weight: needs vectors that are the same at all times")
                if group.center and table.columns.time is not None and not isinstance(table.center, str):
                    problems.append(f"{key}.center: the mean of vectors that change would know their future")
        return problems

    def _wrong_requirements(self) -> list[str]:
        """Return problems with what is required of tables and users."""
        tables = self.require.coverage if isinstance(self.require.coverage, dict) else {}
        known = dict.fromkeys([*self.embeddings, *self.user_embeddings])
        problems = [
            f"require.coverage: {UNKNOWN} `{name}`{did_you_mean(name, known)}" for name in tables if name not in known
        ]
        if self.require.users_met is not None and not any(g.of_side.owner == "user" for g in self.groups.values()):
            problems.append("require.users_met: no group reads the histories of users")
        return problems

    def _wrong_paths(self) -> list[str]:
        """Return problems with the paths of vectors, and with a spec without candidates."""
        problems = []
        if self.candidates is None and not all(group.owner_vectors for group in self.groups.values()):
            able = [
                f"[[{technique}]]" for technique, kind in Group.known.items() if "user_vectors" in kind.written_keys
            ]
            problems.append(
                f"`candidates` is missing: only {' and '.join(able)} groups that all write vectors (`user_vectors`, "
                "`item_vectors`, `all_vectors`) can do without"
            )
        if self.candidates is None and self.within is not None:
            problems.append("within: without `candidates` there are no requests; leave it out")
        if self.candidates is None and self.output is not None:
            problems.append("output: without `candidates` there are no features to write; leave it out")
        for key, group in self.groups.items():
            if not isinstance(group, DualGroup) or not group.owner_vectors:
                continue
            for kind, names in (("embedding table", self.embeddings_of(group)), ("history", self.histories_of(group))):
                if len(names) > 1:
                    problems.append(
                        f"{key}.{group.side}_vectors: takes one {kind}, and the group has {len(names)}: "
                        f"{', '.join(names)}; name one of them"
                    )
        for key, path in self._vector_paths().items():
            if not path.endswith(".parquet"):
                problems.append(f"{key}: `{path}` must end in .parquet")
            outputs = [normpath(output) for output in self.outputs]
            outputs.remove(normpath(path))
            if normpath(path) in outputs:
                problems.append(f"{key}: `{path}` is the path of another output too")
            if any(Path(output) in Path(normpath(path)).parents for output in outputs):
                problems.append(f"{key}: `{path}` is inside the output, whose readers would read it too")
        return problems

    def _vector_paths(self) -> dict[str, str]:
        """Return the paths of the files of vectors, by key."""
        return {f"{key}.{inner}": path for key, group in self.groups.items() for inner, path in group.written().items()}

    # --- groups ---

    @property
    def groups(self) -> dict[str, Group]:
        """All groups by key, such as `dual.0`, in order of techniques."""
        return {
            f"{technique}.{index}": group
            for technique in Group.known
            for index, group in enumerate(getattr(self, technique, ()))
            if (group.surveys if self.is_survey else self._side in (None, group.of_side))
            and self._reads != "derivation"
        }

    def of(self, kind: type[AnyGroup]) -> tuple[AnyGroup, ...]:
        """Return the groups of one technique."""
        return tuple(group for group in self.groups.values() if isinstance(group, kind))

    def with_groups(self, *groups: Group) -> Spec:
        """Return a spec with the same inputs and histories, other groups, and no output except that of these groups."""
        by_technique: dict[str, tuple[Group, ...]] = {
            technique: tuple(group for group in groups if group.technique == technique) for technique in Group.known
        }
        return self.model_copy(update={**by_technique, "output": None, "within": None})

    def for_training(self, group: NeuralGroup | None) -> Spec:
        """Return a spec without groups, with the values that the model of a group reads."""
        spec = self.with_groups()
        spec._side = Side()
        if group is not None:
            key = next(key for key, each in self.groups.items() if each is group)
            spec._values = {expression: f"{key}.{inner}" for inner, expression in group.expressions().items()}
        return spec

    def with_plain_targets(self) -> Spec:
        """Return a spec that reads the targets of residuals, too: no group needs them, but a person may."""
        spec = self.model_copy()
        spec._values = {target.of(None): key for target, key in self.targets.items() if target.residual is not None}
        return spec

    def histories_of(self, group: HistoryGroup) -> tuple[str, ...]:
        """Return the names of the histories that a group uses, each once."""
        return tuple(dict.fromkeys(group.histories or tuple(self.histories) or (ALL,)))

    def tables_of(self, group: Group, kind: TableKind) -> tuple[str, ...]:
        """Return the names of the tables of a kind that a group uses, each once."""
        names = group.tables.get(kind, ())
        return tuple(dict.fromkeys(getattr(self, kind) if names is None else names))

    def embeddings_of(self, group: Group) -> tuple[str, ...]:
        """Return the names of the tables with the partners' vectors that a group uses, each once."""
        return self.tables_of(group, group.of_side.partner_tables)

    def matrix(self, table: str, group: Group | None = None) -> Matrix:
        """Return the vectors of a table as a group uses them, or as the table says."""
        center = group.center if isinstance(group, TableGroup) else None
        return Matrix(table, bool(self.table(table).center) if center is None else center)

    # --- sides ---

    @property
    def side(self) -> Side:
        """Whose histories a pass reads."""
        return self._side or Side()

    def passes(self) -> list[Spec]:
        """Return a spec for each side whose histories the groups read, with its groups alone; users come first."""
        sides = sorted({group.of_side for group in self.groups.values()}, reverse=True)
        return [self.pass_of(side) for side in sides]

    @property
    def whole(self) -> Spec:
        """The spec that a pass is of."""
        spec = self.model_copy()
        spec._side, spec._reads = None, None
        return spec

    def derivations(self) -> list[str]:
        """Return the names of the derived tables that the groups use."""
        used = dict.fromkeys(n for group in self.groups.values() for n in self.tables_of(group, "user_embeddings"))
        return [name for name in used if self.user_embeddings[name].derived]

    def derivation(self) -> Spec:
        """Return the spec of the pass that derives tables of users from the histories of all users."""
        spec = self.pass_of(Side())
        spec._reads = "derivation"
        spec._values = self._derived_targets()
        return spec

    def survey(self) -> Spec | None:
        """Return the spec of the pass over the events of all items that groups have to learn from; None if none has."""
        spec = self.pass_of(Side("item"))
        spec._reads = "survey"
        return spec if spec.groups else None

    @property
    def is_survey(self) -> bool:
        """Whether it is the spec of the pass that groups have to learn from."""
        return self._reads == "survey"

    def _derived_targets(self) -> dict[Expression, str]:
        targets = {name: self.derived(name).target_expression for name in self.derivations()}
        return {target: f"user_embeddings.{name}.from.target" for name, target in targets.items() if target is not None}

    def derived(self, name: str) -> DerivedSpec:
        """Return how a table is derived."""
        derived = self.user_embeddings[name].derived
        assert derived is not None
        return derived

    def pass_of(self, side: Side) -> Spec:
        """Return the spec with the groups of one side."""
        spec = self.model_copy()
        spec._side = side
        return spec

    @property
    def tables(self) -> Mapping[str, TableSpec]:
        """The tables of vectors by name; in a pass those of the partners alone."""
        if self.is_survey:
            used = dict.fromkeys(name for group in self.groups.values() for name in self.embeddings_of(group))
            return {name: self.embeddings[name] for name in used}
        if self._reads == "derivation":
            sources = dict.fromkeys(table.derived.embedding for table in self.user_embeddings.values() if table.derived)
            return {name: self.embeddings[name] for name in sources}
        if self._side is None:
            return {**self.embeddings, **self.user_embeddings}
        return self.embeddings if self.side.partner == "item" else self.user_embeddings

    @property
    def read_histories(self) -> list[str]:
        """Names of the histories that the groups of a pass use."""
        groups = [group for group in self.groups.values() if isinstance(group, HistoryGroup)]
        return list(dict.fromkeys(name for group in groups for name in self.histories_of(group)))

    @property
    def read_tables(self) -> list[str]:
        """Names of all tables that a pass reads."""
        return list(dict.fromkeys([*self.tables, *self.owner_tables]))

    @property
    def owner_tables(self) -> list[str]:
        """Names of the tables with vectors of the owners that the groups of a pass use."""
        groups = [group for group in self.groups.values() if group.of_side.owner == "user"]
        return list(dict.fromkeys(name for group in groups for name in self.tables_of(group, "user_embeddings")))

    def kind_of(self, table: str) -> TableKind:
        """Return whether a table is one of items or of users."""
        return "embeddings" if table in self.embeddings else "user_embeddings"

    def table(self, name: str) -> TableSpec:
        """Return a table of items or users."""
        return self.embeddings.get(name) or self.user_embeddings[name]

    @property
    def needs_all_owners(self) -> bool:
        """Whether users without a candidate are needed too."""
        if self._reads is not None:
            return True
        written = [group for group in self.groups.values() if group.owner_vectors]
        # Everybody's model is there before the pass of users: it reads their events to count them, if nothing else.
        return any(not group.surveys or self.candidates is None for group in written)

    # --- inputs and outputs ---

    @property
    def outputs(self) -> list[str]:
        """Paths of the files that a job writes: the features first, then vectors."""
        features = [] if self.output is None else [self.output]
        return [*features, *self._vector_paths().values()]

    def column(self, source: Literal["interactions", "candidates"], role: str) -> str:
        """Return the user's name for the column `user`, `item` or `time` of an input."""
        return getattr(getattr(self.columns, source), role) or getattr(self.columns, role) or _DEFAULT_COLUMNS[role]

    def times(self, source: Literal["interactions", "candidates"]) -> TimeColumn:
        """Return the column of times of an input."""
        return self._times(self.column(source, "time"), getattr(self.columns, source))

    def _times(self, name: str, keys: TimeKeys) -> TimeColumn:
        return TimeColumn(name, keys.time_unit or self.time_unit, keys.time_format or self.time_format)

    def table_path(self, table: str) -> str | tuple[str, ...] | None:
        """Return the path of a table; None for a derived one."""
        return self.embeddings[table].path if table in self.embeddings else self.user_embeddings[table].path

    def id_column(self, table: str) -> str:
        """Return the user's name for the column of ids of a table."""
        return self._table_column(table, "item" if table in self.embeddings else "user")

    def time_column(self, table: str) -> TimeColumn | None:
        """Return the column of times of a table whose vectors change; None for any other."""
        if table in self.embeddings:
            return None
        columns = self.user_embeddings[table].columns
        return None if columns.time is None else self._times(columns.time, columns)

    def vector_column(self, table: str) -> str:
        """Return the user's name for the column of vectors of a table."""
        return self._table_column(table, "embedding")

    def _table_column(self, table: str, role: str) -> str:
        columns = self.embeddings[table].columns if table in self.embeddings else self.user_embeddings[table].columns
        return getattr(columns, role) or getattr(self.columns, role) or _DEFAULT_COLUMNS[role]

    def table_label(self, table: str) -> str:
        """Return the kind and the name of a table, as messages name it."""
        return f"{self.kind_of(table)} {table}"

    # --- histories ---

    @property
    def as_of_step_us(self) -> int:
        """Microseconds of `as_of_step`; 1 (no flooring) unless set."""
        return 1 if self.as_of_step is None else duration_us(self.as_of_step)

    def history(self, name: str) -> HistorySpec:
        """Return the history of that name; `all` exists even if the spec does not have it."""
        return self.histories.get(name, HistorySpec())

    def membership(self, history: str) -> Expression | None:
        """Return the expression that selects the events of a history; None = all events."""
        where = self.history(history).where
        return None if where is None else Expression(where, "Boolean")

    @property
    def event_weight(self) -> Expression | None:
        """The expression of an event's weight; None = 1."""
        return None if self.weight is None else Expression(self.weight, "Float64")

    @property
    def expressions(self) -> dict[Expression, str]:
        """Every different expression over the columns of the interactions, with the first key that has it; the weight
        first."""
        keys: dict[Expression, str] = {}
        if self.event_weight is not None:
            keys[self.event_weight] = "weight"
        for name in self.histories:
            member = self.membership(name)
            if member is not None:
                keys.setdefault(member, f"histories.{name}.where")
        for target, key in self.targets.items():
            keys.setdefault(target.of(None), key)
        return keys

    @property
    def targets(self) -> dict[Expression, str]:
        """Every different number that a group reads from an event, or its residual, with the first key that has it."""
        keys: dict[Expression, str] = dict(self._values)
        for key, group in self.groups.items():
            for inner, expression in group.expressions().items():
                keys.setdefault(expression, f"{key}.{inner}")
        if self._side is None:
            for target, key in self._derived_targets().items():
                keys.setdefault(target, key)
        return keys

    # --- meaning ---

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the data, which is not checked again: the class with the groups of all techniques has no module."""
        return _blank, (), self.__getstate__()

    def meaning(self) -> dict[str, Any]:
        """Return the computation as plain data, without output, paths and run options."""
        data: dict[str, Any] = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"output", "interactions", "candidates", "require"}
        )
        for kind in ("embeddings", "user_embeddings"):
            data.pop(kind)
            tables = getattr(self, kind)
            if tables or kind == "embeddings":
                data[kind] = {name: table.meaning() for name, table in tables.items()}
        for technique in Group.known:
            groups = [group.meaning() for group in getattr(self, technique, ())]
            if groups:
                data[technique] = groups
            else:
                data.pop(technique, None)
        return data


def spec_type() -> type[Spec]:
    """Return the class of specs with a list of groups for every technique. TOML files are checked against it."""
    return _spec_type(tuple(Group.known.values()))


def _blank() -> Spec:
    """Return a spec for pickle to fill."""
    return spec_type().__new__(spec_type())


@cache
def _spec_type(kinds: tuple[type[Group], ...]) -> type[Spec]:
    fields: dict[str, Any] = {
        kind.technique: Annotated[tuple[kind, ...], Field(default=(), description=_first_line(kind))]  # type: ignore[valid-type]
        for kind in kinds
    }
    spec_class: type[Spec] = create_model("Spec", __base__=Spec, __doc__=Spec.__doc__, **fields)
    return spec_class


def _first_line(kind: type[Group]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _unknown(key: str, used: tuple[str, ...] | None, known: Collection[str]) -> list[str]:
    """Return problems with a list of names."""
    if used is not None and not used:
        return [f"{key}: the list is empty; leave the key out to use all"]
    return [f"{key}: {UNKNOWN} `{name}`{did_you_mean(name, known)}" for name in used or () if name not in known]


_DEFAULT_COLUMNS = {"user": "user_id", "item": "item_id", "time": "timestamp", "embedding": "embedding"}
