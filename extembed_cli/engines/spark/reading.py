"""Reading the logs: each task reads some row groups, checks and counts their rows, and sends them to their owners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data.columns.ids import rows_together
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.candidates import CandidateCounts, read_candidates
from extembed_cli.data.inputs.interactions import EventCounts, read_interactions
from extembed_cli.engines.spark.packets import Packet, frames_in, packet_of_value, packets_by, packets_of
from extembed_cli.engines.spark.tasks import Grouped, Numbered, buckets_of
from extembed_cli.spec.durations import DAY_US
from extembed_cli.spec.model import Spec

SPLIT_ROWS = 2**21
IDS, COUNTS, PER_DAY = "ids", "counts", "per day"
EVENTS: Literal["events"] = "events"
CANDIDATES: Literal["candidates"] = "candidates"
_ROWS = 2**20  # read at a time: with many buckets, fewer rows make packets of mostly headers


@dataclass(frozen=True)
class Split:
    """Some row groups of a log."""

    kind: Literal["events", "candidates"]
    table: Table
    """Of one file"""
    part: int
    """Which of the log's files it is"""
    first_row: int
    """Of the log"""

    @classmethod
    def of(cls, kind: Literal["events", "candidates"], log: Table, rows: int) -> Iterator[Split]:
        """Yield the splits of a log, each of about so many rows."""
        first = 0
        for part, file in enumerate(log.parts):
            for table in Table(log.label, (file,)).splits(rows):
                yield cls(kind, table, part, first)
                first += table.rows


@dataclass(frozen=True)
class ReadSplit(Numbered):
    """Reads a split: rows by bucket of a role, and the different ids of partners by bucket of their own."""

    spec: Spec
    splits: list[Split]
    buckets: int
    by: str
    """Whose events come together: `user` or `item`"""
    counts_days: bool
    """Whether events are counted by their day since 1970"""

    def packets(self, number: int) -> Iterator[Packet]:
        """Yield rows, ids and counts of a split."""
        split = self.splits[number]
        partners: list[pl.DataFrame] = []
        if split.kind == EVENTS:
            events = EventCounts()
            for frame in read_interactions(self.spec, split.table, _ROWS):
                usable = events.usable_events(self.spec, frame)
                yield from packets_by(buckets_of(usable[self.by], self.buckets), EVENTS, usable)
                partners.append(_different(usable[self.spec.side.partner]))
                if self.counts_days:
                    counted = np.unique(usable["time"].to_numpy() // DAY_US, return_counts=True)
                    yield packet_of_value(number, PER_DAY, [each.tolist() for each in counted])
            yield packet_of_value(number, COUNTS, asdict(events))
        else:
            candidates, owner = CandidateCounts(), self.spec.side.owner
            for frame in read_candidates(self.spec, split.table, _ROWS):
                usable = candidates.usable_candidates(frame.with_columns(pl.col("row") + split.first_row))
                usable = usable.filter(pl.col(owner).is_not_null())
                yield from packets_by(buckets_of(usable[owner], self.buckets), CANDIDATES, usable)
                partners.append(_different(usable[self.spec.side.partner]))
            yield packet_of_value(number, COUNTS, asdict(candidates))
        if partners:
            ids = _different(rows_together(partners, "id")["id"])
            yield from packets_by(buckets_of(ids["id"], self.buckets), IDS, ids)


class DifferentIds(Grouped):
    """Returns each id of a bucket once."""

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the different ids."""
        yield from packets_of(key, IDS, _different(rows_together(frames_in(groups[0], IDS), "id")["id"]))


def _different(ids: pl.Series) -> pl.DataFrame:
    return ids.drop_nulls().unique().to_frame("id")
