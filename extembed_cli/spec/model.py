"""What to compute. A spec says *what*; how (workers, memory, engine) are run options and never stand here.

Flags and TOML files build the same frozen `Spec` (spec_loading.py). This file knows no data library.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from os.path import normpath
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from extembed_cli.errors import did_you_mean
from extembed_cli.spec.defaults import REGULARIZATION, UNOBSERVED_WEIGHT

DAY_US = 86_400_000_000
_UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": DAY_US, "w": 7 * DAY_US}
_DURATION = re.compile(r"(0|[1-9][0-9]*)([smhdw])")
_LONGEST_US = 1000 * 366 * DAY_US
_NAME = re.compile(r"[A-Za-z0-9](?:_?[A-Za-z0-9-])*_?")

ALL = "all"  # the history of every interaction; always exists
FOR_TRAINING = "for_training"  # key of the validation's context: a spec to train on computes nothing itself


# --- durations, times, names -------------------------------------------------------------------------


def duration_us(text: str) -> int:
    """Microseconds of a duration such as `30d`: an integer and one of `s m h d w`."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"`{text}` is not a duration: write an integer and one of s m h d w, such as `30d`")
    length = int(match[1]) * _UNIT_US[match[2]]
    if length > _LONGEST_US:
        raise ValueError(f"`{text}` is longer than 1000 years")
    return length


def half_life_us(text: str) -> int | None:
    """Microseconds of a half-life; None for `none` (no decay)."""
    return None if text == "none" else duration_us(text)


def time_us(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 time; without a zone it is UTC."""
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def time_text(us: int) -> str:
    """ISO 8601 UTC of microseconds since 1970."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat()


def threshold_label(threshold: float) -> str:
    """`030` for 0.30, `m020` for -0.20."""
    hundredths = round(threshold * 100)
    return f"m{-hundredths:03d}" if hundredths < 0 else f"{hundredths:03d}"


def half_life_suffix(half_life: str) -> str:
    """`__hl7d`, or nothing without decay."""
    return "" if half_life == "none" else f"__hl{half_life}"


def _check_duration(text: str) -> str:
    duration_us(text)
    return text


def _check_positive_duration(text: str) -> str:
    if duration_us(text) == 0:
        raise ValueError(f"`{text}` must be longer than 0")
    return text


def _check_half_life(text: str) -> str:
    return text if text == "none" else _check_positive_duration(text)


def _check_time(value: object) -> object:
    text = value.isoformat() if hasattr(value, "isoformat") else value
    if isinstance(text, str):
        try:
            time_us(text)
        except ValueError:
            raise ValueError(f"`{text}` is not an ISO 8601 time, such as `2026-01-31T06:00:00`") from None
    return text


def _check_threshold(value: float) -> float:
    if not -1 <= value <= 1 or abs(value * 100 - round(value * 100)) > 1e-9:
        raise ValueError(f"{value} is not a multiple of 0.01 between -1 and 1")
    return value


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"`{text}` is not a name: use letters, digits, `-` and single `_` (it becomes part of column names)"
        )
    return text


def _check_paths(value: object) -> object:
    if isinstance(value, list | tuple) and all(isinstance(path, str) for path in value):
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError(f"must be a path or a list of paths, got {value!r}")
    return value


Duration: TypeAlias = Annotated[str, AfterValidator(_check_duration)]
PositiveDuration: TypeAlias = Annotated[str, AfterValidator(_check_positive_duration)]
HalfLife: TypeAlias = Annotated[str, AfterValidator(_check_half_life)]
Time: TypeAlias = Annotated[str, BeforeValidator(_check_time)]
Percentile: TypeAlias = Annotated[int, Field(ge=1, le=99, strict=True)]
Threshold: TypeAlias = Annotated[float, Field(strict=True), AfterValidator(_check_threshold)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False, strict=True)]
Name: TypeAlias = Annotated[str, AfterValidator(_check_name)]
Paths: TypeAlias = Annotated[str | tuple[str, ...], BeforeValidator(_check_paths)]


# --- the spec ----------------------------------------------------------------------------------------


