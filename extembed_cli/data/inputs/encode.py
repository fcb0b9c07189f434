"""Encoding of events and candidates as arrays by owner (CSR)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.arrays import Ints, Values
from extembed_cli.data.columns.ids import same_type
from extembed_cli.data.columns.ordering import by_owner_and_time
from extembed_cli.data.columns.vocabulary import Vocabulary
from extembed_cli.data.inputs.residuals import values_of_target
from extembed_cli.data.shards import ipc
from extembed_cli.histories.csr import Candidates, History, Shard
from extembed_cli.spec.model import Spec


def encode(spec: Spec, events: pa.Table, candidates: pa.Table, vocabulary: Vocabulary) -> Shard:
    """Return the shard of these events and candidates, given in any order: of owners with a candidate, or of all.

    events      `owner`, `time` (us), `partner` (ids) or `partner_number` (of the vocabulary), and the columns of
                `with_residuals`
    candidates  `owner`, `time`, `partner` or `partner_number`, and `row`
    """
    frames = [ipc.from_arrow(events), ipc.from_arrow(candidates)]
    event_owners, candidate_owners = same_type(*(frame["owner"] for frame in frames))
    ids = pl.concat([candidate_owners, event_owners]) if spec.needs_all_owners else candidate_owners
    owners = pl.DataFrame({"owner": ids.unique().sort()}).with_row_index("owner_num")
    frames = [frame.with_columns(each) for frame, each in zip(frames, (event_owners, candidate_owners), strict=True)]
    weight = spec.event_weight
    first = None if weight is None else weight.column
    with ThreadPoolExecutor(len(frames)) as pool:
        ordered = pool.map(lambda frame: _in_order(frame, owners, vocabulary, first), frames)
        event_rows, candidate_rows = ordered
    flags_and_weight = [e for e in spec.expressions if e.dtype == "Boolean" or e == weight]
    values = {expression: _values(event_rows[expression.column]) for expression in flags_and_weight}
    owner_nums = event_rows["owner_num"].to_numpy()
    for target in spec.targets:
        if target.column in event_rows.columns:
            values[target] = _values(event_rows[target.column])
        else:  # a residual of the owner's own events
            values[target] = values_of_target(target, event_rows, owner_nums)
    return Shard(
        owners["owner"],
        History(
            indptr=_indptr(event_rows["owner_num"], len(owners)),
            times=event_rows["time"].to_numpy(),
            partners=event_rows["partner"].to_numpy(),
            values=values,
            weight=weight,
        ),
        Candidates(
            indptr=_indptr(candidate_rows["owner_num"], len(owners)),
            rows=candidate_rows["row"].to_numpy(),
            times=candidate_rows["time"].to_numpy(),
            partners=candidate_rows["partner"].to_numpy(),
        ),
    )


def _in_order(frame: pl.DataFrame, owners: pl.DataFrame, vocabulary: Vocabulary, weight: str | None) -> pl.DataFrame:
    """Return the rows of these owners, ordered by owner, time, partner, weight, then all other columns by name."""
    frame = frame.join(owners, on="owner", how="left", maintain_order="left").drop("owner")
    if frame["owner_num"].null_count():
        frame = frame.filter(pl.col("owner_num").is_not_null())
    nums = pl.Series("partner", vocabulary.nums(frame))
    frame = frame.drop("partner", "partner_number", strict=False).with_columns(nums)
    order, ties = by_owner_and_time(frame["owner_num"].to_numpy(), frame["time"].to_numpy())
    if len(ties):
        rest = sorted(set(frame.columns) - {"owner_num", "time", "partner"}, key=lambda name: (name != weight, name))
        tied = frame[order[ties]].with_columns(place=order[ties]).sort(["owner_num", "time", "partner", *rest])
        order[ties] = tied["place"].to_numpy()
    return frame[order]


def _values(column: pl.Series) -> Values:
    """Return flags, or numbers with NaN for null."""
    return column.to_numpy() if column.dtype == pl.Boolean() else column.fill_null(np.nan).to_numpy()


def _indptr(nums: pl.Series, owners: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(nums.to_numpy(), minlength=owners))]).astype(np.int64)
