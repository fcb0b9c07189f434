"""The tables of a spec: your names for columns, and tables of vectors of items and users."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from extembed_cli.spec.targets import TargetKeys
from extembed_cli.spec.types import Frozen, HalfLife, Paths, TimeFormat, TimeUnit


class TimeColumn(NamedTuple):
    """A column of times, and how it writes them."""

    name: str
    unit: str | None = None
    """Of numbers since 1970: s, ms, us or ns"""
    format: str | None = None
    """Of text, as strftime writes it; None = ISO 8601"""


class TimeKeys(Frozen):
    """How an input writes times that are numbers or text."""

    time_unit: TimeUnit | None = None
    """The unit of times that are numbers since 1970 UTC: `s`, `ms`, `us` or `ns`."""
    time_format: TimeFormat | None = None
    """The format of times that are text, such as `%d/%m/%Y %H:%M`; ISO 8601 unless set."""


class RoleColumns(Frozen):
    """Your names for the columns of a log."""

    user: str | None = None
    """Column of user ids; `user_id` unless set."""
    item: str | None = None
    """Column of item ids; `item_id` unless set."""
    time: str | None = None
    """Column of timestamps; `timestamp` unless set."""


class LogColumns(RoleColumns, TimeKeys):
    """Your names for the columns of interactions or candidates, and how these write their times."""


class TableColumns(Frozen):
    """Your names for the columns of an embedding table."""

    item: str | None = None
    """Column of item ids; `item_id` unless set."""
    embedding: str | None = None
    """Column of vectors, or a pattern such as `d*` for one column for each dimension; `embedding` unless set."""


class UserTableColumns(TimeKeys):
    """Your names for the columns of a table of users."""

    user: str | None = None
    """Column of user ids; `user_id` unless set."""
    embedding: str | None = None
    """Column of vectors, or a pattern such as `d*` for one column for each dimension; `embedding` unless set."""
    time: str | None = None
    """Column of times, if a user's vector changes: a row counts from its time on, until the user's next row."""


class Columns(RoleColumns):
    """Your column names for all inputs, with overrides for each."""

    embedding: str | None = None
    """Column of vectors, or a pattern such as `d*` for one column for each dimension; `embedding` unless set."""
    candidates: LogColumns = LogColumns()
    """Names in the candidates alone."""
    interactions: LogColumns = LogColumns()
    """Names in the interactions alone."""
    types: dict[str, Literal["integer", "text"]] = Field(default_factory=dict)
    """Types of columns that are names of folders (`month=01`), such as `{month = "integer"}`. Unless set, ids have the
    type of the other inputs, and other values are integers if all are written as such, so `01` is text."""


class TableSpec(Frozen):
    """A table of fixed external vectors."""

    normalize: Annotated[bool, Field(strict=True)] = True
    """Divide each vector by its L2 norm. Cosines are the same either way; the dual fit is not."""
    center: Annotated[bool, Field(strict=True)] | str = False
    """Subtract the mean of the table's raw vectors before normalising: text models share a common direction. A path is
    a mean from `extembed center`, which later rows of the table do not change."""
    gramian: str | None = None
    """For dual groups with `unobserved_weight`: Gramians from `extembed center --gramian`, which later rows of the
    table do not change; those of the whole table unless set."""
    bytes_of: Literal["float16", "float32", "float64", "int8"] | None = None
    """The type of the numbers where vectors are stored as bytes, little-endian."""
    bad_vectors: Literal["error", "missing"] = "error"
    """Treatment of NaN, infinite and zero vectors: stop, or treat the item or user as having no vector."""
    duplicates: Literal["error", "last"] = "error"
    """Treatment of an id that occurs twice: stop, or take the last row."""

    @property
    def frozen(self) -> dict[str, str]:
        """Paths of sums over the whole table that later rows do not change, by key."""
        center = {"center": self.center} if isinstance(self.center, str) else {}
        return {**center, **({"gramian": self.gramian} if self.gramian is not None else {})}

    def meaning(self) -> dict[str, Any]:
        """Return the table as plain data without its paths."""
        data: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"path"})
        return {**data, **dict.fromkeys(self.frozen, "frozen")}


class EmbeddingSpec(TableSpec):
    """An embedding table: fixed external vectors of items."""

    path: Paths
    """File, list of files, glob or directory of Parquet with item ids and vectors."""
    columns: TableColumns = TableColumns()
    """Names in this table alone."""


class DerivedSpec(TargetKeys):
    """Where vectors of users come from: the decayed mean of the item vectors of their own history, as of any moment.

    With a `target` it is the decayed sum of target times vector: likes minus dislikes.
    """

    embedding: str
    """Name of the embedding table with the vectors of the items."""
    history: str = "all"
    """Name of the history."""
    half_life: HalfLife = "none"
    """Age at which an event weighs half as much, such as `30d`; `none` = no decay."""


class UserEmbeddingSpec(TableSpec):
    """A table of users: their own external vectors, or vectors derived from their histories."""

    path: Paths | None = None
    """File, list of files, glob or directory of Parquet with user ids and vectors."""
    derived: DerivedSpec | None = Field(default=None, alias="from")
    """Instead of a path: derive the vectors from the log, such as `{embedding = "text", history = "liked"}`."""
    columns: UserTableColumns = UserTableColumns()
    """Names in this table alone."""

    @model_validator(mode="after")
    def _one_source(self) -> UserEmbeddingSpec:
        if (self.path is None) == (self.derived is None):
            raise ValueError("path: a table of users has a `path`, or is derived `from` the log")
        if self.derived is not None:
            unused = {"columns", "duplicates", "bad_vectors", "normalize", "gramian"} & self.model_fields_set
            if unused:
                raise ValueError(f"{min(unused)}: is about a file; a derived table has none")
            if isinstance(self.center, str):
                raise ValueError("center: the vectors of the items are centred; give the path in their table")
        if self.columns.time is not None and self.center is True:
            raise ValueError("center: the mean of vectors that change would know their future; leave it out")
        return self

    @property
    def changes(self) -> bool:
        """Whether a user's vector depends on the time."""
        return self.derived is not None or self.columns.time is not None


class Matrix(NamedTuple):
    """The vectors of a table as groups use them."""

    table: str
    center: bool

    @property
    def name(self) -> str:
        """A name for files, which no table can have."""
        return f"{self.table}{'.centred' if self.center else ''}"

    @property
    def words(self) -> str:
        """The vectors as a meaning or a message writes them."""
        return f"`{self.table}`{' (centred)' if self.center else ''}"
