"""What is computed together: some candidates of a user with the events that they see.

How a user's candidates are cut is decided by them, and by what the first of a piece sees, never by what happens later:
that would change the last bits of a product. A batch is some pieces of any users, laid out one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from extembed_cli.arrays import Bools, Ints
from extembed_cli.histories.visibility import Seen
from extembed_cli.kernels.segments import offsets, ragged, run_starts, spread

_WHOLE_BLOCKS = 64  # a multiple of all blocks
_MOST_EVENTS = 4096  # of a piece that are summed up in one go: long float32 sums round more
_LEAST_SPAN = 16  # events that windows may move on within a piece


@dataclass(frozen=True)
class Pieces:
    """Candidates [first, last) of a user with the events [low, high) of a list; m of them."""

    first: Ints
    last: Ints
    low: Ints
    high: Ints
    shape: Ints
    """Candidates of a product: some of them may be missing"""
    block: Ints
    """Events of a product, and so the length that their number is padded to a multiple of"""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def events(self) -> Ints:
        """Events in whole blocks."""
        return -(-(self.high - self.low) // self.block) * self.block

    @property
    def cosines(self) -> Ints:
        """Cosines of a product."""
        return self.shape * self.events

    def take(self, chosen: Ints | Bools | slice) -> Pieces:
        """Some of them."""
        return Pieces(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def __add__(self, other: Pieces) -> Pieces:
        return Pieces(*(np.append(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))

    def batches(self, work: Ints, most: int) -> Iterator[Pieces]:
        """Pieces one after another from the last on, so many that their work is at most as much, or one."""
        total = offsets(work)
        high = len(self)
        while high:
            low = min(int(np.searchsorted(total, total[high] - most)), high - 1)
            yield self.take(slice(low, high))
            high = low


def cut(indptr: Ints, seen: Seen, wanted: Bools, most: int, shape: int | None = None) -> Pieces:
    """Cut the candidates of each user, indptr (U + 1), into equal parts of at most `most`.

    Of each part those are kept that are wanted (Q), which have to stand together. A piece has the events from the first
    that its part sees to the last that its own last candidate sees; where there is none, no piece. Where windows move
    on by more events than the first candidate of the part sees, a new piece begins. All must be of one shape then:
    how many candidates a piece has is a matter of events that its first ones do not see. Blocks are as large as what
    the first candidate of the part sees makes worthwhile.
    """
    asked = np.diff(indptr)
    parts = -(-asked // most)
    user = np.repeat(np.arange(len(asked)), parts)
    part = np.arange(len(user)) - np.repeat(offsets(parts)[:-1], parts)
    first, last = (indptr[user] + k * asked[user] // parts[user] for k in (part, part + 1))
    q = np.flatnonzero(wanted)
    of = np.repeat(np.arange(len(first)), last - first)[q]
    moved = (seen.start[q] - seen.start[first[of]]) // np.maximum(seen.count[first[of]], _LEAST_SPAN)
    at = run_starts(of, moved)
    begin, end, of = q[at], q[np.append(at, len(q))[1:] - 1] + 1, of[at]
    size, sees = (last - first)[of], seen.count[first[of]]
    shapes = np.where(size <= 8, size, np.where(size <= 32, -(-size // 4) * 4, -(-size // 8) * 8))
    if shape is not None:
        shapes[:] = shape
    blocks = np.where(sees < 16, 16, np.where(sees < 64, 32, 64))
    low = seen.start[np.where(moved[at] > 0, begin, first[of])]
    found = Pieces(begin, end, low, seen.end[end - 1], shapes, blocks)
    return found.take(found.high > found.low)


@dataclass(frozen=True)
class Slice:
    """Pieces of a batch that are of one shape, or a part of the events of one."""

    pieces: slice
    candidates: slice
    """Places among the candidates of the batch, padding included"""
    events: slice
    """Places among the events of the batch, padding included"""
    skipped: int
    """Events of the piece before this part of them"""
    is_part: bool


class Batch:
    """Pieces one after another, their candidates and events padded to the shapes of products.

    Its R rows are the candidates that are wanted and see an event, in order of pieces and times.
    """

    def __init__(self, pieces: Pieces, seen: Seen, wanted: Bools) -> None:
        self.pieces = pieces
        self.candidates_at = offsets(pieces.shape)
        self.events_at = offsets(pieces.events)
        asked = pieces.last - pieces.first
        q = ragged(pieces.first, asked)
        rows = np.flatnonzero(wanted[q] & (seen.count[q] > 0))
        self.q = q[rows]
        """(R) which candidate of the shard"""
        self.piece = np.repeat(np.arange(len(asked)), asked)[rows]
        self.within = self.q - pieces.first[self.piece]
        """(R) which candidate of its piece"""
        self.counts = seen.count[self.q]
        self.hidden = seen.start[self.q] - pieces.low[self.piece]
        """(R) how many of the first events of its piece a row does not see any more"""
        self.place = self.events_at[self.piece] + self.hidden
        """(R) the place of the first event that it sees"""

    def candidates(self) -> tuple[Ints, Bools]:
        """Candidates of the shard by place, and which are padding: they repeat the last of their piece."""
        return _with_padding(self.pieces.first, self.pieces.last, self.pieces.shape)

    def events(self) -> tuple[Ints, Bools]:
        """Events of the list by place, and which are padding: they repeat the last of their piece."""
        return _with_padding(self.pieces.low, self.pieces.high, self.pieces.events)

    def slices(self, most: int) -> Iterator[Slice]:
        """All products, of at most so many events at a time (or a block)."""
        pieces = self.pieces
        starts = run_starts(pieces.shape, pieces.events, pieces.block).tolist()
        for start, stop in pairwise([*starts, len(pieces)]):
            events = int(pieces.events[start])
            together = max(1, most // events) if events <= _MOST_EVENTS else 1
            step = min(events, max(1, min(most, _MOST_EVENTS) // _WHOLE_BLOCKS) * _WHOLE_BLOCKS)
            for low in range(start, stop, together):
                high = min(low + together, stop)
                candidates = slice(*self.candidates_at[[low, high]].tolist())
                begin, end = self.events_at[[low, high]].tolist()
                if step == events:
                    yield Slice(slice(low, high), candidates, slice(begin, end), 0, is_part=False)
                    continue
                for at in range(begin, end, step):
                    part = slice(at, min(at + step, end))
                    yield Slice(slice(low, high), candidates, part, at - begin, is_part=True)


def _with_padding(first: Ints, last: Ints, lengths: Ints) -> tuple[Ints, Bools]:
    """first[i], first[i] + 1, ...: lengths[i] of them; those from last[i] on are padding and repeat the one before."""
    places, end = ragged(first, lengths), spread(last, lengths)
    return np.minimum(places, end - 1), places >= end
