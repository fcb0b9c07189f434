"""Histories without the events of the candidates' own partners: an item's audience without the candidate's user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from extembed_cli.arrays import Bools, Ints
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.kernels.segments import offsets, ragged, run_starts

_EVENTS = 2**20  # copied at a time


def sees_own(history: History, candidates: Candidates, end: Ints) -> Bools:
    """Return whether each candidate sees an event of its owner with its own partner: (Q).

    end (Q): place of the first event that a candidate may not see any more
    """
    own = np.zeros(len(candidates.rows), np.bool_)
    if not len(history.partners) or not len(own):
        return own
    partners = int(max(history.partners.max(), candidates.partners.max())) + 1
    owners = np.repeat(np.arange(len(history.indptr) - 1), np.diff(history.indptr))
    events = pl.DataFrame({"pair": owners * partners + history.partners, "place": np.arange(len(owners))})
    pairs = pl.DataFrame({"pair": candidates.owners * partners + candidates.partners, "end": end}).with_row_index("at")
    pairs = pairs.filter(pl.Series(candidates.partners >= 0))
    first = events.join(pairs, on="pair", how="semi").group_by("pair").agg(pl.col("place").min())
    seen = pairs.join(first, on="pair").filter(pl.col("place") < pl.col("end"))
    own[seen["at"].to_numpy()] = True
    return own


class Pairs(NamedTuple):
    """Some pairs of owner and partner: the owner's events without those of the partner, and candidates of the pair."""

    history: History
    candidates: Candidates
    at: Ints
    """(q) the places of these candidates among all"""
    owners: Ints
    """(U) of each pair"""


def without_own(history: History, candidates: Candidates, own: Bools) -> Iterator[Pairs]:
    """Yield the candidates that see own events (Q flags), with the other events of their owners.

    A candidate is in it because of events before its time alone, and then all later ones of its pair are, too: no later
    event changes the shape of a product.
    """
    chosen = np.flatnonzero(own)
    keys = candidates.owners[chosen], candidates.partners[chosen]
    order = np.lexsort((candidates.times[chosen], keys[1], keys[0]))
    chosen, owners, partners = chosen[order], keys[0][order], keys[1][order]
    first = run_starts(owners, partners)
    bounds, pair_owner = np.append(first, len(chosen)), owners[first]
    lengths = np.diff(history.indptr)[pair_owner]
    copied, low = offsets(lengths), 0
    while low < len(first):
        high = max(low + 1, int(np.searchsorted(copied, copied[low] + _EVENTS, "right")) - 1)
        of, length = pair_owner[low:high], lengths[low:high]
        places = ragged(history.indptr[of], length)
        others = history.partners[places] != np.repeat(partners[first[low:high]], length)
        at = chosen[bounds[low] : bounds[high]]
        counts = np.add.reduceat(others, copied[low:high] - copied[low], dtype=np.int64)  # each owner has an event
        yield Pairs(
            history.take(places[others], offsets(counts)),
            Candidates(
                indptr=bounds[low : high + 1] - bounds[low],
                rows=np.arange(len(at)),
                times=candidates.times[at],
                partners=candidates.partners[at],
            ),
            at,
            of,
        )
        low = high
