"""Interactions as frames of events: `user`, `item`, `time` in us, and the values of the expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from extembed_cli.data.columns.expressions import columns_of, compile_expression
from extembed_cli.data.columns.ids import as_ids, as_series, examples
from extembed_cli.data.columns.times import check_time_type, times_us
from extembed_cli.data.files.parquet import Part, Table
from extembed_cli.data.inputs.residuals import event_columns, mean_columns, null_residuals
from extembed_cli.errors import DataError, Problems, SpecError, first_line, listing
from extembed_cli.spec.durations import DAY_US, YEAR_US
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.model import Spec

_LARGEST = 1e30  # sums of weights are written as float32
_SMALLEST_WEIGHT = 1e-200  # except 0: relative to the largest weight it is still a number
_DTYPES: dict[str, pl.DataType] = {"Boolean": pl.Boolean(), "Float64": pl.Float64()}
RENAME = "; if it has another name, set {key} in the spec (--set {key}=NAME)"


def extreme(choose: Callable[..., Any], one: Any, other: Any) -> Any:
    """Return the least or the greatest of two values, of which None is none."""
    return choose((value for value in (one, other) if value is not None), default=None)


@dataclass
class EventCounts:
    """Rows of the interactions, counted batch by batch."""

    rows: int = 0
    usable: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that cannot be used, by reason."""
    null_targets: dict[str, int] = field(default_factory=dict)
    """Usable events without a target, by the target's expression. Of a residual those before which nothing is known are
    among them."""
    oldest: int | None = None
    newest: int | None = None
    """Times of usable events (us)."""
    years: dict[str, int] = field(default_factory=dict)
    """Usable events by the number of their year since 1970."""
    at_midnight: int = 0
    """Usable events whose time is midnight UTC, as that of a day is."""
    examples: dict[str, str] = field(default_factory=dict)
    """A few ids of users and items, as messages write them."""

    def usable_events(self, spec: Spec, events: pl.DataFrame) -> pl.DataFrame:
        """Count the rows; return those with user, item, time and weight. The others are counted by reason."""
        self.rows += len(events)
        reasons = [(f"null {name}", pl.col(name).is_not_null()) for name in ("user", "item", "time")]
        if spec.event_weight is not None:
            weight = pl.col(spec.event_weight.column)
            reasons += [("null weight", weight.is_not_null()), ("weight 0", weight != 0)]
        for reason, keep in reasons:
            before = len(events)
            events = events.filter(keep)
            if before > len(events):
                self.dropped[reason] = self.dropped.get(reason, 0) + before - len(events)
        self.usable += len(events)
        self._add_nulls({t.text: events[t.of(None).column].null_count() for t in spec.targets})
        if len(events):
            years = (events["time"] // YEAR_US).value_counts().iter_rows()
            for year, count in years:
                self.years[str(year)] = self.years.get(str(year), 0) + count
            self.at_midnight += int((events["time"] % DAY_US == 0).sum())
            self.examples = self.examples or {role: examples(events[role]) for role in ("user", "item")}
            self.oldest = extreme(min, self.oldest, events["time"].min())
            self.newest = extreme(max, self.newest, events["time"].max())
        return events

    def count_null_residuals(self, spec: Spec, events: pl.DataFrame) -> None:
        """Count the events without a residual."""
        self._add_nulls(null_residuals(spec, events))

    def add(self, other: EventCounts) -> None:
        """Add the counts of other rows."""
        self.rows, self.usable = self.rows + other.rows, self.usable + other.usable
        self.at_midnight += other.at_midnight
        for mine, theirs in ((self.dropped, other.dropped), (self.years, other.years)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        self._add_nulls(other.null_targets)
        self.examples = self.examples or other.examples
        self.oldest = extreme(min, self.oldest, other.oldest)
        self.newest = extreme(max, self.newest, other.newest)

    def _add_nulls(self, counts: dict[str, int]) -> None:
        for target, nulls in counts.items():
            self.null_targets[target] = self.null_targets.get(target, 0) + nulls


def check_interactions(spec: Spec, table: Table) -> None:
    """Check the columns, their types, and what the expressions read, from the footers alone."""
    roles = {role: spec.column("interactions", role) for role in ("user", "item", "time")}
    table.require({name: RENAME.format(key=f"columns.interactions.{role}") for role, name in roles.items()})
    problems = Problems()
    with problems.collect():
        check_time_type(table, spec.times("interactions"))
    for expression, key in spec.expressions.items():
        with problems.collect():
            _check_columns(expression.text, key, table)
    problems.raise_any()


def _check_columns(text: str, key: str, table: Table) -> None:
    """Raise if an expression reads what is no column, or not one of all files."""
    try:
        columns_of(text, key, table.names)
    except SpecError:
        some = dict.fromkeys(name for part in table.parts for name in part.schema.names)
        for name in columns_of(text, key, list(some)):  # raises if it is nowhere
            path = table.missing_in(name)
            if path is not None:
                raise DataError(
                    f"{table.label}: {path}: no column `{name}`, which {key} = {text!r} reads and other files have. "
                    "Write it there too, with nulls"
                ) from None
        raise


def read_interactions(spec: Spec, table: Table, rows: int) -> Iterator[pl.DataFrame]:
    """Yield events with canonical keys and the evaluated expressions, `rows` at a time.

    All problems of the files are raised together at the end; the frames yielded before are then worthless.
    """
    problems = Problems()
    for part in table.parts:
        with problems.collect():
            yield from _events(spec, table, part, rows)
    problems.raise_any()


def no_events(spec: Spec) -> pl.DataFrame:
    """Return an empty frame of events."""
    dtypes: dict[str, pl.DataType] = {"owner": pl.Null(), "partner_number": pl.Int32(), "time": pl.Int64()}
    columns = {e.column: _DTYPES[e.dtype] for e in event_columns(spec)}
    return pl.DataFrame(schema={**dtypes, **columns, **dict.fromkeys(mean_columns(spec), pl.Float64())})


def _events(spec: Spec, table: Table, part: Part, rows: int) -> Iterator[pl.DataFrame]:
    """Yield the events of one file with canonical keys and the evaluated expressions."""
    user, item = (spec.column("interactions", role) for role in ("user", "item"))
    time, expressions = spec.times("interactions"), spec.expressions
    needed = [user, item, time.name]
    for expression, key in expressions.items():
        needed += columns_of(expression.text, key, table.names)
    problems = Problems()
    bad = {
        expression: _BadValues(f"{part.name}: {key} = {expression.text!r}", of_weights=expression == spec.event_weight)
        for expression, key in expressions.items()
        if expression.dtype == "Float64"
    }
    first = 0
    for data in part.tables(list(dict.fromkeys(needed)), rows):
        frame = pl.DataFrame(
            {
                "user": as_ids(data.column(user), f"{part.name}: column `{user}`"),
                "item": as_ids(data.column(item), f"{part.name}: column `{item}`"),
                "time": times_us(data.column(time.name), time, f"{part.name}: column `{time.name}`"),
            }
        )
        raw = _plain(data.select(list(dict.fromkeys(needed[3:]))), part)
        if not raw.width:  # constants need a frame with rows
            raw = pl.DataFrame({"row": pl.repeat(0, len(frame), eager=True)})
        for expression, key in expressions.items():
            with problems.collect():
                values = _evaluated(raw, expression, key, part)
                if expression in bad:
                    bad[expression].check(values, first)
                else:
                    values = values.fill_null(value=False)
                frame = frame.with_columns(values.alias(expression.column))
        first += len(frame)
        if not problems.errors:
            yield frame
    for bad_values in bad.values():
        with problems.collect():
            bad_values.raise_any()
    problems.raise_any()


class _BadValues:
    """The count and a few examples of a file's weights or targets that are not usable numbers."""

    def __init__(self, where: str, *, of_weights: bool) -> None:
        self.where = where
        self.of_weights = of_weights
        self.count = 0
        self.examples: list[str] = []

    def check(self, values: pl.Series, first_row: int) -> None:
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


def _evaluated(raw: pl.DataFrame, expression: Expression, key: str, part: Part) -> pl.Series:
    """Return an expression's value for each event."""
    text = expression.text
    compiled = compile_expression(text, key, dict(raw.schema), _DTYPES[expression.dtype])
    try:
        values = raw.lazy().with_columns(compiled.alias("value")).collect()["value"]
    except pl.exceptions.PolarsError as error:
        reason = first_line(error)
        if "conversion from `str`" in reason:
            reason = "it is text. Write what each means, such as CASE WHEN event = 'like' THEN 1.0 ELSE -1.0 END"
        raise DataError(f"{part.name}: {key} = {text!r} cannot be computed: {reason}") from None
    return values


def _plain(data: pa.Table, part: Part) -> pl.DataFrame:
    """Return columns for expressions, in types that polars has: dictionaries decoded, times as naive UTC."""
    columns = {}
    for name in data.column_names:
        try:
            columns[name] = as_series(_plain_column(data.column(name)))
        except (pl.exceptions.PolarsError, pa.ArrowException):
            raise DataError(
                f"{part.name}: column `{name}` is {data.schema.field(name).type}, which no expression can read. "
                "Cast it in the program that writes the file"
            ) from None
    return pl.DataFrame(columns)


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.int64()).cast(pa.timestamp(kind.unit))  # SQL compares it with `timestamp '...'`
    return column.cast(pa.float64()) if pa.types.is_decimal256(kind) else column
