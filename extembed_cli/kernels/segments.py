"""Segments of unequal lengths that lie one after another in flat arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from extembed_cli.arrays import Bools, Ints, Values


def offsets(lengths: Ints) -> Ints:
    """Return the start of each segment, and the end of the last one: (n) -> (n + 1)."""
    return np.concatenate([[0], np.cumsum(lengths)])


def ragged(first: Ints, lengths: Ints) -> Ints:
    """Return the lengths[i] numbers first[i], first[i] + 1, ... for all i, one after another."""
    return _stepped(first, lengths, 1)


def spread(values: Ints, lengths: Ints) -> Ints:
    """Return values[i] repeated lengths[i] times, as `np.repeat` does, which would block threads by Python's lock."""
    return _stepped(values, lengths, 0)


def _stepped(first: Ints, lengths: Ints, step: int) -> Ints:
    """Return the lengths[i] numbers first[i], first[i] + step, ... for all i, by one cumulative sum."""
    filled = lengths > 0
    first, lengths = first[filled], lengths[filled]
    out = np.full(int(lengths.sum()), step, np.int64)
    if len(first):
        out[0] = first[0]
        out[np.cumsum(lengths[:-1])] = np.diff(first) - step * (lengths[:-1] - 1)
    return np.cumsum(out, out=out)


def rectangle(first: Ints, last: Ints, width: int) -> tuple[Ints, Bools]:
    """Return places [first, last) of each row, padded to a width with the last one, and which are real: (n, width)."""
    places = first[:, None] + np.arange(width)
    return np.minimum(places, last[:, None] - 1), places < last[:, None]


def run_starts(*keys: Values) -> Ints:
    """Return the starts of runs in which every key stays the same: keys (n) -> (runs), the first one 0."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changes = [key[1:] != key[:-1] for key in keys]
    return np.append(0, np.flatnonzero(np.logical_or.reduce(changes)) + 1)


def first_reaching(reaches: Callable[[Ints], Bools], first: Ints, counts: Ints, searches: int = 1) -> Ints:
    """Return the first place in each segment where `reaches` is true, for several searches; the end if there is none.

    `reaches` takes a place in each segment for every search, (searches, n), and must be monotone within a segment.
    first, counts (n) -> (searches, n). All are bisected together.
    """
    before = np.repeat((first - 1)[None], searches, axis=0)
    last = first + counts - 1
    step = 2 ** int(counts.max(initial=0)).bit_length() // 2
    while step:
        place = before + step
        below = place <= last
        below &= ~reaches(np.minimum(place, last, out=place))
        before += below * np.int64(step)
        step //= 2
    return before + 1


def _ladder() -> Ints:
    """Return 1, 2, ... 16, then steps of at most 1/8: multiples of 4 up to 64, of 8 up to 128, of 16 up to 256, ..."""
    lengths = list(range(1, 17))
    while lengths[-1] < 2**40:
        lengths.append(lengths[-1] + max(4, 2 ** (lengths[-1].bit_length() - 4)))
    return np.array(lengths)


LADDER = _ladder()


def padded(lengths: Ints) -> Ints:
    """Return the lengths, each rounded up to one of a few, so that segments of one length can be computed together."""
    return LADDER[np.searchsorted(LADDER, lengths)]
