"""The events of a user that a candidate can see, as half-open ranges of event positions.

Events are in CSR: those of user u are at positions [indptr[u], indptr[u+1]), sorted by time. The events before a
moment are then a prefix, so point-in-time correctness takes two integers per candidate and no tensor.
"""

from __future__ import annotations

import numpy as np

from extembed_cli.arrays import Ints


def first_at_or_after(indptr: Ints, times: Ints, users: Ints, cutoffs: Ints) -> Ints:
    """Return the position of each query user's first event with time >= cutoff (the user's end if there is none).

        position[q] = indptr[u] + #{events i of u : times[i] < cutoffs[q]},  u = users[q]

    indptr (U+1), times (N) us, users (Q) ascending, cutoffs (Q) us -> (Q). One binary search over keys
    (user, time) packed into an int64, in slices of users small enough for the key not to overflow.
    """
    out = indptr[users]
    if not len(times) or not len(users):
        return out
    earliest, latest = int(times.min()), int(times.max())
    span = latest - earliest + 1
    cutoffs = np.clip(cutoffs, earliest, latest + 1) - earliest
    events_of = np.diff(indptr)
    step = max(1, 2**62 // span)
    for low in range(0, len(events_of), step):
        high = min(low + step, len(events_of))
        events = slice(indptr[low], indptr[high])
        queries = slice(*np.searchsorted(users, [low, high]))
        owners = np.repeat(np.arange(high - low), events_of[low:high])
        keys = owners * span + (times[events] - earliest)
        wanted = (users[queries] - low) * span + cutoffs[queries]
        out[queries] = indptr[low] + np.searchsorted(keys, wanted, side="left")
    return out
