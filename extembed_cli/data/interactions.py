"""Interactions and candidates as frames with canonical keys: `user`, `item`, `time` in us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from extembed_cli.data import keys
from extembed_cli.data.expressions import columns_of, compile_expression
from extembed_cli.data.tables import Part, Table
from extembed_cli.errors import DataError, Problems, listing
from extembed_cli.spec import Spec, time_us

_LARGEST_WEIGHT = 1e30  # sums of weights are written as float32
_RENAME = "; if it has another name, set columns.{role} in the spec (--set columns.{role}=NAME)"


@dataclass(frozen=True)
class Interactions:
    """Usable events: `user`, `item`, `time`, `weight` (if the spec has one), a Boolean `in:NAME` per `where`, and a
    Float64 `target:EXPRESSION` per different `target`."""

    frame: pl.DataFrame
    rows: int
    dropped: dict[str, int]

    @property
    def null_targets(self) -> dict[str, int]:
        """Usable events without a target, by the target's expression."""
        names = [name for name in self.frame.columns if name.startswith("target:")]
        return {name.removeprefix("target:"): self.frame[name].null_count() for name in names}


def check_interactions(spec: Spec, table: Table) -> None:
    """Columns, their types, and what the expressions read, from the footers alone."""
    roles = {role: spec.column("interactions", role) for role in ("user", "item", "time")}
    table.require({name: _RENAME.format(role=role) for role, name in roles.items()})
    problems = Problems()
    with problems.collect():
        keys.check_time_type(table, roles["time"], spec.time_unit)
    for expression in _expressions(spec):
        with problems.collect():
            columns_of(expression.text, expression.key, table.names)
    problems.raise_any()


def check_candidates(spec: Spec, table: Table) -> None:
    """Columns and their types, from the footers alone."""
    roles = ["user", "item"] if spec.as_of else ["user", "item", "time"]
    names = {role: spec.column("candidates", role) for role in roles}
    fixes = {name: _RENAME.format(role=role) for role, name in names.items()}
    if "time" in names:
        fixes[names["time"]] += ", or give one as-of time for all (as_of, --as-of)"
    table.require(fixes)
    if "time" in names:
        keys.check_time_type(table, names["time"], spec.time_unit)


def load_interactions(spec: Spec, table: Table) -> Interactions:
    """Read the events, evaluate `where` and `weight`, and drop what cannot be used, counted by reason."""
    problems = Problems()
    frames: list[pl.DataFrame] = []
    dropped: dict[str, int] = {}
    for part in table.parts:
        with problems.collect():
            frames.append(_usable(_events(spec, table, part), dropped))
    problems.raise_any()
    frames = _same_types(frames)
    return Interactions(pl.concat(frames), table.rows, dropped)


