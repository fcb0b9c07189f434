"""Residual targets of events, as of each event: the target minus the mean of earlier events.

    residual = y − (Σ w y_j + k m) / (Σ w + k)

over the earlier events j of the same item or user, with k prior events at m, the mean of all earlier events. The mean
of an item is over events of all users, so it is computed before the log is split by user: the events are split by item,
their sums are added as columns, and the events are merged in order of time, where m is known. What depends on the
user's own events is computed once they are together (`encode`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints, Values
from extembed_cli.data import ipc
from extembed_cli.data.frame_streams import FrameStreams, read_frames
from extembed_cli.data.ids import hashes, same_type
from extembed_cli.data.ordering import by_owner_time_and_value
from extembed_cli.data.vocabulary import Numbering
from extembed_cli.errors import ResourceError
from extembed_cli.kernels.residuals import DAY_US, Earlier, EarlierMean, earlier_means, shrunken_means
from extembed_cli.spec.durations import half_life_us
from extembed_cli.spec.expressions import Expression, Residual
from extembed_cli.spec.model import Spec

_KIND = "items"


class _Mean(NamedTuple):
    """The mean of all earlier values of an expression."""

    text: str
    half_life: str

    @property
    def column(self) -> str:
        return f"mean/{self.half_life}:{self.text}"

    @property
    def y(self) -> str:
        """The column of the values."""
        return Expression(self.text, "Float64").column

    @property
    def of_item(self) -> tuple[str, str]:
        """The columns of the mean and the weight of the item's earlier values."""
        return f"item/{self.half_life}:{self.text}", f"weight/{self.half_life}:{self.text}"


def _mean_of(target: Expression) -> _Mean:
    assert target.residual is not None
    return _Mean(target.text, target.residual.half_life)


def event_columns(spec: Spec) -> list[Expression]:
    """Return the expressions that a frame of events has a column of, once item residuals are in it."""
    raw = [e for e in (spec.event_weight, *map(spec.membership, spec.histories)) if e is not None]
    raw += [target if target.residual is None else _of_item(target) for target in spec.targets]
    return list(dict.fromkeys(raw))


def _of_item(target: Expression) -> Expression:
    """Return what the events of a user need for a target: their item residuals, or the target itself."""
    assert target.residual is not None
    return target.of(None if target.residual.by == "user" else target.residual._replace(by="item"))


def mean_columns(spec: Spec) -> list[str]:
    """Return the columns of means that the residuals by user need."""
    return list(dict.fromkeys(_mean_of(t).column for t in spec.targets if t.residual and t.residual.by == "user"))


def null_residuals(spec: Spec, events: pl.DataFrame) -> dict[str, int]:
    """Return the events of a frame without a residual, because nothing is known before them, by the target's meaning.

    Residuals by user without prior events are left out: they are not known yet.
    """
    counts = {}
    for target in spec.targets:
        if target.residual is not None and (target.residual.by != "user" or target.residual.prior_events):
            by_user = target.residual.by == "user"
            residuals = events[_mean_of(target).column if by_user else _of_item(target).column]
            counts[target.meaning] = residuals.null_count()
    return counts


# --- before the log is split by user ------------------------------------------------------------------


