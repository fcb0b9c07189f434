"""Ids to nums, and events and candidates by user (CSR): what every technique computes from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data.ids import same_type

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class History:
    """Events of U users: those of user u at [indptr[u], indptr[u+1]), ordered by time, item and expressions."""

    indptr: Ints
    times: Ints
    items: NDArray[np.int32]
    weights: NDArray[np.float64] | None
    members: dict[str, NDArray[np.bool_]]
    """Which events belong to a history; those without `where` are not listed: every event does."""
    targets: dict[str, NDArray[np.float64]]
    """Targets by their expression; NaN = null."""


@dataclass(frozen=True)
class Candidates:
    """Candidates of the same users, ordered by user, as-of time and item; -1 = an item that is null."""

    indptr: Ints
    rows: Ints
    """Where each stood in the input."""
    times: Ints
    items: NDArray[np.int32]

    @cached_property
    def users(self) -> Ints:
        """(Q) the user of each."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class Shard:
    """Some users with their events and candidates."""

    users: pl.Series
    """Ids in order; the place of an id is the user's num."""
    history: History
    asked: Candidates


def encode(events: pl.DataFrame, asked: pl.DataFrame, ranks: NDArray[np.int32], *, all_users: bool) -> Shard:
    """Events and candidates of a shard by user: of the users with a candidate, or of those of the log too.

    Their items are nums of a vocabulary that `ranks` puts in order of ids.
    """
    of_events, of_asked = same_type(events["user"], asked["user"])
    owners = pl.concat([of_asked, of_events]) if all_users else of_asked
    users = pl.DataFrame({"user": owners.unique().sort()}).with_row_index("user_num")
    frames = (events.with_columns(of_events), asked.with_columns(of_asked))
    with ThreadPoolExecutor(len(frames)) as pool:
        events, asked = pool.map(lambda frame: _in_order(frame, users, ranks), frames)
    flags = [name for name in events.columns if name.startswith("in:")]
    targets = [name for name in events.columns if name.startswith("target:")]
    return Shard(
        users["user"],
        History(
            indptr=_indptr(events["user_num"], len(users)),
            times=events["time"].to_numpy(),
            items=events["item"].to_numpy(),
            weights=events["weight"].to_numpy() if "weight" in events.columns else None,
            members={name.removeprefix("in:"): events[name].to_numpy() for name in flags},
            targets={name.removeprefix("target:"): _with_nan(events[name]) for name in targets},
        ),
        Candidates(
            indptr=_indptr(asked["user_num"], len(users)),
            rows=asked["row"].to_numpy(),
            times=asked["time"].to_numpy(),
            items=asked["item"].to_numpy(),
        ),
    )


def _in_order(frame: pl.DataFrame, users: pl.DataFrame, ranks: NDArray[np.int32]) -> pl.DataFrame:
    """Rows of the users alone, by user, time, item (-1 = null), weight, and then all other columns by name."""
    frame = frame.join(users, on="user", how="left", maintain_order="left").drop("user")
    if frame["user_num"].null_count():
        frame = frame.filter(pl.col("user_num").is_not_null())
    ranked = np.append(ranks, np.int32(-1))[frame["item"].fill_null(len(ranks)).to_numpy()]
    frame = frame.with_columns(pl.Series("item", ranked))
    order, ties = _by_user_and_time(frame["user_num"].to_numpy(), frame["time"].to_numpy())
    if len(ties):
        others = sorted(set(frame.columns) - {"user_num", "time", "item"}, key=lambda name: (name != "weight", name))
        tied = frame[order[ties]].with_columns(place=order[ties]).sort(["user_num", "time", "item", *others])
        order[ties] = tied["place"].to_numpy()
    return frame[order]


def _by_user_and_time(users: NDArray[np.uint32], times: Ints) -> tuple[Ints, Ints]:
    """The order of rows by user and time, and the places in it where that does not decide: one sort of 64-bit keys.

    Where a key cannot hold both, it goes without the last bits of the times, and more places are undecided.
    """
    if not len(times):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    since = (times - times.min()).view(np.uint64)
    bits = int(since.max()).bit_length()
    dropped = max(0, bits + int(users.max()).bit_length() - 64)
    keys = (users.astype(np.uint64) << np.uint64(bits - dropped)) | (since >> np.uint64(dropped))
    order = pl.Series(keys).arg_sort().to_numpy().astype(np.int64)
    in_order = keys[order]
    same = in_order[1:] == in_order[:-1]
    return order, np.flatnonzero(np.append(same, False) | np.append(False, same))


def every_user(history: History, time_us: int) -> Candidates:
    """One row per user at one as-of time, without an item."""
    users = len(history.indptr) - 1
    return Candidates(
        indptr=np.arange(users + 1),
        rows=np.arange(users),
        times=np.full(users, time_us),
        items=np.full(users, -1, np.int32),
    )


def split(history: History, candidates: Candidates, low: int, high: int) -> tuple[History, Candidates]:
    """The users [low, high): a shard."""
    events = slice(history.indptr[low], history.indptr[high])
    asked = slice(candidates.indptr[low], candidates.indptr[high])
    return (
        History(
            indptr=history.indptr[low : high + 1] - history.indptr[low],
            times=history.times[events],
            items=history.items[events],
            weights=None if history.weights is None else history.weights[events],
            members={name: flags[events] for name, flags in history.members.items()},
            targets={name: values[events] for name, values in history.targets.items()},
        ),
        Candidates(
            indptr=candidates.indptr[low : high + 1] - candidates.indptr[low],
            rows=candidates.rows[asked],
            times=candidates.times[asked],
            items=candidates.items[asked],
        ),
    )


def _with_nan(values: pl.Series) -> NDArray[np.float64]:
    return values.fill_null(np.nan).to_numpy()


def _indptr(nums: pl.Series, users: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(nums.to_numpy(), minlength=users))]).astype(np.int64)
