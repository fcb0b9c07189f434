"""Ids of partners and their nums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from extembed_cli.arrays import Nums
from extembed_cli.data.columns.ids import places_among, same_type


@dataclass(frozen=True)
class Vocabulary:
    """Ids of partners in order: the position of an id is the partner's num."""

    ids: pl.Series
    ranks: Nums
    """The num of each partner, by the number that it got while the inputs were read"""

    def nums(self, rows: pl.DataFrame) -> Nums:
        """Return the nums of partners, -1 for null: by `partner_number` if the frame has it, else by their ids."""
        if "partner_number" in rows.columns:
            numbers = rows["partner_number"].fill_null(len(self.ranks))
            nums: Nums = np.append(self.ranks, np.int32(-1))[numbers.to_numpy()]
            return nums
        places = places_among(rows["partner"], self.ids)
        unknown = int(np.count_nonzero(places < 0)) - rows["partner"].null_count()
        if unknown:
            raise KeyError(f"{unknown:,} ids are not in the vocabulary")
        return places.astype(np.int32)


class Numbering:
    """Numbers partners in order of appearance, so that a log that does not fit in memory is read only once."""

    def __init__(self, frame: pl.DataFrame | None = None) -> None:
        self.frame = pl.DataFrame(schema={"id": pl.Null(), "number": pl.Int32()}) if frame is None else frame
        """`id` and `number`, in order of numbers."""

    def numbers(self, ids: pl.Series) -> pl.Series:
        """Return the number of each id, Int32, null for null. New ids get the next numbers."""
        known, ids = same_type(self.frame["id"], ids)
        unique = pl.DataFrame({"id": ids.drop_nulls().unique()})
        table = self.frame.with_columns(known.alias("id"))
        new = unique.join(table, on="id", how="anti")
        first = len(table)
        new = new.with_columns(number=pl.int_range(first, first + len(new), dtype=pl.Int32))
        self.frame = pl.concat([table, new])
        numbered = pl.DataFrame({"id": ids}).join(self.frame, on="id", how="left", maintain_order="left")
        return numbered["number"]

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary of all ids so far."""
        order = self.frame["id"].arg_sort().to_numpy()
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        return Vocabulary(self.frame["id"].sort(), ranks)
