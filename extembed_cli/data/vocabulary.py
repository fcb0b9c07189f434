"""Ids and nums of items, numbered as they are met: a log that does not fit in memory is read once."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data.ids import same_type


class Vocabulary:
    """A growing vocabulary. Nums are in order of appearance; `ranks` puts them in order of ids."""

    def __init__(self, frame: pl.DataFrame | None = None) -> None:
        self.frame = pl.DataFrame(schema={"id": pl.Null(), "num": pl.Int32()}) if frame is None else frame
        """`id` and `num`, in order of nums."""

    def nums(self, ids: pl.Series) -> pl.Series:
        """The num of each id, Int32; null for null. Ids not met before get the next ones."""
        known, ids = same_type(self.frame["id"], ids)
        unique = pl.DataFrame({"id": ids.drop_nulls().unique()})
        table = self.frame.with_columns(known.alias("id"))
        new = unique.join(table, on="id", how="anti")
        first = len(table)
        new = new.with_columns(num=pl.int_range(first, first + len(new), dtype=pl.Int32))
        self.frame = pl.concat([table, new])
        found = pl.DataFrame({"id": ids}).join(self.frame, on="id", how="left", maintain_order="left")
        return found["num"]

    @property
    def ids(self) -> pl.Series:
        """All ids in order."""
        return self.frame["id"].sort()

    @property
    def ranks(self) -> NDArray[np.int32]:
        """The place of each num in order of ids."""
        order = self.frame["id"].arg_sort().to_numpy()
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        return ranks