def with_item_residuals(
    spec: Spec, frames: Iterable[pl.DataFrame], folder: Path | None, shards: int, rows: int, most: int | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the events with the columns of `event_columns` and `mean_columns`, in another order.

    With a folder the events are in files there, in shards of items; else in memory. About `rows` are yielded at a time,
    in whole days. Raises if a shard of items or a day has more than `most` events.
    """
    targets = [target for target in spec.targets if target.residual is not None]
    if not targets:
        yield from frames
        return
    if folder is None and shards > 1:  # a sample, whose values nobody reads: as if each frame were a log
        for frame in frames:
            yield from with_item_residuals(spec, [frame], None, 1, rows)
        return
    parts = _in_memory(spec, frames) if folder is None else _in_files(spec, frames, folder, shards, most)
    parts = [part for part in parts if len(part)]
    if not parts:
        return
    kept = [expression.column for expression in event_columns(spec)] + mean_columns(spec)
    origin = min(int(part["time"][0]) for part in parts)
    means = {mean: EarlierMean(half_life_us(mean.half_life), origin) for mean in map(_mean_of, targets)}
    for window in _windows(parts, origin, rows, most):
        columns: dict[str, Doubles] = {mean.column: _earlier(window, mean, means[mean]) for mean in means}
        for target, residual in ((t, t.residual) for t in map(_of_item, targets)):
            if residual is None:  # by user: computed in `encode`
                continue
            mean = _Mean(target.text, residual.half_life)
            earlier = Earlier(*(window[name].to_numpy() for name in mean.of_item))
            expected = shrunken_means(earlier, columns[mean.column], residual.prior_events)
            columns[target.column] = window[mean.y].fill_null(np.nan).to_numpy() - expected
        yield window.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in columns.items()).select(
            "user", "item", "time", *kept
        )


def _in_memory(spec: Spec, frames: Iterable[pl.DataFrame]) -> list[pl.DataFrame]:
    listed = list(frames)
    return [_with_item_means(spec, listed)] if listed else []


def _in_files(
    spec: Spec, frames: Iterable[pl.DataFrame], folder: Path, shards: int, most: int | None
) -> list[pl.DataFrame]:
    """Return the events of each shard of items from a mapped file."""
    streams = FrameStreams(folder, _KIND, shards)
    counts = np.zeros(shards, np.int64)
    try:
        for frame in frames:
            shard_of_event = (hashes(frame["item"]) % shards).astype(np.int64)
            counts += np.bincount(shard_of_event, minlength=shards)
            streams.write_by(shard_of_event, frame)
    finally:
        streams.close()
    _check_size("a shard of items, one of which is popular,", int(counts.max()), most)
    parts = []
    for shard in range(shards):
        listed = read_frames(folder, _KIND, shard)
        if listed:
            path = folder / f"residuals-{shard:04d}.arrow"
            ipc.write_table(path, ipc.to_arrow(_with_item_means(spec, listed)))
            parts.append(ipc.from_arrow(ipc.map_table(path)))
            path.unlink()  # the mapping keeps it
        for leftover in folder.glob(f"{_KIND}-{shard:04d}-*.arrow"):
            leftover.unlink()
    return parts


def _check_size(whose: str, rows: int, most: int | None) -> None:
    if most is not None and rows > most:
        raise ResourceError(
            f"residuals need the {rows:,} interactions of {whose} in memory at a time, which has room for {most:,}. "
            "Raise --memory"
        )


def _with_item_means(spec: Spec, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return events in order of time, with the mean and weight of the earlier values of their items."""
    ids = {name: same_type(*(frame[name] for frame in frames)) for name in ("user", "item")}
    frame = pl.concat(
        each.with_columns(user.alias("user"), item.alias("item"))
        for each, user, item in zip(frames, ids["user"], ids["item"], strict=True)
    ).sort("time")
    numbers = Numbering().numbers(frame["item"]).to_numpy()
    times = frame["time"].to_numpy()
    means = {_mean_of(t) for t in spec.targets if t.residual is not None and t.residual.by != "user"}
    columns = []
    for mean in sorted(means):
        values = frame[mean.y].fill_null(np.nan).to_numpy()
        results = _earlier_of(numbers, times, values, mean.half_life)
        columns += [pl.Series(name, each) for name, each in zip(mean.of_item, results, strict=True)]
    return frame.with_columns(columns)


def _earlier_of(owners: Values, times: Ints, values: Doubles, half_life: str) -> Earlier:
    """Return the earlier values of each value's owner; NaN values do not count and have none: (n) each.

    Rows are in any order, owners are numbers from 0.
    """
    known = np.flatnonzero(~np.isnan(values))
    order = known[by_owner_time_and_value(owners[known], times[known], values[known])]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owners[order]))]).astype(np.int64)
    results = Earlier(np.full(len(values), np.nan), np.zeros(len(values)))
    for result, each in zip(
        results, earlier_means(indptr, times[order], values[order], half_life_us(half_life)), strict=True
    ):
        result[order] = each
    return results


def _windows(parts: list[pl.DataFrame], origin: int, rows: int, most: int | None) -> Iterator[pl.DataFrame]:
    """Yield the events of parts, each in order of time, in windows of whole days since `origin`, in order of time."""
    days = [(part["time"].to_numpy() - origin) // DAY_US for part in parts]
    counted = [np.unique(of_part, return_counts=True) for of_part in days]
    each, place = np.unique(np.concatenate([day for day, _ in counted]), return_inverse=True)
    counts = np.bincount(place, np.concatenate([count for _, count in counted])).astype(np.int64)
    _check_size("one day", int(counts.max()), most)
    window = np.cumsum(counts) // rows
    for number in np.unique(window):
        chosen = each[window == number]
        cuts = [np.searchsorted(day, [chosen[0], chosen[-1] + 1]) for day in days]
        slices = [part[low:high] for part, (low, high) in zip(parts, cuts, strict=True) if high > low]
        ids = {name: same_type(*(frame[name] for frame in slices)) for name in ("user", "item")}
        yield pl.concat(
            frame.with_columns(user.alias("user"), item.alias("item"))
            for frame, user, item in zip(slices, ids["user"], ids["item"], strict=True)
        )


def _earlier(window: pl.DataFrame, mean: _Mean, earlier: EarlierMean) -> Doubles:
    """Return the mean of all values earlier than each event of a window; NaN for an event without a value."""
    times, values = window["time"].to_numpy(), window[mean.y].fill_null(np.nan).to_numpy()
    known = np.flatnonzero(~np.isnan(values))
    order = known[by_owner_time_and_value(np.zeros(len(known), np.int64), times[known], values[known])]
    means = np.full(len(values), np.nan)
    if len(order):
        means[order] = earlier.of(times[order], values[order])
    return means


# --- once the events of a user are together -----------------------------------------------------------


def values_of_target(target: Expression, events: pl.DataFrame, owners: Ints) -> Doubles:
    """Return the values of a target, NaN for null, from the columns of a user's events in any order."""
    residual: Residual | None = target.residual
    values = events[(target if residual is None else _of_item(target)).column].fill_null(np.nan).to_numpy()
    if residual is None or residual.by == "item":
        return values
    earlier = _earlier_of(owners, events["time"].to_numpy(), values, residual.half_life)
    prior: Doubles | float = 0.0
    if residual.by == "user":
        prior = events[_mean_of(target).column].fill_null(np.nan).to_numpy()
    expected = shrunken_means(earlier, prior, residual.prior_events)
    if residual.by == "item+user":  # the first event of a user has no mean to take off
        expected = np.where(np.isnan(expected), 0, expected)
    result: Doubles = values - expected
    return result
