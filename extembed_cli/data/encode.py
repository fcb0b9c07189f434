"""Encoding of events and candidates as arrays by user (CSR)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Ints, Values
from extembed_cli.data import ipc
from extembed_cli.data.ids import same_type
from extembed_cli.data.ordering import by_owner_and_time
from extembed_cli.data.residuals import values_of_target
from extembed_cli.data.vocabulary import Vocabulary
from extembed_cli.histories.csr import Candidates, History, Shard
from extembed_cli.spec.model import Spec


def encode(spec: Spec, events: pa.Table, candidates: pa.Table, vocabulary: Vocabulary) -> Shard:
    """Return the shard of these events and candidates, given in any order: users with a candidate only, or all users.

    events      `user`, `time` (us), `item` (ids) or `item_number` (of the vocabulary), and the columns of
                `with_item_residuals`
    candidates  `user`, `time`, `item` or `item_number`, and `row`
    """
    frames = [ipc.from_arrow(events), ipc.from_arrow(candidates)]
    event_users, candidate_users = same_type(*(frame["user"] for frame in frames))
    owners = pl.concat([candidate_users, event_users]) if spec.needs_all_users else candidate_users
    users = pl.DataFrame({"user": owners.unique().sort()}).with_row_index("user_num")
    frames = [frame.with_columns(ids) for frame, ids in zip(frames, (event_users, candidate_users), strict=True)]
    weight = spec.event_weight
    first = None if weight is None else weight.column
    with ThreadPoolExecutor(len(frames)) as pool:
        ordered = pool.map(lambda frame: _in_order(frame, users, vocabulary, first), frames)
        event_rows, candidate_rows = ordered
    flags_and_weight = [e for e in spec.expressions if e.dtype == "Boolean" or e == weight]
    values = {expression: _values(event_rows[expression.column]) for expression in flags_and_weight}
    user_nums = event_rows["user_num"].to_numpy()
    values |= {target: values_of_target(target, event_rows, user_nums) for target in spec.targets}
    return Shard(
        users["user"],
        History(
            indptr=_indptr(event_rows["user_num"], len(users)),
            times=event_rows["time"].to_numpy(),
            items=event_rows["item"].to_numpy(),
            values=values,
            weight=weight,
        ),
        Candidates(
            indptr=_indptr(candidate_rows["user_num"], len(users)),
            rows=candidate_rows["row"].to_numpy(),
            times=candidate_rows["time"].to_numpy(),
            items=candidate_rows["item"].to_numpy(),
        ),
    )


def _in_order(frame: pl.DataFrame, users: pl.DataFrame, vocabulary: Vocabulary, weight: str | None) -> pl.DataFrame:
    """Return the rows of these users, ordered by user, time, item, weight, then all other columns by name."""
    frame = frame.join(users, on="user", how="left", maintain_order="left").drop("user")
    if frame["user_num"].null_count():
        frame = frame.filter(pl.col("user_num").is_not_null())
    nums = pl.Series("item", vocabulary.nums(frame))
    frame = frame.drop("item", "item_number", strict=False).with_columns(nums)
    order, ties = by_owner_and_time(frame["user_num"].to_numpy(), frame["time"].to_numpy())
    if len(ties):
        rest = sorted(set(frame.columns) - {"user_num", "time", "item"}, key=lambda name: (name != weight, name))
        tied = frame[order[ties]].with_columns(place=order[ties]).sort(["user_num", "time", "item", *rest])
        order[ties] = tied["place"].to_numpy()
    return frame[order]


def _values(column: pl.Series) -> Values:
    """Return flags, or numbers with NaN for null."""
    return column.to_numpy() if column.dtype == pl.Boolean() else column.fill_null(np.nan).to_numpy()


def _indptr(nums: pl.Series, users: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(nums.to_numpy(), minlength=users))]).astype(np.int64)