def load_candidates(spec: Spec, table: Table) -> pl.DataFrame:
    """`user`, `item`, `time` (floored to `as_of_step`) of every candidate, in order, nulls kept."""
    user, item, time = (spec.column("candidates", role) for role in ("user", "item", "time"))
    wanted = [user, item] if spec.as_of else [user, item, time]
    problems = Problems()
    frames: list[pl.DataFrame] = []
    for part in table.parts:
        with problems.collect():
            data = part.read(list(dict.fromkeys(wanted)))
            columns = {"user": keys.ids(data.column(user)), "item": keys.ids(data.column(item))}
            if not spec.as_of:
                columns["time"] = keys.times_us(data.column(time), spec.time_unit, f"{part.path}: column `{time}`")
            frames.append(pl.DataFrame(columns))
    problems.raise_any()
    frame = pl.concat(_same_types(frames))
    if spec.as_of:
        frame = frame.with_columns(time=pl.lit(time_us(spec.as_of), pl.Int64))
    return frame.with_columns(pl.col("time") // spec.as_of_step_us * spec.as_of_step_us)


def no_candidates() -> pl.DataFrame:
    """The candidates of a job that has none."""
    return pl.DataFrame(schema={"user": pl.Null(), "item": pl.Null(), "time": pl.Int64()})


class _Expression(NamedTuple):
    """An expression of the spec: where it stands, its text, and the column of events that it makes."""

    key: str
    text: str
    column: str


def _expressions(spec: Spec) -> list[_Expression]:
    """Every different expression of the spec."""
    found = [_Expression("weight", spec.weight, "weight")] if spec.weight is not None else []
    for name, history in spec.histories.items():
        if history.where is not None:
            found.append(_Expression(f"histories.{name}.where", history.where, f"in:{name}"))
    targets: dict[str, _Expression] = {}
    for index, group in enumerate(spec.dual):
        if group.target is not None:
            made = _Expression(f"dual.{index}.target", group.target, f"target:{group.target}")
            targets.setdefault(group.target, made)
    return [*found, *targets.values()]


def _events(spec: Spec, table: Table, part: Part) -> pl.DataFrame:
    """Events of one file with canonical keys, `row`, and the evaluated expressions."""
    user, item, time = (spec.column("interactions", role) for role in ("user", "item", "time"))
    expressions = _expressions(spec)
    needed = [user, item, time]
    for expression in expressions:
        needed += columns_of(expression.text, expression.key, table.names)
    data = part.read(list(dict.fromkeys(needed)))
    frame = pl.DataFrame(
        {
            "user": keys.ids(data.column(user)),
            "item": keys.ids(data.column(item)),
            "time": keys.times_us(data.column(time), spec.time_unit, f"{part.path}: column `{time}`"),
        }
    )
    raw = _plain(data.select(list(dict.fromkeys(needed[3:]))))
    if not raw.width:  # constants need a row to stand in
        raw = pl.DataFrame({"row": pl.repeat(0, len(frame), eager=True)})
    problems = Problems()
    for expression in expressions:
        with problems.collect():
            values = _evaluated(raw, expression, part)
            where = f"{part.path}: {expression.key} = {expression.text!r}"
            if expression.column == "weight":
                _check_weights(values, where)
            elif expression.column.startswith("target:"):
                _check_targets(values, where)
            else:
                values = values.fill_null(value=False)
            frame = frame.with_columns(values.alias(expression.column))
    problems.raise_any()
    return frame


def _evaluated(raw: pl.DataFrame, expression: _Expression, part: Part) -> pl.Series:
    """An expression's value for each event: Boolean for a history, else Float64."""
    key, text, column = expression
    dtype: pl.DataType = pl.Boolean() if column.startswith("in:") else pl.Float64()
    compiled = compile_expression(text, key, dict(raw.schema), dtype)
    try:
        values = raw.lazy().with_columns(compiled.alias("value")).collect()["value"]
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{part.path}: {key} = {text!r} cannot be computed: {str(error).splitlines()[0]}") from None
    return values


def _plain(data: pa.Table) -> pl.DataFrame:
    """Columns for expressions, in types that polars has: dictionaries as what they stand for, times as naive UTC."""
    frame = pl.from_arrow(pa.Table.from_arrays([_plain_column(c) for c in data.columns], names=data.column_names))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.int64()).cast(pa.timestamp(kind.unit))  # SQL compares it with `timestamp '...'`
    return column.cast(pa.float64()) if pa.types.is_decimal256(kind) else column


def _check_weights(weights: pl.Series, where: str) -> None:
    bad = (weights < 0) | weights.is_nan() | (weights > _LARGEST_WEIGHT)
    rows = bad.fill_null(value=False).arg_true()
    if len(rows):
        examples = listing(f"row {row}: {weights[row]}" for row in rows[:4])
        raise DataError(
            f"{where}: {len(rows):,} weights are negative, not finite or above 1e30 ({examples}). Weights must be >= 0"
        )


def _check_targets(targets: pl.Series, where: str) -> None:
    bad = targets.is_nan() | (targets.abs() > _LARGEST_WEIGHT)
    rows = bad.fill_null(value=False).arg_true()
    if len(rows):
        examples = listing(f"row {row}: {targets[row]}" for row in rows[:4])
        raise DataError(
            f"{where}: {len(rows):,} targets are not finite or beyond 1e30 ({examples}). A null leaves an event out"
        )


def _usable(events: pl.DataFrame, dropped: dict[str, int]) -> pl.DataFrame:
    """Drop events without user, item, time or weight; add to the counts of why."""
    reasons = [(f"null {name}", pl.col(name).is_not_null()) for name in ("user", "item", "time")]
    if "weight" in events.columns:
        reasons += [("null weight", pl.col("weight").is_not_null()), ("weight 0", pl.col("weight") != 0)]
    for reason, keep in reasons:
        before = len(events)
        events = events.filter(keep)
        if before > len(events):
            dropped[reason] = dropped.get(reason, 0) + before - len(events)
    return events


def _same_types(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Ids of all files in one type each."""
    columns = {name: keys.same_type(*(frame[name] for frame in frames)) for name in ("user", "item")}
    return [
        frame.with_columns(user=user, item=item)
        for frame, user, item in zip(frames, columns["user"], columns["item"], strict=True)
    ]
