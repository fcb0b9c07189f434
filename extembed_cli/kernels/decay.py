"""Exponential decay: w = weight 2^(-age / half_life), as running sums of vectors and as whole numbers.

Times are in half-lives here. Only differences of times enter, so any origin serves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.segments import offsets, ragged

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 8  # events summed in one product
Sum = tuple[Doubles, float]
"""A decayed sum and its time."""
_UNTIL = np.tri(BLOCK)  # an event counts for itself and those after it

# A reference of whole weights serves all rows whose heaviest event is less than this many half-lives before it.
REFERENCE_STEP = 4


def decayed_sums(
    values: Doubles | Floats, times: Doubles, weights: Doubles | None, blocks: Ints, before: Sum | None = None
) -> Doubles:
    """Decayed sums of the values so far, after every event.

        sum[e] = Σ_{i <= e} weight[i] 2^(time[i] - time[e]) value[i]

    Each is relative to the time of its own event: nothing under- or overflows, however long ago the first event was.

    values   (n, BLOCK + 1, d)  of pieces one after another, each in whole blocks; the first row of a block is empty,
                                those behind the last event are 0
    times    (n, BLOCK)         in half-lives, ascending within a piece; the last one again in the padding
    weights  (n, BLOCK)         or None = 1
    blocks   (m)                of each piece, at least one; Σ blocks = n
    before                      the sum so far of a single piece, where its first events were summed before
    returns  (n * BLOCK, d)     float64

    A block is one product of a fixed shape. The sums of whole blocks are summed up in the same way, eight blocks at a
    time, so the bits of a sum depend on no later event and on no other piece.
    """
    decay = np.zeros((len(times), BLOCK, BLOCK + 1))
    ages = np.subtract(times[:, None, :], times[:, :, None], out=decay[..., 1:])
    np.exp2(np.minimum(ages, 0, out=ages), out=ages)
    ages *= _UNTIL
    if weights is not None:
        ages *= weights[:, None, :]
    rows = values.astype(np.float64)
    if len(times) > len(blocks) or before is not None:
        totals = (ages[:, -1:] @ rows[:, 1:])[:, 0]
        rows[:, 0], ended = _sums_before(totals, times, blocks, before)
        np.exp2(np.minimum(ended[:, None] - times, 0), out=decay[..., 0])
    sums: Doubles = decay @ rows
    return sums.reshape(-1, rows.shape[-1])


def visible_sums(
    values: Floats, times: Doubles, weights: Doubles | None, newest: Doubles, start: Ints, end: Ints
) -> Doubles:
    """Decayed sums of the values that each of a few candidates sees, relative to a time of its own.

        sum[k, c] = Σ_{start[k, c] <= h < end[k, c]} weight[k, h] 2^(time[k, h] - newest[k, c]) value[k, h]

    values (k, n, K, d); times, weights (k, n * K), weights None = 1; newest, start, end (k, C) -> (k, C, d).
    Blocks are products of a fixed shape and are added in order: what nobody sees adds zeros.
    """
    k, n, K, _ = values.shape
    share = np.exp2(np.minimum(times[:, None, :] - newest[:, :, None], 0))
    places = np.arange(n * K)
    share *= (places >= start[:, :, None]) & (places < end[:, :, None])
    if weights is not None:
        share *= weights[:, None, :]
    parts = share.reshape(k, -1, n, K).transpose(0, 2, 1, 3) @ values.astype(np.float64)
    sums: Doubles = np.add.reduce(parts, axis=1)
    return sums


def decayed_totals(weights: Doubles, times: Doubles, blocks: Ints) -> Doubles:
    """Decayed sums of the weights so far, after every event: `decayed_sums` of numbers.

    weights, times (n, BLOCK), weight 0 in the padding; blocks (m) -> (n, BLOCK)
    """
    out = weights.copy()
    step = np.exp2(times[:, :-1] - times[:, 1:])
    for event in range(1, BLOCK):
        out[:, event] += out[:, event - 1] * step[:, event - 1]
    if len(times) > len(blocks):
        before, ended = _sums_before(out[:, -1:], times, blocks, None)
        out += before * np.exp2(np.minimum(ended[:, None] - times, 0))
    return out


def _sums_before(totals: Doubles, times: Doubles, blocks: Ints, before: Sum | None) -> tuple[Doubles, Doubles]:
    """The decayed sum of all that came before each block, from the totals (n, d) of blocks, and as of when (n)."""
    first = offsets(blocks)[:-1]
    out, ended = np.empty_like(totals), np.empty(len(times))
    out[1:], ended[1:] = totals[:-1], times[:-1, -1]  # right for the second block of a piece
    many = np.flatnonzero(blocks > (2 if before is None else 1))
    if len(many):
        counts = blocks[many] - 1  # nothing comes after the last
        above = -(-counts // BLOCK)
        source = ragged(first[many], counts)
        at = ragged(BLOCK * offsets(above)[:-1], counts)
        values = np.zeros((int(above.sum()), BLOCK + 1, totals.shape[1]))
        ends = np.repeat(times[first[many] + counts - 1, -1], BLOCK * above)
        values[at // BLOCK, at % BLOCK + 1], ends[at] = totals[source], times[source, -1]
        out[source + 1] = decayed_sums(values, ends.reshape(-1, BLOCK), None, above, before)[at]
    out[first], ended[first] = 0, times[first, 0]
    if before is not None:
        out[0], ended[0] = before
    return out, ended


def whole_bits(counts: Ints) -> Ints:
    """Bits of a whole weight, so that the sum of so many fits 62 of them: 53 for a few events, 42 for a million."""
    lengths = np.frexp(counts.astype(np.float64))[1]
    return np.select([lengths <= 9, lengths <= 13, lengths <= 20], [53, 49, 42], 62 - lengths)


def whole_weights(weights: Doubles | None, ages: Doubles, bits: Ints) -> Ints:
    """Relative weights as whole numbers, whose sums are exact in any order: what ties in exact arithmetic ties here.

        whole = 2^bits weight 2^-age, rounded

    weights (n), None = 1; ages (n) in half-lives before the reference; bits (n). A weight above 2^bits is cut: whoever
    the reference is for sees no such event.
    """
    whole = np.exp2(-ages)
    if weights is not None:
        whole *= weights
    np.minimum(whole, 1, out=whole)
    np.ldexp(whole, bits, out=whole)
    return np.rint(whole, out=whole).astype(np.int64)
