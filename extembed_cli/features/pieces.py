"""What is multiplied together: some candidates of a user with the events that they see.

A piece's shape is decided by its candidates, never by what happens after the first of them: that would change the last
bits of a product. A batch is some pieces of any users, laid out one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extembed_cli.features.visibility import Seen
from extembed_cli.kernels.segments import offsets, ragged, run_starts

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PAIRS = 2**18  # visible pairs of a batch: so many that Python does not show, so few that they stay near the processor
FLOATS = 2**18  # vector elements gathered at a time
_CANDIDATES, _BLOCK = 64, 8  # of a product, at most
# Who sees more events than this is multiplied with few others, in one shape: so many cosines are kept in memory.
_LONG, _LONG_CANDIDATES, _LONG_BLOCK = 4096, 8, 64


@dataclass(frozen=True)
class Pieces:
    """Candidates [first, last) of a user with the events [low, high) of a list; m of them."""

    first: Ints
    last: Ints
    low: Ints
    high: Ints
    shape: Ints
    """Candidates of a product; those that are missing are zeros"""
    block: Ints
    """Events of a product"""

    @property
    def blocks(self) -> Ints:
        """Products."""
        return -(-(self.high - self.low) // self.block)

    @property
    def events(self) -> Ints:
        """Events in whole blocks."""
        return self.blocks * self.block

    @property
    def cosines(self) -> Ints:
        """Cosines that are computed."""
        return self.shape * self.events

    def take(self, chosen: Ints | Bools | slice) -> Pieces:
        """Some of them."""
        return Pieces(*(getattr(self, field.name)[chosen] for field in fields(self)))


def pieces(indptr: Ints, seen: Seen) -> Pieces:
    """Cut the candidates of each user, indptr (U + 1), by time; pieces in which nobody sees an event are left out."""
    users = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    is_long = seen.end - seen.indptr[users] > _LONG  # as far as a candidate knows
    some, others = (_cut(indptr, seen, is_long, long=long) for long in (False, True))
    both = Pieces(*(np.concatenate([getattr(x, field.name) for x in (some, others)]) for field in fields(Pieces)))
    filled = both.take(both.high > both.low)
    return filled.take(np.lexsort((filled.shape, filled.blocks, filled.block)))


def _cut(indptr: Ints, seen: Seen, is_long: Bools, *, long: bool) -> Pieces:
    """Cut all candidates of a user into equal parts, and keep those of each part with a long history, or the others."""
    asked = np.diff(indptr)
    most = _LONG_CANDIDATES if long else _CANDIDATES
    parts = -(-asked // most)
    user = np.repeat(np.arange(len(asked)), parts)
    part = np.arange(len(user)) - np.repeat(offsets(parts)[:-1], parts)
    first, last = (indptr[user] + k * asked[user] // parts[user] for k in (part, part + 1))
    middle = last - np.diff(offsets(is_long)[np.stack([first, last])], axis=0)[0]  # they come last: time only adds
    begin, end = (middle, last) if long else (first, middle)
    size = last - first
    shape = np.where(size <= 4, size, np.where(size <= 32, -(-size // 4) * 4, -(-size // 8) * 8))
    if long:
        shape = np.full(len(size), most)
    block = np.full(len(size), _LONG_BLOCK if long else _BLOCK)
    cut = Pieces(begin, end, seen.start[first], seen.end[np.maximum(end - 1, 0)], shape, block)
    return cut.take(end > begin)


def batches(pieces: Pieces, seen: Seen) -> Iterator[Pieces]:
    """Pieces that are computed together, the largest first."""
    pairs = offsets(seen.count)
    work = offsets(pairs[pieces.last] - pairs[pieces.first] + pieces.cosines)
    high = len(pieces.first)
    while high:
        low = min(int(np.searchsorted(work, work[high] - 3 * PAIRS)), high - 1)
        yield pieces.take(slice(low, high))
        high = low


@dataclass(frozen=True)
class Slice:
    """Some pieces of a batch, or some blocks of one: so many events that their vectors stay in the processor's cache."""

    pieces: slice
    events: slice
    is_part: bool


