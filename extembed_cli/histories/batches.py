"""Units of computation. A piece is some candidates of an owner with the events that they see.

The cut into pieces depends on an owner's candidates and on the events that the first of them see, never on later
events, which would change the last bits of a product. A batch has pieces of any owners, one after another.
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
_MOST_EVENTS = 4096  # events of a piece summed at once: long float32 sums round more
_LEAST_SPAN = 16  # windows may always move by fewer events than this within a piece


@dataclass(frozen=True)
class Pieces:
    """m pieces: candidates [first, last) of an owner with the events [low, high) of a list."""

    first: Ints
    last: Ints
    low: Ints
    high: Ints
    shape: Ints
    """Candidates of a product, padding included"""
    block: Ints
    """Events of a product; the number of events is padded to a multiple of this"""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def events(self) -> Ints:
        """Number of events, padded to whole blocks."""
        return -(-(self.high - self.low) // self.block) * self.block

    @property
    def cosines(self) -> Ints:
        """Number of cosines, padding included."""
        return self.shape * self.events

    def take(self, chosen: Ints | Bools | slice) -> Pieces:
        """Return the chosen pieces."""
        return Pieces(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def __add__(self, other: Pieces) -> Pieces:
        return Pieces(*(np.append(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))

    def batches(self, work: Ints, most: int) -> Iterator[Pieces]:
        """Yield runs of pieces from the last on, each of one piece or of at most `most` work."""
        total = offsets(work)
        high = len(self)
        while high:
            low = min(int(np.searchsorted(total, total[high] - most)), high - 1)
            yield self.take(slice(low, high))
            high = low


def cut(indptr: Ints, seen: Seen, wanted: Bools, most: int, shape: int | None = None) -> Pieces:
    """Cut the candidates of each owner, indptr (U + 1), into equal parts of at most `most`.

    Only the wanted candidates (Q flags) of a part are kept; they must be consecutive. A piece has the events from the
    first that its part sees to the last that its own last candidate sees; without events there is no piece. A new piece
    begins where the window has moved by more events than the first candidate of the part sees. Then all pieces must
    have one `shape`, because events that their first candidates do not see decide how many candidates they have. The
    more events the first candidate of the part sees, the larger are the blocks.
    """
    counts = np.diff(indptr)
    parts = -(-counts // most)
    owner = np.repeat(np.arange(len(counts)), parts)
    part = np.arange(len(owner)) - np.repeat(offsets(parts)[:-1], parts)
    first, last = (indptr[owner] + k * counts[owner] // parts[owner] for k in (part, part + 1))
    q = np.flatnonzero(wanted)
    part_of = np.repeat(np.arange(len(first)), last - first)[q]
    moved = (seen.start[q] - seen.start[first[part_of]]) // np.maximum(seen.count[first[part_of]], _LEAST_SPAN)
    at = run_starts(part_of, moved)
    begin, end, part_of = q[at], q[np.append(at, len(q))[1:] - 1] + 1, part_of[at]
    size, sees = (last - first)[part_of], seen.count[first[part_of]]
    shapes = np.where(size <= 8, size, np.where(size <= 32, -(-size // 4) * 4, -(-size // 8) * 8))
    if shape is not None:
        shapes[:] = shape
    blocks = np.where(sees < 16, 16, np.where(sees < 64, 32, 64))
    low = seen.start[np.where(moved[at] > 0, begin, first[part_of])]
    pieces = Pieces(begin, end, low, seen.end[end - 1], shapes, blocks)
    return pieces.take(pieces.high > pieces.low)


@dataclass(frozen=True)
class Slice:
    """Pieces of a batch that have one shape, or a part of the events of a single piece."""

    pieces: slice
    candidates: slice
    """Places among the candidates of the batch, padding included"""
    events: slice
    """Places among the events of the batch, padding included"""
    skipped: int
    """Events of the piece before this part"""
    is_part: bool


class Batch:
    """Pieces one after another, with candidates and events padded to the shapes of products.

    Its R rows are the wanted candidates that see an event, in order of pieces and times.
    """

    def __init__(self, pieces: Pieces, seen: Seen, wanted: Bools) -> None:
        self.pieces = pieces
        self.candidates_at = offsets(pieces.shape)
        self.events_at = offsets(pieces.events)
        sizes = pieces.last - pieces.first
        q = ragged(pieces.first, sizes)
        rows = np.flatnonzero(wanted[q] & (seen.count[q] > 0))
        self.q = q[rows]
        """(R) the candidate's position in the shard"""
        self.piece = np.repeat(np.arange(len(sizes)), sizes)[rows]
        self.within = self.q - pieces.first[self.piece]
        """(R) the candidate's position in its piece"""
        self.counts = seen.count[self.q]
        self.hidden = seen.start[self.q] - pieces.low[self.piece]
        """(R) the number of first events of the piece that the row does not see any more"""
        self.place = self.events_at[self.piece] + self.hidden
        """(R) the place of the first event that the row sees"""

    def candidates(self) -> tuple[Ints, Bools]:
        """Return the candidates of the shard by place, and which are padding, repeating the last of their piece."""
        return _with_padding(self.pieces.first, self.pieces.last, self.pieces.shape)

    def events(self) -> tuple[Ints, Bools]:
        """Return the events of the list by place, and which are padding, repeating the last of their piece."""
        return _with_padding(self.pieces.low, self.pieces.high, self.pieces.events)

    def slices(self, most: int) -> Iterator[Slice]:
        """Yield slices for all products, of at most `most` events at a time, or one block."""
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
    """Return lengths[i] numbers from first[i] on, and which are padding: from last[i] on they repeat last[i] - 1."""
    places, end = ragged(first, lengths), spread(last, lengths)
    return np.minimum(places, end - 1), places >= end
