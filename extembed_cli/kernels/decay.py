"""Exponential decay: w = weight 2^(-age / half_life), as running sums, as sums of vectors and as whole numbers.

Times are in half-lives here. Only differences of times matter, so any origin will do.
"""

from __future__ import annotations

import numpy as np

from extembed_cli.arrays import Doubles, Ints, Values
from extembed_cli.kernels.segments import offsets, ragged

BLOCK = 8  # events summed up one after another

# A reference of whole weights serves all rows whose heaviest event is less than this many half-lives before it.
REFERENCE_STEP = 4


def decayed_totals(weights: Doubles, times: Doubles | None, blocks: Ints) -> Doubles:
    """Return the decayed sum of the weights up to every event, relative to the time of that event:

        total[e] = Σ_{i <= e} weight[i] 2^(time[i] - time[e])

    No total under- or overflows, however old the first event is.

    weights  (n, BLOCK)  of segments one after another, each in whole blocks; 0 in the padding
    times    (n, BLOCK)  in half-lives, ascending within a segment; the last one again in the padding; None = no decay
    blocks   (m)         blocks of each segment, at least one; Σ blocks = n
    returns  (n, BLOCK)

    The totals of whole blocks are summed up in the same way, eight at a time, so the bits of a total depend on no later
    event and on no other segment.
    """
    out = weights.copy()
    step = None if times is None else np.exp2(times[:, :-1] - times[:, 1:])
    for event in range(1, BLOCK):
        before = out[:, event - 1]
        out[:, event] += before if step is None else before * step[:, event - 1]
    first = offsets(blocks)[:-1]
    many = np.flatnonzero(blocks > 1)
    if len(many):
        counts = blocks[many] - 1  # nothing comes after the last
        above = -(-counts // BLOCK)
        source = ragged(first[many], counts)
        at = ragged(BLOCK * offsets(above)[:-1], counts)
        sums, ends = np.zeros(BLOCK * int(above.sum())), None
        sums[at] = out[source, -1]
        if times is not None:
            ends = np.repeat(times[first[many] + counts - 1, -1], BLOCK * above)
            ends[at] = times[source, -1]
        earlier = decayed_totals(sums.reshape(-1, BLOCK), None if ends is None else ends.reshape(-1, BLOCK), above)
        left = earlier.reshape(-1)[at][:, None]
        if times is not None:
            left = left * np.exp2(np.minimum(times[source, -1:] - times[source + 1], 0))
        out[source + 1] += left
    return out


def visible_sums(values: Values, heights: Doubles, reference: Doubles, start: Ints, end: Ints) -> Values:
    """Return the weighted sum of the values that each candidate sees:

        sum[k, c] = Σ_{start[k, c] <= h < end[k, c]} 2^(heights[k, h] - reference[k, c]) value[k, h]

    values (k, n, K, d); heights (k, n * K), log2 of the weights; reference (k, C), at least the height of all that is
    visible; start, end (k, C) -> (k, C, d) in the type of the values. Blocks are products of the fixed shape
    (C, K) x (K, d) and are added in order: what a candidate does not see adds zeros.
    """
    k, n, K, _ = values.shape
    weights = np.subtract(heights[:, None], reference[..., None]).astype(values.dtype)
    np.exp2(np.minimum(weights, 0, out=weights), out=weights)
    places = np.arange(n * K)
    weights *= places < end[..., None]
    if (start > 0).any():
        weights *= places >= start[..., None]
    sums: Values = np.add.reduce(weights.reshape(k, -1, n, K).transpose(0, 2, 1, 3) @ values, axis=1)
    return sums


def whole_bits(counts: Ints) -> Ints:
    """Return the bits of whole weights so that sums of `counts` of them fit 62 bits: 53 for a few, 42 for a million."""
    lengths = np.frexp(counts.astype(np.float64))[1]
    return np.select([lengths <= 9, lengths <= 13, lengths <= 20], [53, 49, 42], 62 - lengths)


def whole_weights(weights: Doubles | None, ages: Doubles, bits: Ints) -> Ints:
    """Relative weights as whole numbers, whose sums are exact in any order, so that exact ties stay ties.

        whole = 2^bits weight 2^-age, rounded

    weights (n), None = 1; ages (n) in half-lives before the reference; bits (n). A weight above 2^bits is cut off:
    no row with this reference sees such an event.
    """
    whole = np.exp2(-ages)
    if weights is not None:
        whole *= weights
    np.minimum(whole, 1, out=whole)
    np.ldexp(whole, bits, out=whole)
    return np.rint(whole, out=whole).astype(np.int64)
