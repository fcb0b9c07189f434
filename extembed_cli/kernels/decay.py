"""Exponential decay: w = weight 2^(-age / half_life), as running sums of vectors and as whole numbers.

Times are in half-lives here. Only differences of times enter, so any origin serves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.segments import offsets, ragged

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 8  # events summed in one product

# A reference of whole weights serves all rows whose heaviest event is less than this many half-lives before it.
REFERENCE_STEP = 4


def decayed_sums(
    values: Doubles, times: Doubles, weights: Doubles | None, blocks: Ints, before: tuple[Doubles, float] | None = None
) -> Doubles:
    """Decayed sums of the values so far, after every event.

        sum[e] = Σ_{i <= e} weight[i] 2^(time[i] - time[e]) value[i]

    Each is relative to the time of its own event: nothing under- or overflows, however long ago the first event was.

    values   (n, d)  of pieces one after another, each padded to whole blocks of BLOCK events: value 0, the last time
    times    (n)     in half-lives, ascending within a piece
    weights  (n)     or None = 1
    blocks   (m)     of each piece, at least one; Σ blocks = n / BLOCK
    before           the sum so far of a single piece and its time, where its first events were summed before
    returns  (n, d)  float64

    A block is one product of a fixed shape. The sums of whole blocks are summed up in the same way, eight blocks at a
    time, so the bits of a sum depend on no later event and on no other piece.
    """
    d, n = values.shape[-1], len(times) // BLOCK
    t = times.reshape(n, BLOCK)
    decay = np.empty((n, BLOCK, BLOCK + 1))
    decay[..., 1:] = np.exp2(np.minimum(t[:, None, :] - t[:, :, None], 0)) * np.tri(BLOCK)
    if weights is not None:
        decay[..., 1:] *= weights.reshape(n, 1, BLOCK)
    # Row 0 of a block is the sum of all blocks before it, at the time when the last of them ended.
    rows = np.zeros((n, BLOCK + 1, d))
    rows[:, 1:] = values.reshape(n, BLOCK, d)
    ended = np.concatenate([t[:1, 0], t[:-1, -1]])
    if before is not None:
        rows[0, 0], ended[0] = before
    if n > len(blocks):
        above = -(-blocks // BLOCK)
        at = ragged(BLOCK * offsets(above)[:-1], blocks)
        last = offsets(blocks)[1:] - 1
        totals, totals_at = np.zeros((BLOCK * int(above.sum()), d)), np.repeat(t[last, -1], BLOCK * above)
        totals[at], totals_at[at] = (decay[:, -1:, 1:] @ rows[:, 1:])[:, 0], t[:, -1]
        follows = np.delete(np.arange(n), last - blocks + 1)
        rows[follows, 0] = decayed_sums(totals, totals_at, None, above, before)[at[follows - 1]]
    decay[..., 0] = np.exp2(np.minimum(ended[:, None] - t, 0))
    return (decay @ rows).reshape(-1, d)


def whole_bits(counts: Ints) -> Ints:
    """Bits of a whole weight, so that the sum of so many fits 62 of them: 53 for a few events, 42 for a million."""
    lengths = np.frexp(counts.astype(np.float64))[1]
    return np.select([lengths <= 9, lengths <= 13, lengths <= 20], [53, 49, 42], 62 - lengths)  # type: ignore[no-any-return]


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
