"""The logs of a pass on Spark: read once, checked and counted, with residuals, by bucket of owners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from extembed_cli.arrays import Ints
from extembed_cli.data.columns.ids import rows_together
from extembed_cli.data.columns.vocabulary import Numbering, Vocabulary
from extembed_cli.data.files.parquet import Table
from extembed_cli.data.inputs.candidates import CandidateCounts
from extembed_cli.data.inputs.inputs import Opened
from extembed_cli.data.inputs.interactions import EventCounts
from extembed_cli.data.inputs.residuals import needs_user_residuals
from extembed_cli.engines.spark import reading
from extembed_cli.engines.spark.cluster import Cluster, only
from extembed_cli.engines.spark.packets import packets_in
from extembed_cli.engines.spark.reading import CANDIDATES, COUNTS, EVENTS, IDS, PER_DAY, DifferentIds, ReadSplit, Split
from extembed_cli.engines.spark.residuals import (
    DAYS,
    DaysOfWindow,
    ItemMeans,
    UserResiduals,
    WindowResiduals,
    earlier_days,
    windows_of,
)
from extembed_cli.errors import DataError, InputError, SpecError
from extembed_cli.jobs.reading import load, sample_layout
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WINDOW_ROWS = 2**20  # of whole days, for residuals


class Logs(NamedTuple):
    """The logs of a pass on Spark, and what their tasks have counted."""

    rows: DataFrame
    """Packets of events, candidates and ids"""
    events: EventCounts
    candidates: CandidateCounts
    per_day: list[tuple[Ints, Ints]]
    """Days since 1970 and events of each, where there are residuals"""


def read_logs(cluster: Cluster, opened: Opened, watch: Watch) -> Logs:
    """Return the packets of the logs, read once, and their counts; raise all problems of the inputs."""
    spec = opened.spec
    splits = list(Split.of(EVENTS, opened.complete().interactions, reading.SPLIT_ROWS))
    if opened.candidates is not None:
        splits += Split.of(CANDIDATES, opened.candidates, reading.SPLIT_ROWS)
    has_residuals = any(target.residual is not None for target in spec.targets)
    by = "item" if has_residuals else spec.side.owner
    task = ReadSplit(spec, splits, cluster.buckets, by, counts_days=has_residuals)
    rows = cluster.keep(cluster.numbered(task, len(splits)))
    try:
        packets = cluster.collect("read", rows, COUNTS, PER_DAY)
    except (DataError, InputError, SpecError):
        _raise_as_locally(cluster, opened, rows, splits, watch)
        raise
    events, candidates = EventCounts(), CandidateCounts()
    for packet in sorted((p for p in packets if p.kind == COUNTS), key=lambda packet: packet.key):
        if splits[packet.key].kind == EVENTS:
            events.add(EventCounts(**packet.value))
        else:
            candidates.add(CandidateCounts(**packet.value))
    counted = (map(np.array, packet.value) for packet in packets if packet.kind == PER_DAY)
    per_day = [(days, counts) for days, counts in counted]
    return Logs(rows, events, candidates, per_day)


def _raise_as_locally(cluster: Cluster, opened: Opened, rows: DataFrame, splits: Sequence[Split], watch: Watch) -> None:
    """Read the files with problems here: a task sees a piece of a file, and messages are about whole ones."""
    numbers = {packet.key for packet in packets_in(cluster.run("read", only(rows).toArrow))}
    bad: dict[str, set[int]] = {EVENTS: set(), CANDIDATES: set()}
    for number in numbers:
        bad[splits[number].kind].add(splits[number].part)

    def of_files(table: Table | None, parts: set[int]) -> Table | None:
        return None if table is None else Table(table.label, tuple(table.parts[part] for part in sorted(parts)))

    here = replace(
        opened,
        interactions=of_files(opened.interactions, bad[EVENTS]),
        candidates=of_files(opened.candidates, bad[CANDIDATES]),
    )
    load(here, watch, sample_layout(here))


def partners_of(cluster: Cluster, rows: DataFrame, others: Sequence[pl.Series]) -> Vocabulary:
    """Return all partners of the logs, and of other ids."""
    different = cluster.grouped(only(rows, IDS), DifferentIds())
    frames = [packet.frame for packet in cluster.collect("ids", different, IDS)]
    frames += [ids.drop_nulls().to_frame("id") for ids in others]
    if not frames:
        return Numbering().vocabulary()
    ids = rows_together(frames, "id")["id"].unique().sort()
    return Vocabulary(ids, np.arange(len(ids), dtype=np.int32))


def with_residuals(cluster: Cluster, spec: Spec, logs: Logs) -> DataFrame:
    """Return the events with the residuals of their targets, by bucket of the owner."""
    events = logs.events
    if events.oldest is None:
        return logs.rows
    origin = events.oldest
    starts = windows_of(origin, logs.per_day, WINDOW_ROWS)
    of_items = cluster.grouped(only(logs.rows, EVENTS), ItemMeans(spec, origin, starts))
    windows = cluster.keep(of_items)
    before = earlier_days(
        spec, origin, cluster.collect("residuals", cluster.grouped(windows, DaysOfWindow(spec, origin)), DAYS)
    )
    by_user = needs_user_residuals(spec)
    by = "user" if by_user else spec.side.owner
    task = WindowResiduals(spec, origin, before, cluster.buckets, by, is_last=not by_user)
    results = cluster.keep(cluster.grouped(windows, task))
    if by_user:
        results = cluster.keep(cluster.grouped(results, UserResiduals(spec, cluster.buckets)))
    for packet in cluster.collect("residuals", results, COUNTS):
        events.add(EventCounts(null_targets=packet.value))
    return results