class Frozen(BaseModel):
    """Keyword-only, immutable, no unknown keys; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False, defer_build=True
    )


class LogColumns(Frozen):
    """Your names of the columns of interactions or candidates."""

    user: str | None = None
    """Column of user ids; `user_id` unless set."""
    item: str | None = None
    """Column of item ids; `item_id` unless set."""
    time: str | None = None
    """Column of timestamps; `timestamp` unless set."""


class TableColumns(Frozen):
    """Your names of the columns of an embedding table."""

    item: str | None = None
    """Column of item ids; `item_id` unless set."""
    embedding: str | None = None
    """Column of vectors; `embedding` unless set."""


class Columns(LogColumns):
    """Your column names for all inputs, with overrides for each."""

    embedding: str | None = None
    """Column of vectors; `embedding` unless set."""
    candidates: LogColumns = LogColumns()
    """Names in the candidates alone."""
    interactions: LogColumns = LogColumns()
    """Names in the interactions alone."""


class EmbeddingSpec(Frozen):
    """An embedding table: fixed external item vectors."""

    path: Paths
    """File, list of files, glob or directory of Parquet with item ids and vectors."""
    normalize: Annotated[bool, Field(strict=True)] = True
    """Divide each vector by its L2 norm. Cosines are the same either way; the dual fit is not."""
    center: Annotated[bool, Field(strict=True)] = False
    """Subtract the mean of the table's raw vectors before normalising: text models share a common direction."""
    bad_vectors: Literal["error", "missing"] = "error"
    """What to do with NaN, infinite and zero vectors: stop, or treat the item as having no vector."""
    duplicates: Literal["error", "last"] = "error"
    """What to do with an item id that occurs twice: stop, or take the last row."""
    columns: TableColumns = TableColumns()
    """Names in this table alone."""


class HistorySpec(Frozen):
    """A named history: which of a user's interactions it sees."""

    where: str | None = None
    """A column's name or a row-wise SQL expression over the interactions; true = belongs to the history."""
    window: PositiveDuration | None = None
    """Only events at most this old at the as-of time; from the beginning unless set."""
    max_events: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Only the newest so many visible events; all unless set."""


class AggregateSpec(Frozen):
    """Technique 1: cosines between a candidate and the user's history."""

    embeddings: tuple[str, ...] | None = None
    """Names of embedding tables; every table unless set."""
    histories: tuple[str, ...] | None = None
    """Names of histories; the named ones unless set, or `all` if there are none."""
    name: Name | None = None
    """Goes before the statistic in the column names."""
    half_lives: Annotated[tuple[HalfLife, ...], Field(min_length=1)] = ("30d",)
    """Ages at which a weight has halved, such as `7d`; `none` = no decay."""
    percentiles: tuple[Percentile, ...] = (10, 50, 90)
    """Decay-weighted percentiles of the cosines, 1 to 99."""
    thresholds: tuple[Threshold, ...] = ()
    """Decay-weighted share of cosines at or above these, multiples of 0.01 from -1 to 1."""


class DualSpec(Frozen):
    """Technique 2: a linear model per user over the fixed item vectors, and its score of the candidate."""

    embeddings: tuple[str, ...] | None = None
    """Names of embedding tables; every table unless set."""
    histories: tuple[str, ...] | None = None
    """Names of histories; the named ones unless set, or `all` if there are none."""
    name: Name | None = None
    """Goes into the column names: `dual_NAME_score`."""
    half_life: HalfLife = "none"
    """Age at which the confidence of an event has halved, such as `30d`; `none` = no decay."""
    target: str | None = None
    """What the score of an event's item should be: a column or a row-wise SQL expression; 1 unless set."""
    regularization: NotNegative = REGULARIZATION
    """λ, the L2 strength; it may be 0 only where no fit can be singular."""
    unobserved_weight: NotNegative = UNOBSERVED_WEIGHT
    """w0, the weight with which every item of the table counts as one of target 0."""
    scaling: NotNegative = 0.0
    """ν: λ is multiplied by (events + w0 · items)^ν; 0 = plain λ, 1 = iALS frequency scaling."""
    loss: Literal["squared", "logistic"] = "squared"
    """`squared` fits the target; `logistic` fits its sign (positive or not)."""
    bias: Annotated[bool, Field(strict=True)] = False
    """Append a constant 1 to every vector."""
    sd: Annotated[bool, Field(strict=True)] = False
    """Also write the posterior standard deviation of the score."""
    refit_every: PositiveDuration | None = None
    """Fit a user at most this often: on what was visible at the as-of time floored to this step since 1970 UTC."""
    user_vectors: str | None = None
    """Parquet file to write with one vector per user, as of `as_of` (unset: just after the newest interaction)."""

    @model_validator(mode="after")
    def _solvable(self) -> DualSpec:
        if self.regularization == 0 and self.unobserved_weight == 0:
            raise ValueError(
                "regularization: 0 with an unobserved_weight of 0: a user with fewer events than dimensions has no "
                "unique fit. Set regularization above 0"
            )
        return self


