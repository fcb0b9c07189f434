"""The events of an owner that a candidate can see, as half-open ranges of event positions.

Events are in CSR: those of owner u are at positions [indptr[u], indptr[u+1]), sorted by time. The events before a
moment are then a prefix, so point-in-time correctness takes two integers per candidate and no tensor.
"""

from __future__ import annotations

import numpy as np

from extembed_cli.arrays import Ints


def first_at_or_after(indptr: Ints, times: Ints, owners: Ints, cutoffs: Ints) -> Ints:
    """Return the position of each query owner's first event with time >= cutoff (the owner's end if there is none).

        position[q] = indptr[u] + #{events i of u : times[i] < cutoffs[q]},  u = owners[q]

    indptr (U+1), times (N) us, owners (Q) ascending, cutoffs (Q) us -> (Q). One binary search over keys
    (owner, time) packed into an int64, in slices of owners small enough for the key not to overflow.
    """
    out = indptr[owners]
    if not len(times) or not len(owners):
        return out
    earliest, latest = int(times.min()), int(times.max())
    span = latest - earliest + 1
    cutoffs = np.clip(cutoffs, earliest, latest + 1) - earliest
    events_of = np.diff(indptr)
    step = max(1, 2**62 // span)
    for low in range(0, len(events_of), step):
        high = min(low + step, len(events_of))
        events = slice(indptr[low], indptr[high])
        queries = slice(*np.searchsorted(owners, [low, high]))
        of_event = np.repeat(np.arange(high - low), events_of[low:high])
        keys = of_event * span + (times[events] - earliest)
        wanted = (owners[queries] - low) * span + cutoffs[queries]
        out[queries] = indptr[low] + np.searchsorted(keys, wanted, side="left")
    return out
