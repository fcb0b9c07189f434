"""Candidates as frames: `user`, `item`, `time` in us, and `row`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from extembed_cli.data.columns.ids import as_ids, examples
from extembed_cli.data.columns.times import check_time_type, times_us
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.interactions import RENAME, extreme
from extembed_cli.errors import Problems
from extembed_cli.spec.durations import time_us
from extembed_cli.spec.model import Spec


@dataclass
class CandidateCounts:
    """Rows of the candidates, counted batch by batch."""

    rows: int = 0
    null_user_or_time: int = 0
    null_item: int = 0
    oldest: int | None = None
    newest: int | None = None
    """As-of times of usable candidates (us)."""
    examples: dict[str, str] = field(default_factory=dict)
    """A few ids of users and items, as messages write them."""

    def usable_candidates(self, candidates: pl.DataFrame) -> pl.DataFrame:
        """Count the rows; return those with a user and a time. The others get nulls as features."""
        self.rows += len(candidates)
        self.null_item += candidates["item"].null_count()
        usable = candidates.filter(pl.col("user").is_not_null() & pl.col("time").is_not_null())
        self.null_user_or_time += len(candidates) - len(usable)
        if len(usable):
            self.examples = self.examples or {role: examples(usable[role]) for role in ("user", "item")}
            self.oldest = extreme(min, self.oldest, usable["time"].min())
            self.newest = extreme(max, self.newest, usable["time"].max())
        return usable

    def add(self, other: CandidateCounts) -> None:
        """Add the counts of other rows."""
        for name in ("rows", "null_user_or_time", "null_item"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.examples = self.examples or other.examples
        self.oldest = extreme(min, self.oldest, other.oldest)
        self.newest = extreme(max, self.newest, other.newest)


def check_candidates(spec: Spec, table: Table) -> None:
    """Check that the columns exist and have usable types, from the footers alone."""
    roles = ["user", "item"] if spec.as_of else ["user", "item", "time"]
    names = {role: spec.column("candidates", role) for role in roles}
    fixes = {name: RENAME.format(key=f"columns.candidates.{role}") for role, name in names.items()}
    if "time" in names:
        fixes[names["time"]] += ", or give one as-of time for all (as_of, --as-of)"
    table.require(fixes)
    if "time" in names:
        check_time_type(table, spec.times("candidates"))


def read_candidates(spec: Spec, table: Table, rows: int) -> Iterator[pl.DataFrame]:
    """Yield all candidates, `rows` at a time: `user`, `item`, `time` (floored to `as_of_step`), `row`. Keep nulls."""
    user, item = (spec.column("candidates", role) for role in ("user", "item"))
    time = spec.times("candidates")
    wanted = list(dict.fromkeys([user, item] if spec.as_of else [user, item, time.name]))
    problems = Problems()
    row = 0
    for part in table.parts:
        with problems.collect():
            for data in part.tables(wanted, rows):
                ids = {"user": user, "item": item}
                columns = {
                    role: as_ids(data.column(name), f"{part.name}: column `{name}`") for role, name in ids.items()
                }
                if not spec.as_of:
                    columns["time"] = times_us(data.column(time.name), time, f"{part.name}: column `{time.name}`")
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


def no_candidates() -> pl.DataFrame:
    """Return an empty frame of candidates."""
    return pl.DataFrame(
        schema={"owner": pl.Null(), "partner_number": pl.Int32(), "time": pl.Int64(), "row": pl.Int64()}
    )
