"""Columns within a request: features come together by request, and what comes of them goes back to its part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Values
from extembed_cli.data.columns.ids import as_ids, rows_together
from extembed_cli.data.columns.labels import NO_TIME
from extembed_cli.data.columns.times import times_us
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.outputs.shard_results import FeaturePart, block_of, known_in
from extembed_cli.engines.spark.computing import ABOUT, FEATURES, feature_part, packets_of_features
from extembed_cli.engines.spark.packets import Packet, frames_in, packet_of_value, packets_by
from extembed_cli.engines.spark.tasks import Grouped, buckets_of
from extembed_cli.features.within import mixed_requests, within_values
from extembed_cli.spec.model import Spec

REQUESTS = "requests"
_ROWS = 131_072


@dataclass(frozen=True)
class ByRequest(Grouped):
    """Reads the requests of a part's candidates, and sends their features to the buckets of the requests."""

    spec: Spec
    candidates: Table
    columns: tuple[str, ...]
    """Features that others are relative to"""
    part_rows: int
    buckets: int

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield rows with request, time and features."""
        assert self.spec.within is not None
        parts = [feature_part(frame) for frame in frames_in(groups[0], FEATURES)]
        low = key * self.part_rows
        by, time = self.spec.within.by, self.spec.times("candidates")
        names = [by] if self.spec.as_of is not None or time.name == by else [by, time.name]
        for part, rows in self.candidates.between(low, min(low + self.part_rows, self.candidates.rows)):
            begin = 0
            for table in part.tables(names, _ROWS):
                wanted = range(max(rows.start, begin), min(rows.stop, begin + len(table)))
                begin += len(table)
                if not wanted:
                    continue
                chosen = table.slice(wanted.start - (begin - len(table)), len(wanted))
                where = f"{part.name}: column `{by}`"
                frame = pl.DataFrame({"request": as_ids(chosen.column(by), where)})
                if self.spec.as_of is None:
                    moments = times_us(chosen.column(time.name), time, f"{part.name}: `{time.name}`")
                    frame = frame.with_columns(moments.fill_null(NO_TIME).alias("time"))
                else:
                    frame = frame.with_columns(time=pl.lit(NO_TIME, pl.Int64))
                high = low + len(wanted)
                frame = frame.with_columns(
                    pl.Series("row", np.arange(low, high)),
                    *(pl.Series(name, _values(parts, name, low, high)) for name in self.columns),
                )
                low = high
                frame = frame.filter(pl.col("request").is_not_null())
                yield from packets_by(buckets_of(frame["request"], self.buckets), REQUESTS, frame)


def _values(parts: list[FeaturePart], name: str, low: int, high: int) -> pl.Series:
    """Return a feature of the rows [low, high) in float32, NaN for null."""
    having = [part for part in parts if name in part.columns]
    values = block_of(having, name, low, high).astype(np.float32)
    values[~known_in(having, low, high)] = np.nan
    return pl.Series(values)


@dataclass(frozen=True)
class WithinRequests(Grouped):
    """Returns the columns within a request of all candidates of some requests."""

    spec: Spec
    kinds: dict[str, list[tuple[str, str]]]
    """By feature the kinds of columns, with their names"""
    part_rows: int
    required: tuple[str, ...]

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the columns by part of the output, and counts."""
        rows = rows_together(frames_in(groups[0], REQUESTS), "request").sort("row")
        requests = rows["request"].rank("dense").cast(pl.Int64).to_numpy()
        mixed, known = mixed_requests(self.spec, requests, rows["time"].to_numpy())
        columns: dict[str, Values] = {}
        for name, kinds in self.kinds.items():
            columns |= within_values(rows[name].to_numpy(), requests, kinds)
        part = FeaturePart(rows["row"].to_numpy(), columns)
        yield from packets_of_features(part, self.part_rows)
        about = {"known": part.known(self.required), "mixed": mixed, "requests": known}
        yield packet_of_value(key, ABOUT, about)
