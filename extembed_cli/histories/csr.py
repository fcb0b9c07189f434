"""Events and candidates by owner (CSR), the input of every technique."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from extembed_cli.arrays import Doubles, Ints, Nums, Values
from extembed_cli.spec.expressions import Expression


@dataclass(frozen=True)
class History:
    """N events of U owners: those of owner u at [indptr[u], indptr[u+1]), ordered by time, partner, weight and values.

    The owner is the user and the partner the item, or the other way round.
    """

    indptr: Ints
    times: Ints
    """(N) us"""
    partners: Nums
    """(N)"""
    values: dict[Expression, Values]
    """(N) values of each expression over the interactions: flags, or float64 with NaN for null"""
    weight: Expression | None = None
    """The expression of the event weights, one of `values`; None = all weights are 1"""

    @property
    def weights(self) -> Doubles | None:
        """(N) event weights; None = all are 1."""
        return None if self.weight is None else self.values[self.weight]

    def take(self, places: Ints, indptr: Ints) -> History:
        """Return the events at some places as those of other owners, in their order."""
        values = {expression: each[places] for expression, each in self.values.items()}
        return History(indptr, self.times[places], self.partners[places], values, self.weight)

    def in_order_of(self, used: Collection[Expression]) -> History:
        """Return the events with ties in the order of the values of these expressions, which are the ones to read.

        Events tie in time, partner and weight. A column of these expressions then has the same bytes whatever other
        expressions the spec has.
        """
        tied, run = self._ties
        if not len(tied):
            return self
        keys = [self.values[expression][tied] for expression in sorted(used, key=lambda expression: expression.column)]
        order = tied[np.lexsort([*reversed(keys), run])]
        values = {} if self.weight is None else {self.weight: self.values[self.weight]}
        for expression in used:
            values[expression] = self.values[expression].copy()
            values[expression][tied] = self.values[expression][order]
        return replace(self, values=values)

    @cached_property
    def _ties(self) -> tuple[Ints, Ints]:
        """Places of events that tie with a neighbour in owner, time, partner and weight, and the number of each tie."""
        owners = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        keys: list[Values] = [owners, self.times, self.partners]
        keys += [] if self.weights is None else [self.weights]
        same = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        return tied, np.cumsum(np.append(False, ~same))[tied] if len(tied) else tied


@dataclass(frozen=True)
class Candidates:
    """Q candidates of the same owners, ordered by owner, as-of time and partner; partner -1 = null."""

    indptr: Ints
    rows: Ints
    """(Q) the row of each candidate in the input"""
    times: Ints
    """(Q) us"""
    partners: Nums
    """(Q)"""

    @cached_property
    def owners(self) -> Ints:
        """(Q) the owner num of each candidate."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class Shard:
    """Some owners with their events and candidates."""

    owners: pl.Series
    """Ids in order; the position of an id is the owner's num."""
    history: History
    candidates: Candidates


def nobody(history: History) -> Candidates:
    """Return no candidate of the owners."""
    nothing = np.zeros(0, np.int64)
    return Candidates(np.zeros(len(history.indptr), np.int64), nothing, nothing, nothing.astype(np.int32))


def every_owner(history: History, time_us: int) -> Candidates:
    """Return one candidate for each owner, without a partner, at one as-of time."""
    owners = len(history.indptr) - 1
    return Candidates(
        indptr=np.arange(owners + 1),
        rows=np.arange(owners),
        times=np.full(owners, time_us),
        partners=np.full(owners, -1, np.int32),
    )