class Batch:
    """Pieces one after another: their candidates padded to their shapes, their events to whole blocks.

    Its R rows are the candidates that see an event and have a vector, in order of pieces and times.
    """

    def __init__(self, pieces: Pieces, seen: Seen, wanted: Bools) -> None:
        self.pieces = pieces
        self.candidates_at, self.events_at, self.cosines_at = (
            offsets(lengths) for lengths in (pieces.shape, pieces.events, pieces.cosines)
        )
        asked = pieces.last - pieces.first
        q = ragged(pieces.first, asked)
        rows = np.flatnonzero(wanted[q] & (seen.count[q] > 0))
        self.q = q[rows]
        """(R) which candidate of the shard"""
        self.piece = np.repeat(np.arange(len(asked)), asked)[rows]
        self.counts = seen.count[self.q]
        within, hidden = self.q - pieces.first[self.piece], seen.start[self.q] - pieces.low[self.piece]
        self.candidate = self.candidates_at[self.piece] + within
        """(R) its place among the candidates of the batch"""
        self.place = self.events_at[self.piece] + hidden
        """(R) the place among the events of the batch of the first that it sees"""
        self.cosine = self.cosines_at[self.piece] + within * pieces.events[self.piece] + hidden
        """(R) the place of that event's cosine"""

    def candidates(self) -> tuple[Ints, Bools]:
        """Candidates of the shard by place, and which of them are padding."""
        return _with_padding(self.pieces.first, self.pieces.last, self.pieces.shape)

    def events(self) -> tuple[Ints, Bools]:
        """Events of the list by place, and which of them are padding: they repeat the last."""
        return _with_padding(self.pieces.low, self.pieces.high, self.pieces.events)

    def slices(self, dim: int) -> Iterator[Slice]:
        """All of it, piece by piece."""
        rows = self.events_at + self.candidates_at
        low = 0
        while low < len(self.pieces.first):
            high = max(low + 1, int(np.searchsorted(rows, rows[low] + FLOATS // dim, side="right")) - 1)
            begin, end = int(self.events_at[low]), int(self.events_at[high])
            step = max(1, FLOATS // (dim * _LONG_BLOCK)) * _LONG_BLOCK
            is_part = high == low + 1 and step < end - begin
            for at in range(begin, end, step if is_part else end - begin):
                yield Slice(slice(low, high), slice(at, min(at + step, end) if is_part else end), is_part)
            low = high

    def products(self, part: Slice, cosines: NDArray[np.float32]) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
        """Pieces of one shape: places of their candidates and events, and their part of all cosines (k, C, n, K)."""
        p = self.pieces.take(part.pieces)
        starts = run_starts(p.shape, p.blocks, p.block).tolist()
        for low, high in pairwise([*starts, len(p.first)]):
            first, last = part.pieces.start + low, part.pieces.start + high
            k, C, K = high - low, int(p.shape[low]), int(p.block[low])
            out = cosines[self.cosines_at[first] : self.cosines_at[last]].reshape(k, C, -1, K)
            events = slice(int(self.events_at[first]), int(self.events_at[last]))
            if part.is_part:
                begin = events.start
                out = out[:, :, (part.events.start - begin) // K : (part.events.stop - begin) // K]
                events = part.events
            yield slice(int(self.candidates_at[first]), int(self.candidates_at[last])), events, out

    def chunks(self) -> Iterator[slice]:
        """Rows whose cosines are sorted together."""
        pairs = offsets(self.counts)
        low = 0
        while low < len(self.q):
            high = max(low + 1, int(np.searchsorted(pairs, pairs[low] + 4 * PAIRS, side="right")) - 1)
            yield slice(low, high)
            low = high


def _with_padding(first: Ints, last: Ints, lengths: Ints) -> tuple[Ints, Bools]:
    places, end = ragged(first, lengths), np.repeat(last, lengths)
    return np.minimum(places, end - 1), places >= end
