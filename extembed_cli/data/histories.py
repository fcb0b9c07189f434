"""Ids to nums, and events and candidates by user (CSR): what every technique computes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data.interactions import Interactions
from extembed_cli.data.keys import same_type

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

    @property
    def users(self) -> Ints:
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class Encoded:
    """Ids in order of their nums, and the events and candidates of the same users."""

    users: pl.Series
    vocabulary: pl.Series
    history: History
    asked: Candidates


def encode(interactions: Interactions, candidates: pl.DataFrame, all_users: bool = False) -> Encoded:
    """Ids to nums, for the users that have a candidate, or for those of the log too.

    Candidates without user or time are left out: they see nothing and get nulls.
    """
    events = interactions.frame
    user_ids = same_type(events["user"], candidates["user"])
    item_ids = same_type(events["item"], candidates["item"])
    events = events.with_columns(user_ids[0], item_ids[0])
    asked = candidates.with_columns(user_ids[1], item_ids[1]).with_row_index("row")
    asked = asked.filter(pl.col("user").is_not_null() & pl.col("time").is_not_null())

    owners = pl.concat([asked["user"], events["user"]]) if all_users else asked["user"]
    users = pl.DataFrame({"user": owners.unique().sort()}).with_row_index("user_num")
    events = events.join(users, on="user", how="inner").drop("user")
    asked = asked.join(users, on="user", how="inner").drop("user")

    vocabulary = pl.concat([events["item"], asked["item"]]).drop_nulls().unique().sort()
    nums = pl.DataFrame({"item": vocabulary}).with_row_index("item_num")
    events = events.join(nums, on="item", how="left").drop("item")
    asked = asked.join(nums, on="item", how="left").drop("item")

    flags = sorted(name for name in events.columns if name.startswith("in:"))
    targets = sorted(name for name in events.columns if name.startswith("target:"))
    weight = ["weight"] if "weight" in events.columns else []
    events = events.sort(["user_num", "time", "item_num", *weight, *flags, *targets])
    asked = asked.sort(["user_num", "time", "item_num", "row"])
    history = History(
        indptr=_indptr(events["user_num"], len(users)),
        times=events["time"].to_numpy(),
        items=events["item_num"].cast(pl.Int32).to_numpy(),
        weights=events["weight"].to_numpy() if "weight" in events.columns else None,
        members={name.removeprefix("in:"): events[name].to_numpy() for name in flags},
        targets={name.removeprefix("target:"): _with_nan(events[name]) for name in targets},
    )
    return Encoded(
        users["user"],
        vocabulary,
        history,
        Candidates(
            indptr=_indptr(asked["user_num"], len(users)),
            rows=asked["row"].cast(pl.Int64).to_numpy(),
            times=asked["time"].to_numpy(),
            items=asked["item_num"].cast(pl.Int32).fill_null(-1).to_numpy(),
        ),
    )


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
