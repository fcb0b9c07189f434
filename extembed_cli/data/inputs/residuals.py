"""Residual targets of events, as of each event: the target minus the mean of earlier events.

    residual = y − (Σ w y_j + k m) / (Σ w + k)

over the earlier events j of the same item or user, with k prior events at m, the mean of all earlier events. The mean
of an item is over events of all users, so it is computed before the log is split by user: the events are split by item,
their sums are added as columns, and the events are merged in order of time, where m is known. What depends on the
user's own events is computed once they are together (`encode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints, Values
from extembed_cli.data.columns.ids import hashes, rows_together
from extembed_cli.data.columns.ordering import by_owner_time_and_value
from extembed_cli.data.columns.vocabulary import Numbering
from extembed_cli.data.shards import ipc
from extembed_cli.data.shards.frame_streams import FrameStreams, read_frames
from extembed_cli.errors import ResourceError
from extembed_cli.kernels.residuals import DAY_US, Day, Earlier, EarlierMean, earlier_means, shrunken_means
from extembed_cli.spec.durations import half_life_us
from extembed_cli.spec.expressions import Expression, Residual
from extembed_cli.spec.model import Spec


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
    """Return the expressions that a frame of events has a column of, once `with_residuals` has been through it."""
    of_users = spec.side.owner == "user"
    return _read_columns(spec, [_of_item(target) if of_users else target for target in spec.targets])


def mean_columns(spec: Spec) -> list[str]:
    """Return the columns of means that residuals by user need, where they are computed in a shard of users."""
    return _mean_columns(spec) if spec.side.owner == "user" else []


def _read_columns(spec: Spec, targets: list[Expression]) -> list[Expression]:
    raw = [e for e in (spec.event_weight, *map(spec.membership, spec.histories)) if e is not None]
    return list(dict.fromkeys([*raw, *targets]))


def _mean_columns(spec: Spec) -> list[str]:
    return list(dict.fromkeys(_mean_of(t).column for t in spec.targets if t.residual and t.residual.by == "user"))


def _of_item(target: Expression) -> Expression:
    """Return what the events of a user need for a target: their item residuals, or the target itself."""
    if target.residual is None:
        return target
    return target.of(None if target.residual.by == "user" else target.residual._replace(by="item"))


def null_residuals(spec: Spec, events: pl.DataFrame) -> dict[str, int]:
    """Return the events of a frame without a residual, because nothing is known before them, by the target's meaning.

    In a pass of users, residuals by user without prior events are left out: they are not known yet.
    """
    counts = {}
    for target in (target for target in spec.targets if target.residual is not None):
        column = target.column
        if column not in events.columns and target.residual is not None:
            column = _mean_of(target).column if target.residual.by == "user" else _of_item(target).column
            if target.residual.by == "user" and not target.residual.prior_events:
                continue
        counts[target.meaning] = events[column].null_count()
    return counts


# --- before the log is split by owner -----------------------------------------------------------------


class Room(NamedTuple):
    """Where events are while their residuals are computed."""

    folder: Path | None
    """In files of shards there; None = in memory"""
    shards: int
    rows: int
    """About as many are yielded at a time"""
    most: int | None
    """Most events in memory at a time"""


def with_residuals(spec: Spec, frames: Iterable[pl.DataFrame], room: Room) -> Iterator[pl.DataFrame]:
    """Yield the events with the columns of `event_columns` and `mean_columns`, in another order.

    Raises if a shard of items or users, or a day, has more events than the room.
    """
    if room.folder is None and room.shards > 1:  # a sample, whose values nobody reads: as if each frame were a log
        for frame in frames:
            yield from with_residuals(spec, [frame], room._replace(shards=1))
        return
    if _with_residual(spec):
        frames = _with_item_residuals(spec, frames, room)
    if needs_user_residuals(spec):
        frames = _parts(frames, "user", partial(user_residuals, spec), room)
    yield from frames


def _with_item_residuals(spec: Spec, frames: Iterable[pl.DataFrame], room: Room) -> Iterator[pl.DataFrame]:
    parts = _parts(frames, "item", partial(with_item_means, spec), room)
    parts = [part for part in parts if len(part)]
    if not parts:
        return
    origin = min(int(part["time"][0]) for part in parts)
    means = start_means(spec, origin)
    for window in _windows(parts, origin, room):
        yield item_residuals(spec, window, means)


Means = dict[_Mean, EarlierMean]
"""The means of all earlier values, by what they are of, up to a day"""


def start_means(spec: Spec, origin: int) -> Means:
    """Return the means before the first event, which is at `origin` (us)."""
    return {mean: EarlierMean(half_life_us(mean.half_life), origin) for mean in _means(spec)}


def item_residuals(spec: Spec, window: pl.DataFrame, means: Means) -> pl.DataFrame:
    """Return the events of some whole days with their residuals by item, and move the means on past these days."""
    kept = [expression.column for expression in _read_columns(spec, list(map(_of_item, spec.targets)))]
    kept += _mean_columns(spec)
    columns: dict[str, Doubles] = {mean.column: _earlier(window, mean, means[mean]) for mean in means}
    for target, residual in ((t, t.residual) for t in map(_of_item, _with_residual(spec))):
        if residual is None:  # by user: computed later
            continue
        mean = _Mean(target.text, residual.half_life)
        earlier = Earlier(*(window[name].to_numpy() for name in mean.of_item))
        expected = shrunken_means(earlier, columns[mean.column], residual.prior_events)
        columns[target.column] = window[mean.y].fill_null(np.nan).to_numpy() - expected
    return window.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in columns.items()).select(
        "user", "item", "time", *kept
    )


def user_residuals(spec: Spec, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the events of some users with the columns of `event_columns`, for a pass of items."""
    kept = ["user", "item", "time", *(expression.column for expression in event_columns(spec))]
    return _with_user_residuals(spec, frames).select(kept)


