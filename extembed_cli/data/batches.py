"""Padded batches: candidates and events of users of like length side by side, as tiles of one shape.

A tile is some candidates of one user and the user's events from the first that they can see. Its shape is padded to a
fixed ladder of lengths by that user's own numbers, never by its batch mates, so that its bits do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TILE_COSINES = 2**17  # cosines of one batch: its tensors then stay near the processor's cache
TILE_FLOATS = 2**21  # vector elements gathered for one batch
# Events of a block: short enough not to pad much, and of one float32 sum at most.
_SHORTEST_BLOCK, BLOCK, _LONGEST_BLOCK = 4, 64, 1024
_MOST_CANDIDATES = 64  # of a tile
_ONE_REQUEST = 8  # candidates of one as-of time are a tile of their own from here on: all that it computes, they see
# A few candidates share a long history, where their cosines are not too many.
_FEWEST_CANDIDATES, LARGE_TILE_COSINES = 4, 2**20


def _ladder() -> Ints:
    """1, 2, 3, ... 16, then steps of at most 1/8: multiples of 4 up to 64, of 8 up to 128, of 16 up to 256, ..."""
    lengths = list(range(1, 17))
    while lengths[-1] < 2**40:
        lengths.append(lengths[-1] + max(4, 2 ** (lengths[-1].bit_length() - 4)))
    return np.array(lengths)


LADDER = _ladder()


def padded(lengths: Ints) -> Ints:
    """The ladder's next length at or above each."""
    return LADDER[np.searchsorted(LADDER, lengths)]


@dataclass(frozen=True)
class Batch:
    """B tiles of C candidates and H events each, as positions into a shard's candidates and events.

    H is a whole number of blocks of K events: what sums over events goes block by block, so that further blocks of
    events that count for nothing change no bit.
    """

    candidates: Ints
    """(B, C) positions; padding repeats the tile's last."""
    is_candidate: Bools
    """(B, C) False in the padding."""
    events: Ints
    """(B, H) positions; padding repeats the tile's last."""
    is_event: Bools
    """(B, H) False in the padding."""
    first_event: Ints
    """(B, 1) position of the tile's first event."""
    views: Ints
    """(B, V) candidates that stand for those who see the same: the first where all have one as-of time, else each."""
    block: int
    """K"""
    length: int
    """H without the padding of the last block"""

    @property
    def cosines(self) -> int:
        return int(self.candidates.size * self.events.shape[1])


@dataclass(frozen=True)
class Tiles:
    """Candidates [first, last) with the events [low, high), and the shape to pad to."""

    first: Ints
    last: Ints
    low: Ints
    high: Ints
    C: Ints
    H: Ints
    V: Ints
    """1 where all candidates have one as-of time, else C"""
    K: Ints
    """Events of a block."""

    @property
    def cosines(self) -> Ints:
        """Cosines of each, with all padding."""
        return self.C * (-(-self.H // self.K) * self.K)


def tiles(indptr: Ints, start: Ints, end: Ints, lengths: Ints, times: Ints) -> Tiles:
    """Cut each user's candidates, ordered by time, into tiles.

    indptr (U+1) candidates of users; start, end (Q) the events that each candidate sees; lengths (U) the number of each
    user's events, seen or not, which says how many candidates a tile may have; times (Q) the as-of times.

    A tile reaches from the first event that its first candidate sees to the last event that its last one sees; tiles in
    which nobody sees an event are left out.
    """
    owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    if not len(owner):
        return Tiles(*[owner] * 8)
    request = np.append(0, np.flatnonzero((np.diff(owner) != 0) | (np.diff(times) != 0)) + 1)
    large = np.diff(np.append(request, len(owner))) >= _ONE_REQUEST
    begins = np.append(True, (np.diff(owner[request]) != 0) | large[1:] | large[:-1])
    first = request[begins]  # of runs of candidates to cut: a large request, or small ones of a user side by side
    asked = np.diff(np.append(first, len(owner)))
    length = padded(np.maximum(1, lengths[owner[first]]))
    fewest = np.clip(LARGE_TILE_COSINES // length, 1, _FEWEST_CANDIDATES)
    most = np.clip(TILE_COSINES // length, fewest, _MOST_CANDIDATES)
    pieces = -(-asked // most)
    run = np.repeat(np.arange(len(first)), pieces)
    piece = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first_candidate = first[run] + piece * asked[run] // pieces[run]
    last_candidate = first[run] + (piece + 1) * asked[run] // pieces[run]
    low, high = start[first_candidate], end[last_candidate - 1]
    C = padded(last_candidate - first_candidate)
    one_time = times[first_candidate] == times[last_candidate - 1]
    H = padded(np.maximum(1, high - low))
    # What the first candidate sees is everybody's past. Blocks of about that many events do not pad much.
    all_see = np.maximum(1, end[first_candidate] - low)
    K = np.clip(2 ** np.ceil(np.log2(2 * all_see)).astype(np.int64), _SHORTEST_BLOCK, BLOCK)
    K = np.where(one_time, np.where(H <= _LONGEST_BLOCK, H, BLOCK), K)
    seen = high > low
    return Tiles(
        first=first_candidate[seen],
        last=last_candidate[seen],
        low=low[seen],
        high=high[seen],
        C=C[seen],
        H=H[seen],
        V=np.where(one_time, 1, C)[seen],
        K=K[seen],
    )


def batches(tiles: Tiles, dim: int, floats: int = TILE_FLOATS) -> Iterator[Callable[[], Batch]]:
    """Tiles of one shape together, the largest first; each batch is made by whoever computes it.

    dim is the longest vector gathered for them, floats how many of its elements a batch may have.
    """
    order = np.lexsort((tiles.K, tiles.V, tiles.C, tiles.H))[::-1]
    shape = (tiles.C, tiles.H, tiles.V, tiles.K)
    change = np.flatnonzero(np.any([np.diff(lengths[order]) != 0 for lengths in shape], axis=0))
    for group in np.split(order, change + 1) if len(order) else []:
        C, H, V, K = (int(lengths[group[0]]) for lengths in shape)
        computed = -(-H // K) * K
        size = max(1, min(TILE_COSINES // (C * computed), floats // (max(C, computed) * dim)))
        for at in range(0, len(group), size):
            yield partial(_batch, tiles, group[at : at + size], C, H, V, K)


def _batch(tiles: Tiles, chosen: Ints, C: int, H: int, V: int, K: int) -> Batch:
    candidates = tiles.first[chosen, None] + np.arange(C)
    events = tiles.low[chosen, None] + np.arange(-(-H // K) * K)
    last, high = tiles.last[chosen, None], tiles.high[chosen, None]
    candidates, is_candidate = np.minimum(candidates, last - 1), candidates < last
    return Batch(
        candidates=candidates,
        is_candidate=is_candidate,
        events=np.minimum(events, high - 1),
        is_event=events < high,
        first_event=tiles.low[chosen, None],
        views=candidates[:, :V],
        block=K,
        length=H,
    )