class NeuralSpec(Frozen):
    """Technique 3: the score of a model that `extembed neural train` made; it knows its own tables and histories."""

    model: str
    """Folder of the trained model."""
    name: Name | None = None
    """Goes into the column name: `neural_NAME_score`."""
    user_vectors: str | None = None
    """Parquet file to write with one vector per user, as of `as_of` (unset: just after the newest interaction), of a
    model whose state does not depend on the candidate."""
    item_vectors: str | None = None
    """Parquet file to write with the model's vectors of the items: a user's vector · an item's + bias is the score."""


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
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """What integer timestamps count since 1970 UTC."""
    weight: str | None = None
    """Weight of an interaction: a column's name or a row-wise SQL expression; 1 unless set."""
    columns: Columns = Columns()
    """Your column names."""
    embeddings: dict[Name, EmbeddingSpec] = Field(min_length=1)
    """Embedding tables by name."""
    histories: dict[Name, HistorySpec] = {}
    """Named histories; `all` (every interaction) always exists."""
    aggregate: tuple[AggregateSpec, ...] = ()
    """Groups of aggregate features."""
    dual: tuple[DualSpec, ...] = ()
    """Groups of dual features."""
    neural: tuple[NeuralSpec, ...] = ()
    """Trained models to score candidates with."""

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Spec:
        found = []
        if self.histories.get(ALL, HistorySpec()).where is not None:
            found.append("histories.all: `all` is every interaction and takes no `where`; use another name")
        groups: dict[str, AggregateSpec | DualSpec] = {f"aggregate.{i}": g for i, g in enumerate(self.aggregate)}
        groups |= {f"dual.{i}": g for i, g in enumerate(self.dual)}
        for key, group in groups.items():
            found += _unknown(f"{key}.embeddings", group.embeddings, self.embeddings)
            found += _unknown(f"{key}.histories", group.histories, [ALL, *self.histories])
        computes = self.aggregate or self.dual or self.neural
        if not computes and not (info.context or {}).get(FOR_TRAINING):
            found.append("nothing to compute: add an [[aggregate]], a [[dual]] or a [[neural]] group")
        found += self._wrong_user_vectors()
        if found:
            raise ValueError("\n".join(found))
        return self

    def _wrong_user_vectors(self) -> list[str]:
        """What is wrong with the files of user vectors, and with having no candidates."""
        found = []
        if self.candidates is None and (self.aggregate or None in self.user_vectors):
            found.append(
                "`candidates` is missing: only [[dual]] and [[neural]] groups that all have `user_vectors` can do "
                "without them"
            )
        if self.candidates is None and self.output is not None:
            found.append("output: without `candidates` there are no features to write; leave it out")
        for index, group in enumerate(self.dual):
            path, key = group.user_vectors, f"dual.{index}.user_vectors"
            if path is None:
                continue
            for what, names in (("embedding table", self.embeddings_of(group)), ("history", self.histories_of(group))):
                if len(names) > 1:
                    listed = ", ".join(names)
                    found.append(f"{key}: takes one {what}, and the group has {len(names)}: {listed}; name one of them")
        for key, path in self._vector_paths():
            if not path.endswith(".parquet"):
                found.append(f"{key}: `{path}` must end in .parquet")
            others = [normpath(output) for output in self.outputs]
            others.remove(normpath(path))
            if normpath(path) in others:
                found.append(f"{key}: `{path}` is the path of another output too")
            if any(Path(output) in Path(normpath(path)).parents for output in others):
                found.append(f"{key}: `{path}` is inside the output, whose readers would take it for a part of that")
        return found

    def _vector_paths(self) -> list[tuple[str, str]]:
        """Where vectors are written, by the keys that say so."""
        named = [(f"dual.{i}.user_vectors", group.user_vectors) for i, group in enumerate(self.dual)]
        for i, group in enumerate(self.neural):
            named += [
                (f"neural.{i}.user_vectors", group.user_vectors),
                (f"neural.{i}.item_vectors", group.item_vectors),
            ]
        return [(key, path) for key, path in named if path is not None]

    @property
    def outputs(self) -> list[str]:
        """The paths that a job writes: the features first, then vectors."""
        features = [] if self.output is None else [self.output]
        return [*features, *(path for _, path in self._vector_paths())]

    @property
    def as_of_step_us(self) -> int:
        """Microseconds of `as_of_step`; 1 (no flooring) unless set."""
        return 1 if self.as_of_step is None else duration_us(self.as_of_step)

    def history(self, name: str) -> HistorySpec:
        """The history of that name; `all` exists without being written down."""
        return self.histories.get(name, HistorySpec())

    @property
    def user_vectors(self) -> list[str | None]:
        """Where each group that has vectors of users writes them; None = nowhere."""
        return [group.user_vectors for group in self.dual] + [group.user_vectors for group in self.neural]

    @property
    def all_items(self) -> bool:
        """Whether the items of the embedding tables are of interest, touched by anybody or not."""
        return any(group.item_vectors is not None for group in self.neural)

    def histories_of(self, group: AggregateSpec | DualSpec) -> tuple[str, ...]:
        """Names of the histories a group uses, each once."""
        return tuple(dict.fromkeys(group.histories or tuple(self.histories) or (ALL,)))

    def embeddings_of(self, group: AggregateSpec | DualSpec) -> tuple[str, ...]:
        """Names of the embedding tables a group uses, each once."""
        return tuple(dict.fromkeys(group.embeddings or tuple(self.embeddings)))

    def column(self, source: Literal["interactions", "candidates"], role: str) -> str:
        """The user's name for the column `user`, `item` or `time` of an input."""
        return getattr(getattr(self.columns, source), role) or getattr(self.columns, role) or _DEFAULT_COLUMNS[role]

    def embedding_column(self, table: str, role: str) -> str:
        """The user's name for the column `item` or `embedding` of an embedding table."""
        return getattr(self.embeddings[table].columns, role) or getattr(self.columns, role) or _DEFAULT_COLUMNS[role]

    def meaning(self) -> dict[str, Any]:
        """What is computed, as plain data: no output, no paths, nothing of how it is run."""
        data: dict[str, Any] = self.model_dump(
            mode="json", exclude_none=True, exclude={"output", "interactions", "candidates"}
        )
        data["embeddings"] = {
            name: {k: v for k, v in table.items() if k != "path"} for name, table in data["embeddings"].items()
        }
        for groups in ("dual", "neural"):
            data[groups] = [{k: v for k, v in group.items() if k not in _PATHS} for group in data[groups]]
        return data


def _unknown(key: str, used: tuple[str, ...] | None, known: Collection[str]) -> list[str]:
    """What is wrong with a list of names."""
    if used is not None and not used:
        return [f"{key}: the list is empty; leave the key out to use all"]
    return [f"{key}: nothing is named `{name}`{did_you_mean(name, known)}" for name in used or () if name not in known]


_PATHS = {"model", "user_vectors", "item_vectors"}
_DEFAULT_COLUMNS = {"user": "user_id", "item": "item_id", "time": "timestamp", "embedding": "embedding"}