def needs_user_residuals(spec: Spec) -> bool:
    """Whether the events of a user have to be together before the log is split by item."""
    return spec.side.owner == "item" and any(t.residual is not None and t.residual.by != "item" for t in spec.targets)


def _with_residual(spec: Spec) -> list[Expression]:
    return [target for target in spec.targets if target.residual is not None]


def _means(spec: Spec) -> list[_Mean]:
    return list(dict.fromkeys(map(_mean_of, _with_residual(spec))))


def _parts(
    frames: Iterable[pl.DataFrame],
    role: Literal["item", "user"],
    compute: Callable[[list[pl.DataFrame]], pl.DataFrame],
    room: Room,
) -> list[pl.DataFrame]:
    """Return what `compute` makes of the frames: all together, or in mapped files of those of each shard of a role."""
    if room.folder is None:
        listed = list(frames)
        return [compute(listed)] if listed else []
    folder, shards, kind = room.folder, room.shards, f"{role}s"
    streams = FrameStreams(folder, kind, shards)
    counts = np.zeros(shards, np.int64)
    try:
        for frame in frames:
            shard_of_event = (hashes(frame[role]) % shards).astype(np.int64)
            counts += np.bincount(shard_of_event, minlength=shards)
            streams.write_by(shard_of_event, frame)
    finally:
        streams.close()
    _check_size(f"a shard of {kind}, one of which has many,", int(counts.max()), room.most)
    parts = []
    for shard in range(shards):
        listed = read_frames(folder, kind, shard)
        if listed:
            path = folder / f"residuals-{shard:04d}.arrow"
            ipc.write_table(path, ipc.to_arrow(compute(listed)))
            parts.append(ipc.from_arrow(ipc.map_table(path)))
            path.unlink()  # the mapping keeps it
        for leftover in folder.glob(f"{kind}-{shard:04d}-*.arrow"):
            leftover.unlink()
    return parts


def _check_size(whose: str, rows: int, most: int | None) -> None:
    if most is not None and rows > most:
        raise ResourceError(
            f"residuals need the {rows:,} interactions of {whose} in memory at a time, which has room for {most:,}. "
            "Raise --memory"
        )


def _with_user_residuals(spec: Spec, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return events with the residuals of their users."""
    frame = rows_together(frames, "user", "item")
    numbers = Numbering().numbers(frame["user"]).to_numpy()
    return frame.with_columns(
        pl.Series(target.column, values_of_target(target, frame, numbers), nan_to_null=True)
        for target in spec.targets
        if target.residual is not None and target.residual.by != "item"
    )


def with_item_means(spec: Spec, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return events in order of time, with the mean and weight of the earlier values of their items."""
    frame = rows_together(frames, "user", "item").sort("time")
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


def _windows(parts: list[pl.DataFrame], origin: int, room: Room) -> Iterator[pl.DataFrame]:
    """Yield the events of parts, each in order of time, in windows of whole days since `origin`, in order of time."""
    days = [(part["time"].to_numpy() - origin) // DAY_US for part in parts]
    counted = [np.unique(of_part, return_counts=True) for of_part in days]
    each, place = np.unique(np.concatenate([day for day, _ in counted]), return_inverse=True)
    counts = np.bincount(place, np.concatenate([count for _, count in counted])).astype(np.int64)
    _check_size("one day", int(counts.max()), room.most)
    window = np.cumsum(counts) // room.rows
    for number in np.unique(window):
        chosen = each[window == number]
        cuts = [np.searchsorted(day, [chosen[0], chosen[-1] + 1]) for day in days]
        slices = [part[low:high] for part, (low, high) in zip(parts, cuts, strict=True) if high > low]
        yield rows_together(slices, "user", "item")


def days_of(spec: Spec, window: pl.DataFrame, origin: int) -> list[list[Day]]:
    """Return for each of the means what the days of a window add to it."""
    return [earlier.days(*_known(window, mean)[1:]) for mean, earlier in start_means(spec, origin).items()]


def _earlier(window: pl.DataFrame, mean: _Mean, earlier: EarlierMean) -> Doubles:
    """Return the mean of all values earlier than each event of a window; NaN for an event without a value."""
    order, times, values = _known(window, mean)
    means = np.full(len(window), np.nan)
    if len(order):
        means[order] = earlier.of(times, values)
    return means


def _known(window: pl.DataFrame, mean: _Mean) -> tuple[Ints, Ints, Doubles]:
    """Return the places of the events of a window with a value, ordered by time and value, and these."""
    times, values = window["time"].to_numpy(), window[mean.y].fill_null(np.nan).to_numpy()
    known = np.flatnonzero(~np.isnan(values))
    order = known[by_owner_time_and_value(np.zeros(len(known), np.int64), times[known], values[known])]
    return order, times[order], values[order]


# --- where the events of a user are together -----------------------------------------------------------


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
