"""Residual targets: events come together by item, by day and by user, as `data/inputs/residuals.py` needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Ints
from extembed_cli.data.columns.ids import rows_together
from extembed_cli.data.inputs.interactions import EventCounts
from extembed_cli.data.inputs.residuals import days_of, item_residuals, start_means, user_residuals, with_item_means
from extembed_cli.engines.spark.packets import Packet, frames_in, packet_of_value, packets_by
from extembed_cli.engines.spark.reading import COUNTS, EVENTS
from extembed_cli.engines.spark.tasks import Grouped, buckets_of
from extembed_cli.kernels.residuals import DAY_US, Day
from extembed_cli.spec.model import Spec

DAYS = "days"


@dataclass(frozen=True)
class ItemMeans(Grouped):
    """Adds to the events of some items the means of their earlier values, and sends them to windows of whole days."""

    spec: Spec
    origin: int
    """Time of the first event (us)"""
    starts: list[int]
    """The first day of each window, since `origin`"""

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the events by window."""
        events = with_item_means(self.spec, frames_in(groups[0], EVENTS))
        days = (events["time"].to_numpy() - self.origin) // DAY_US
        yield from packets_by(np.searchsorted(self.starts, days, "right"), EVENTS, events)


def windows_of(origin: int, per_day: Sequence[tuple[Ints, Ints]], rows: int) -> list[int]:
    """Return the first days of windows of about so many events, as days since `origin` (us).

    per_day  days since 1970 (n), and events of each (n), as several tasks have counted them
    """
    days, place = np.unique(np.concatenate([days for days, _ in per_day]), return_inverse=True)
    counts = np.bincount(place, np.concatenate([counts for _, counts in per_day]))
    window = (np.cumsum(counts) - counts) // rows  # of the first event of a day
    first = days[np.append(True, window[1:] != window[:-1])]
    return sorted({max(0, int(start)) for start in -(-(first * DAY_US - origin) // DAY_US)})


@dataclass(frozen=True)
class DaysOfWindow(Grouped):
    """Returns what the days of a window add to the means of all earlier values."""

    spec: Spec
    origin: int

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield it as one value."""
        window = rows_together(frames_in(groups[0], EVENTS), "user", "item")
        yield packet_of_value(key, DAYS, days_of(self.spec, window, self.origin))


def earlier_days(spec: Spec, origin: int, windows: Sequence[Packet]) -> dict[int, list[Day]]:
    """Return for each window the state of each mean before it: one day that stands for all before."""
    means = list(start_means(spec, origin).values())
    states = {}
    for packet in sorted(windows, key=lambda packet: packet.key):
        states[packet.key] = [Day(mean.sum, mean.weight, mean.time) for mean in means]
        for mean, days in zip(means, packet.value, strict=True):
            for day in days:
                mean.add(Day(*day))
    return states


@dataclass(frozen=True)
class WindowResiduals(Grouped):
    """Adds residuals by item to the events of a window, and sends them to the buckets of a role."""

    spec: Spec
    origin: int
    before: dict[int, list[Day]]
    buckets: int
    by: str
    is_last: bool
    """Whether there are no residuals by user to come, so that null ones can be counted"""

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the events by bucket, and counts."""
        means = start_means(self.spec, self.origin)
        for mean, day in zip(means.values(), self.before[key], strict=True):
            mean.add(day)
        window = rows_together(frames_in(groups[0], EVENTS), "user", "item")
        yield from _counted(self.spec, item_residuals(self.spec, window, means), self, key)


@dataclass(frozen=True)
class UserResiduals(Grouped):
    """Adds residuals by user to the events of some users, and sends them to the buckets of their items."""

    spec: Spec
    buckets: int
    by: str = "item"
    is_last: bool = True

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the events by bucket, and counts."""
        yield from _counted(self.spec, user_residuals(self.spec, frames_in(groups[0], EVENTS)), self, key)


def _counted(spec: Spec, events: pl.DataFrame, task: WindowResiduals | UserResiduals, key: int) -> Iterator[Packet]:
    if task.is_last:
        counts = EventCounts()
        counts.count_null_residuals(spec, events)
        yield packet_of_value(key, COUNTS, counts.null_targets)
    yield from packets_by(buckets_of(events[task.by], task.buckets), EVENTS, events)
