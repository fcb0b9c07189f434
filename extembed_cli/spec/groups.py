"""The groups of a spec: what to compute, a class for each technique (`[[aggregate]]`, `[[dual]]`, `[[neural]]`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from extembed_cli.spec.defaults import REGULARIZATION, UNOBSERVED_WEIGHT
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.sides import Owner, Side, TableKind
from extembed_cli.spec.targets import ResidualKeys, TargetKeys
from extembed_cli.spec.types import (
    Frozen,
    HalfLife,
    Name,
    NotNegative,
    Percentile,
    PositiveDuration,
    Temperature,
    Threshold,
    Top,
)


class Group(Frozen):
    """A group of columns of one technique. A spec has a list of groups for every class with a `technique`."""

    technique: ClassVar[str]
    """The key of the technique's groups in a spec."""
    path_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that hold paths. A path does not change what is computed."""
    written_keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the files that a run writes."""
    later_keys: ClassVar[tuple[str, ...]] = ()
    """Keys younger than the first outputs: while they are at their default, the metadata of outputs stays as it was."""
    known: ClassVar[dict[str, type[Group]]] = {}
    """All classes by technique."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "technique" in cls.__dict__:
            Group.known[cls.technique] = cls

    name: Name | None = None
    """Goes before the statistic in the column names."""

    @property
    def of_side(self) -> Side:
        """Whose histories it reads."""
        return Side()

    @property
    def tables(self) -> Mapping[TableKind, tuple[str, ...] | None]:
        """Names of the tables that it uses, by their key in a spec; None = every one."""
        return {}

    @property
    def needs_tables(self) -> bool:
        """Whether it has nothing to compute without these."""
        return True

    @property
    def label(self) -> str:
        """The group as messages name it."""
        return f"[[{self.technique}]]"

    @property
    def surveys(self) -> bool:
        """Whether it has to learn from the events of all items before any candidate can be scored."""
        return False

    @property
    def owner_vectors(self) -> str | None:
        """The file with a vector of every user of the log, or of every item, with or without candidates."""
        return None

    @property
    def reads_all_items(self) -> bool:
        """Whether the group needs all items of the embedding tables, not only those of events and candidates."""
        return False

    def expressions(self) -> dict[str, Expression]:
        """Return the expressions over the interactions whose values are numbers, by key."""
        return {}

    def meaning(self) -> dict[str, Any]:
        """Return the group as plain data without its paths."""
        data: dict[str, Any] = self.model_dump(mode="json", exclude_none=True, exclude=set(self.path_keys))
        fields = type(self).model_fields
        unset = {key for key in self.later_keys if getattr(self, key) == fields[key].default}
        return {key: value for key, value in data.items() if key not in unset}

    def written(self) -> dict[str, str]:
        """Return the paths of the files that a run writes, by key."""
        paths = {key: getattr(self, key) for key in self.written_keys}
        return {key: path for key, path in paths.items() if path is not None}


class HistoryGroup(Group):
    """A group that chooses histories."""

    histories: tuple[str, ...] | None = None
    """Names of histories; the named ones unless set, or `all` if there are none."""


class SidedGroup(HistoryGroup):
    """A group whose histories are those of users or of items."""

    side: Literal["user", "item"] = "user"
    """Whose history a candidate sees: that of its `user`, or of its `item` (the item's audience)."""
    own: Annotated[bool, Field(strict=True)] = False
    """With side = "item": whether the audience includes the candidate's own user."""

    @property
    def of_side(self) -> Side:
        return Side(self.side, self.own or self.side == "user")

    @property
    def label(self) -> str:
        return super().label if self.side != "item" else f'[[{self.technique}]] with side = "{self.side}"'

    @model_validator(mode="after")
    def _keys_of_item_side(self) -> SidedGroup:
        if self.side != "item" and self.own:
            raise ValueError('own: is about an item\'s audience; set side = "item" too, or leave it out')
        return self


class TableGroup(Group):
    """A group that chooses embedding tables."""

    embeddings: tuple[str, ...] | None = None
    """Names of embedding tables; every table unless set."""
    center: Annotated[bool, Field(strict=True)] | None = None
    """Whether vectors are centred for this group; as the table says unless set."""

    @property
    def tables(self) -> Mapping[TableKind, tuple[str, ...] | None]:
        return {"embeddings": self.embeddings}


class SidedTableGroup(SidedGroup, TableGroup):
    """A group whose histories are those of users, with tables of items, or the other way round."""

    user_embeddings: tuple[str, ...] | None = None
    """With side = "item": names of tables of users; every one unless set."""

    @property
    def tables(self) -> Mapping[TableKind, tuple[str, ...] | None]:
        return {"user_embeddings": self.user_embeddings} if self.side == "item" else super().tables

    @model_validator(mode="after")
    def _tables_of_side(self) -> SidedTableGroup:
        if self.side != "item" and self.user_embeddings is not None:
            raise ValueError('user_embeddings: are compared with an item\'s audience; set side = "item" too')
        if self.side == "item" and self.embeddings is not None:
            raise ValueError('embeddings: with side = "item" the vectors are those of users; use `user_embeddings`')
        return self


class ResidualGroup(ResidualKeys, Group):
    """A group that can read residuals."""


class TargetGroup(TargetKeys, ResidualGroup):
    """A group that reads what an event says."""

    def expressions(self) -> dict[str, Expression]:
        return {} if self.target_expression is None else {"target": self.target_expression}


_TARGET_KEYS = tuple(TargetGroup.model_fields.keys() - Group.model_fields.keys())


class CountersGroup(SidedGroup, TargetGroup):
    """Counters of histories of users or items, which need no embeddings: how many events, how old, what they say."""

    technique = "counters"
    later_keys: ClassVar[tuple[str, ...]] = ("side", "own")

    half_lives: Annotated[tuple[HalfLife, ...], Field(min_length=1)] = ("30d",)
    """Ages at which a weight has halved, such as `7d`; `none` = no decay."""


class AggregateGroup(SidedTableGroup, CountersGroup):
    """Technique 1: cosines between a candidate and the user's history, or the item's audience, and its counters."""

    technique = "aggregate"
    later_keys = ("sd", "center", "temperatures", "top", "side", "own", "user_embeddings", *_TARGET_KEYS)

    percentiles: tuple[Percentile, ...] = (10, 50, 90)
    """Decay-weighted percentiles of the cosines, 1 to 99."""
    thresholds: tuple[Threshold, ...] = ()
    """Decay-weighted share of cosines at or above these, multiples of 0.01 from -1 to 1."""
    sd: Annotated[bool, Field(strict=True)] = False
    """Also write the decay-weighted standard deviation of the cosines."""
    temperatures: tuple[Temperature, ...] = (0.03, 0.1, 0.3)
    """τ of the kernel exp((c − 1) / τ), multiples of 0.01: means of the `target` over similar events."""

    top: tuple[Top, ...] = ()
    """Mean cosine, and mean `target`, of this many most similar events, such as `[1, 5, 20]`."""

    @property
    def needs_tables(self) -> bool:
        return self.side == "user"  # of an audience there are counters

    @model_validator(mode="after")
    def _temperatures_of_target(self) -> AggregateGroup:
        if self.target is None and self.temperatures != AggregateGroup.model_fields["temperatures"].default:
            raise ValueError('temperatures: needs a `target`, such as target = "rating"')
        return self


class DirectGroup(TableGroup):
    """Technique 1 without a history: the cosine of a candidate's item with its user, whose vectors are of one space."""

    technique = "direct"

    user_embeddings: tuple[str, ...] | None = None
    """Names of tables of users; every one unless set."""

    @property
    def tables(self) -> Mapping[TableKind, tuple[str, ...] | None]:
        return {"user_embeddings": self.user_embeddings, "embeddings": self.embeddings}


class DualGroup(SidedTableGroup, TargetGroup):
    """Technique 2: a linear model per user over the fixed item vectors, and its score of the candidate."""

    technique = "dual"
    path_keys = written_keys = ("user_vectors", "item_vectors", "all_vectors")
    later_keys = ("center", "residual", "prior_events", "residual_half_life", "side", "own", "user_embeddings")

    side: Owner = "user"  # type: ignore[assignment]  # one more than other groups
    """Whose model scores a candidate: that of its `user`, of its `item` over the vectors of users, or the one of `all`
    users over the vectors of items."""
    name: Name | None = None
    """Goes into the column names: `dual_NAME_score`."""
    half_life: HalfLife = "none"
    """Age at which the confidence of an event has halved, such as `30d`; `none` = no decay."""
    target: str | None = None
    """The value that the score of an event's item should have: a column or a row-wise SQL expression; 1 unless set."""
    regularization: NotNegative = REGULARIZATION
    """λ, the L2 strength; it may be 0 only where no fit can be singular."""
    unobserved_weight: NotNegative = UNOBSERVED_WEIGHT
    """w0, the weight of every item of the table as one more event with target 0."""
    scaling: NotNegative = 0.0
    """ν: λ is multiplied by (events + w0 · items)^ν; 0 = plain λ, 1 = iALS frequency scaling."""
    loss: Literal["squared", "logistic"] = "squared"
    """`squared` fits the target; `logistic` fits its sign (positive or not)."""
    bias: Annotated[bool, Field(strict=True)] = False
    """Append a constant 1 to every vector."""
    sd: Annotated[bool, Field(strict=True)] = False
    """Also write the posterior standard deviation of the score."""
    refit_every: PositiveDuration | None = None
    """Fit a user at most this often: on the events visible at the as-of time floored to this step since 1970 UTC. With
    side = "all" it is `1d` unless set."""
    user_vectors: str | None = None
    """Parquet file to write with one vector per user, as of `as_of` (unset: just after the newest interaction)."""
    item_vectors: str | None = None
    """With side = "item": Parquet file to write with one vector per item, as of the same moment."""
    all_vectors: str | None = None
    """With side = "all": Parquet file to write with the vector of each step at whose beginning new events are seen."""

    @property
    def of_side(self) -> Side:
        return Side() if self.surveys else super().of_side  # everybody's model is made before the pass of users

    @property
    def surveys(self) -> bool:
        return self.side == "all"

    @property
    def model_side(self) -> Side:
        """Whose model it is."""
        return Side("all") if self.surveys else self.of_side

    @property
    def owner_vectors(self) -> str | None:
        return {"user": self.user_vectors, "item": self.item_vectors, "all": self.all_vectors}[self.side]

    @model_validator(mode="after")
    def _vectors_of_owners(self) -> DualGroup:
        for owner in ("user", "item", "all"):
            if owner != self.side and getattr(self, f"{owner}_vectors") is not None:
                whose = "one model is that of all users" if self.surveys else f"every {self.side} has a model"
                raise ValueError(f'{owner}_vectors: with side = "{self.side}" {whose}; use `{self.side}_vectors`')
        return self

    @model_validator(mode="after")
    def _squared_for_all(self) -> DualGroup:
        if self.surveys and self.loss != "squared":
            raise ValueError(f'loss: side = "all" adds up squares; `{self.loss}` is for a model of a user or an item')
        return self

    @model_validator(mode="after")
    def _solvable(self) -> DualGroup:
        if self.regularization == 0 and self.unobserved_weight == 0:
            raise ValueError(
                "regularization: 0 with an unobserved_weight of 0: a user with fewer events than dimensions has no "
                "unique fit. Set regularization above 0"
            )
        return self


class NeuralGroup(ResidualGroup):
    """Technique 3: the score of a model from `extembed neural train`, which has its own tables and histories."""

    technique = "neural"
    path_keys = ("model", "user_vectors", "item_vectors")
    later_keys = ("values", "residual", "prior_events", "residual_half_life")
    written_keys = ("user_vectors", "item_vectors")

    model: str
    """Folder of the trained model."""
    name: Name | None = None
    """Goes into the column name: `neural_NAME_score`."""
    values: tuple[str, ...] = ()
    """Numbers that the model reads of each event: columns or row-wise SQL expressions, such as `rating`. With
    `residual` it reads the residual of each too."""
    user_vectors: str | None = None
    """Parquet file to write with one vector per user, as of `as_of` (unset: just after the newest interaction); only
    for a model whose state does not depend on the candidate."""
    item_vectors: str | None = None
    """Parquet file to write with the model's vectors of the items: a user's vector · an item's + bias is the score."""

    @model_validator(mode="after")
    def _values_of_residual(self) -> NeuralGroup:
        if self.residual is not None and not self.values:
            raise ValueError('residual: needs `values`, such as values = ["rating"]')
        return self

    def expressions(self) -> dict[str, Expression]:
        read: dict[str, Expression] = {}
        for place, text in enumerate(self.values):
            read[f"values.{place}"] = Expression(text, "Float64")
            if self.residual_of is not None:
                read[f"values.{place} as residual"] = Expression(text, "Float64", self.residual_of)
        return read

    @property
    def owner_vectors(self) -> str | None:
        return self.user_vectors

    @property
    def reads_all_items(self) -> bool:
        return self.item_vectors is not None
