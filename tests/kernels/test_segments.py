"""Ranges and segments: searches and sums over many short arrays agree with loops."""

from __future__ import annotations

import numpy as np
import pytest

from extembed_cli.kernels.ranges import first_at_or_after
from extembed_cli.kernels.segments import LADDER, first_reaching, offsets, padded, ragged, run_starts, spread


@pytest.mark.parametrize("seed", range(5))
def test_first_at_or_after_counts_earlier_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, 20)
    indptr = np.r_[0, np.cumsum(lengths)]
    times = np.concatenate([np.sort(rng.integers(0, 10, n)) for n in lengths]).astype(np.int64)
    users = np.sort(rng.integers(0, 20, 50))
    cutoffs = rng.integers(-2, 13, 50)
    expected = [
        indptr[u] + int((times[indptr[u] : indptr[u + 1]] < t).sum()) for u, t in zip(users, cutoffs, strict=True)
    ]
    assert first_at_or_after(indptr, times, users, cutoffs).tolist() == expected


def test_first_at_or_after_over_a_span_that_no_int64_key_can_hold() -> None:
    # Users times microseconds of 8,000 years overflow, so the search has to go through slices of users.
    users = np.arange(200_000)
    times = np.stack([users * 1_000_000 - 6 * 10**16, np.full(len(users), 2 * 10**17)], axis=1).ravel()
    result = first_at_or_after(np.arange(0, 2 * len(users) + 1, 2), times, users, np.zeros(len(users), np.int64))
    assert (result - 2 * users).tolist() == [1] * len(users)


def test_segments_of_any_length_one_after_another() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([0, 3, 1, 0, 0, 5, 2, 0])
    first = rng.integers(-50, 50, len(lengths))
    assert ragged(first, lengths).tolist() == [f + i for f, n in zip(first, lengths, strict=True) for i in range(n)]
    assert spread(first, lengths).tolist() == np.repeat(first, lengths).tolist()
    assert offsets(lengths).tolist() == [0, 0, 3, 4, 4, 4, 9, 11, 11]
    for empty in (lengths[:0], lengths[:1]):
        assert ragged(first[: len(empty)], empty).tolist() == spread(first[: len(empty)], empty).tolist() == []


def test_runs_begin_where_any_key_changes() -> None:
    assert run_starts(np.array([1, 1, 2, 2, 2, 1]), np.array([0, 0, 0, 3, 3, 3])).tolist() == [0, 2, 3, 5]
    assert run_starts(np.zeros(0)).tolist() == []


def test_bisection_of_all_segments_at_once() -> None:
    rng = np.random.default_rng(1)
    counts = np.array([1, 0, 2, 3, 8, 9, 31])
    first = offsets(counts + 2)[:-1] + 1  # there are other values between the segments
    values = np.full(int((counts + 2).sum()), 99)
    for f, n in zip(first, counts, strict=True):
        values[f : f + n] = np.sort(rng.integers(0, 10, n))
    limits = np.array([[0], [4], [10]])
    result = first_reaching(lambda at: values[at] >= limits, first, counts, len(limits))
    for s, i in np.ndindex(result.shape):
        segment = values[first[i] : first[i] + counts[i]]
        assert result[s, i] == first[i] + int((segment < limits[s]).sum())


def test_the_ladder_is_increasing_and_never_pads_much() -> None:
    assert (np.diff(LADDER) > 0).all()
    lengths = np.arange(1, 5000)
    assert (padded(lengths) >= lengths).all()
    assert (padded(lengths[40:]) <= lengths[40:] * 1.15).all()
