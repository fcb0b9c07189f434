"""Rows of events and candidates to arrays by user (CSR)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Ints, Values
from extembed_cli.data import ipc
from extembed_cli.data.ids import same_type
from extembed_cli.data.vocabulary import Vocabulary
from extembed_cli.histories.csr import Candidates, History, Shard
from extembed_cli.spec.model import Expression


def encode(
    events: pa.Table, candidates: pa.Table, vocabulary: Vocabulary, weight: Expression | None, *, all_users: bool
) -> Shard:
    """Events and candidates of some users, in any order, by user: of the users with a candidate, or of all.

    events      `user`, `time` (us), `item` (ids) or `item_number` (of the vocabulary), and a column of each expression
    candidates  the same without expressions, and `row`
    """
    frames = [ipc.from_arrow(events), ipc.from_arrow(candidates)]
    of_events, of_candidates = same_type(*(frame["user"] for frame in frames))
    owners = pl.concat([of_candidates, of_events]) if all_users else of_candidates
    users = pl.DataFrame({"user": owners.unique().sort()}).with_row_index("user_num")
    frames = [frame.with_columns(of) for frame, of in zip(frames, (of_events, of_candidates), strict=True)]
    first = None if weight is None else weight.column
    with ThreadPoolExecutor(len(frames)) as pool:
        ordered = pool.map(lambda frame: _in_order(frame, users, vocabulary, first), frames)
        of_users, asked = ordered
    expressions = [Expression.of_column(name) for name in of_users.columns if ":" in name]
    return Shard(
        users["user"],
        History(
            indptr=_indptr(of_users["user_num"], len(users)),
            times=of_users["time"].to_numpy(),
            items=of_users["item"].to_numpy(),
            values={expression: _values(of_users[expression.column]) for expression in expressions},
            weight=weight,
        ),
        Candidates(
            indptr=_indptr(asked["user_num"], len(users)),
            rows=asked["row"].to_numpy(),
            times=asked["time"].to_numpy(),
            items=asked["item"].to_numpy(),
        ),
    )


def _in_order(frame: pl.DataFrame, users: pl.DataFrame, vocabulary: Vocabulary, weight: str | None) -> pl.DataFrame:
    """Rows of the users alone, by user, time, item, weight, and then all other columns by name."""
    frame = frame.join(users, on="user", how="left", maintain_order="left").drop("user")
    if frame["user_num"].null_count():
        frame = frame.filter(pl.col("user_num").is_not_null())
    nums = pl.Series("item", vocabulary.nums(frame))
    frame = frame.drop("item", "item_number", strict=False).with_columns(nums)
    order, ties = _by_user_and_time(frame["user_num"].to_numpy(), frame["time"].to_numpy())
    if len(ties):
        others = sorted(set(frame.columns) - {"user_num", "time", "item"}, key=lambda name: (name != weight, name))
        tied = frame[order[ties]].with_columns(place=order[ties]).sort(["user_num", "time", "item", *others])
        order[ties] = tied["place"].to_numpy()
    return frame[order]


def _by_user_and_time(users: Values, times: Ints) -> tuple[Ints, Ints]:
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


def _values(column: pl.Series) -> Values:
    """Flags, or numbers with NaN for null."""
    return column.to_numpy() if column.dtype == pl.Boolean() else column.fill_null(np.nan).to_numpy()


def _indptr(nums: pl.Series, users: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(nums.to_numpy(), minlength=users))]).astype(np.int64)
