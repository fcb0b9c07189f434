"""Interactions and candidates as frames with canonical keys: `user`, `item`, `time` in us."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from extembed_cli.data import ids as keys
from extembed_cli.data.expressions import columns_of, compile_expression
from extembed_cli.data.parquet import Part, Table
from extembed_cli.errors import DataError, Problems, listing
from extembed_cli.spec.model import Spec, time_us

_LARGEST = 1e30  # sums of weights are written as float32
_SMALLEST_WEIGHT = 1e-200  # but for 0: relative to the largest one it still is a number
_RENAME = "; if it has another name, set columns.{role} in the spec (--set columns.{role}=NAME)"


@dataclass
class Log:
    """What was read of the interactions, batch by batch."""

    rows: int = 0
    usable: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be used, by reason."""
    null_targets: dict[str, int] = field(default_factory=dict)
    """Usable events without a target, by the target's expression."""
    oldest: int | None = None
    newest: int | None = None
    """Times of usable events (us)."""

    def usable_events(self, events: pl.DataFrame) -> pl.DataFrame:
        """The rows with user, item, time and a weight; counts them, and the others by what they lack."""
        self.rows += len(events)
        reasons = [(f"null {name}", pl.col(name).is_not_null()) for name in ("user", "item", "time")]
        if "weight" in events.columns:
            reasons += [("null weight", pl.col("weight").is_not_null()), ("weight 0", pl.col("weight") != 0)]
        for reason, keep in reasons:
            before = len(events)
            events = events.filter(keep)
            if before > len(events):
                self.dropped[reason] = self.dropped.get(reason, 0) + before - len(events)
        self.usable += len(events)
        for name in events.columns:
            if name.startswith("target:"):
                text = name.removeprefix("target:")
                self.null_targets[text] = self.null_targets.get(text, 0) + events[name].null_count()
        if len(events):
            oldest: Any = events["time"].min()
            newest: Any = events["time"].max()
            self.oldest = oldest if self.oldest is None else min(self.oldest, oldest)
            self.newest = newest if self.newest is None else max(self.newest, newest)
        return events


@dataclass
class Asked:
    """What was read of the candidates, batch by batch."""

    rows: int = 0
    null_user_or_time: int = 0
    null_item: int = 0

    def known(self, candidates: pl.DataFrame) -> pl.DataFrame:
        """The rows with user and time; the others see nothing and get nulls."""
        self.rows += len(candidates)
        self.null_item += candidates["item"].null_count()
        known = candidates.filter(pl.col("user").is_not_null() & pl.col("time").is_not_null())
        self.null_user_or_time += len(candidates) - len(known)
        return known


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


def read_interactions(spec: Spec, table: Table, rows: int) -> Iterator[pl.DataFrame]:
    """Events with canonical keys and the evaluated expressions, `rows` at a time.

    What is wrong with the files is raised at the end, all of it at once: what was yielded before is then worthless.
    """
    problems = Problems()
    for part in table.parts:
        with problems.collect():
            yield from _events(spec, table, part, rows)
    problems.raise_any()


def read_candidates(spec: Spec, table: Table, rows: int) -> Iterator[pl.DataFrame]:
    """`user`, `item`, `time` (floored to `as_of_step`) and `row` of every candidate, `rows` at a time, nulls kept."""
    user, item, time = (spec.column("candidates", role) for role in ("user", "item", "time"))
    wanted = list(dict.fromkeys([user, item] if spec.as_of else [user, item, time]))
    problems = Problems()
    row = 0
    for part in table.parts:
        with problems.collect():
            for data in part.tables(wanted, rows):
                columns = {"user": keys.ids(data.column(user)), "item": keys.ids(data.column(item))}
                if not spec.as_of:
                    columns["time"] = keys.times_us(data.column(time), spec.time_unit, f"{part.path}: column `{time}`")
                frame = pl.DataFrame(columns)
                if spec.as_of:
                    frame = frame.with_columns(time=pl.lit(time_us(spec.as_of), pl.Int64))
                frame = frame.with_columns(
                    pl.col("time") // spec.as_of_step_us * spec.as_of_step_us,
                    row=pl.int_range(row, row + len(frame), dtype=pl.Int64),
                )
                row += len(frame)
                yield frame
    problems.raise_any()


def no_events(spec: Spec) -> pl.DataFrame:
    """A frame of events without rows."""
    dtypes: dict[str, pl.DataType] = {"user": pl.Null(), "item": pl.Int32(), "time": pl.Int64()}
    for expression in _expressions(spec):
        dtypes[expression.column] = pl.Boolean() if expression.column.startswith("in:") else pl.Float64()
    return pl.DataFrame(schema=dtypes)


def no_candidates() -> pl.DataFrame:
    """A frame of candidates without rows."""
    return pl.DataFrame(schema={"user": pl.Null(), "item": pl.Int32(), "time": pl.Int64(), "row": pl.Int64()})


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


def _events(spec: Spec, table: Table, part: Part, rows: int) -> Iterator[pl.DataFrame]:
    """Events of one file with canonical keys and the evaluated expressions."""
    user, item, time = (spec.column("interactions", role) for role in ("user", "item", "time"))
    expressions = _expressions(spec)
    needed = [user, item, time]
    for expression in expressions:
        needed += columns_of(expression.text, expression.key, table.names)
    problems = Problems()
    bad = {e.column: _BadValues(e, part) for e in expressions if not e.column.startswith("in:")}
    first = 0
    for data in part.tables(list(dict.fromkeys(needed)), rows):
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
        for expression in expressions:
            with problems.collect():
                values = _evaluated(raw, expression, part)
                if expression.column in bad:
                    bad[expression.column].look(values, first)
                else:
                    values = values.fill_null(value=False)
                frame = frame.with_columns(values.alias(expression.column))
        first += len(frame)
        if not problems.errors:
            yield frame
    for found in bad.values():
        with problems.collect():
            found.raise_any()
    problems.raise_any()


class _BadValues:
    """Weights or targets of a file that are no usable numbers, counted with a few examples."""

    def __init__(self, expression: _Expression, part: Part) -> None:
        self.where = f"{part.path}: {expression.key} = {expression.text!r}"
        self.of_weights = expression.column == "weight"
        self.count = 0
        self.examples: list[str] = []

    def look(self, values: pl.Series, first_row: int) -> None:
        bad = values.is_nan() | (values.abs() > _LARGEST)
        if self.of_weights:
            bad |= (values != 0) & (values < _SMALLEST_WEIGHT)
        rows = bad.fill_null(value=False).arg_true()
        self.count += len(rows)
        self.examples += [f"row {first_row + row}: {values[row]}" for row in rows[:4]]

    def raise_any(self) -> None:
        if not self.count:
            return
        examples = listing(self.examples[:4])
        if self.of_weights:
            raise DataError(
                f"{self.where}: {self.count:,} weights are negative, not finite, above 1e30 or below 1e-200 "
                f"({examples}). A weight of 0 leaves an event out"
            )
        raise DataError(
            f"{self.where}: {self.count:,} targets are not finite or beyond 1e30 ({examples}). "
            "A null leaves an event out"
        )


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
