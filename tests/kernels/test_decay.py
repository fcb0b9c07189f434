"""Decayed sums agree with a loop, and no later event changes a bit of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers.units import unit

from extembed_cli.kernels.decay import BLOCK, decayed_totals, visible_sums, whole_bits, whole_weights
from extembed_cli.kernels.segments import offsets

LENGTHS = [1, 2, 7, 8, 9, 33, 64, 130, 700]


def blocked(pieces: list[np.ndarray], fill: Callable[[np.ndarray], object]) -> tuple[np.ndarray, np.ndarray]:
    """Pad each piece to whole blocks. Return (n, BLOCK) numbers, and the number of blocks of each piece."""
    blocks = np.array([-(-len(piece) // BLOCK) for piece in pieces])
    rows = [np.append(p, np.full(b * BLOCK - len(p), fill(p))) for p, b in zip(pieces, blocks, strict=True)]
    return np.concatenate(rows).reshape(-1, BLOCK), blocks


def totals(times: list[np.ndarray], weights: list[np.ndarray]) -> list[np.ndarray]:
    """Return `decayed_totals` of each piece."""
    t, blocks = blocked(times, lambda piece: piece[-1])
    sums = decayed_totals(blocked(weights, lambda piece: 0)[0], t, blocks).ravel()
    return [sums[at : at + len(piece)] for at, piece in zip(offsets(blocks * BLOCK), times, strict=False)]


def slow_totals(times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.array([weights[: e + 1] @ 2.0 ** (times[: e + 1] - times[e]) for e in range(len(times))])


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e5])
def test_decayed_totals_are_those_of_a_loop(scale: float) -> None:
    """This holds without decay, and with gaps of 100,000 half-lives."""
    rng = np.random.default_rng(4)
    times = [np.sort(rng.random(n)) * scale for n in LENGTHS]
    weights = [rng.uniform(0.1, 9, n) for n in LENGTHS]
    for actual, t, w in zip(totals(times, weights), times, weights, strict=True):
        np.testing.assert_allclose(actual, slow_totals(t, w), rtol=1e-12)


def test_totals_without_times_have_the_bits_of_equal_times() -> None:
    rng = np.random.default_rng(7)
    weights, blocks = blocked([rng.random(n) for n in LENGTHS], lambda piece: 0)
    assert decayed_totals(weights, None, blocks).tobytes() == decayed_totals(weights, 0 * weights, blocks).tobytes()


def test_no_later_event_and_no_other_piece_changes_a_bit_of_a_total() -> None:
    rng = np.random.default_rng(5)
    times, weights = [np.sort(rng.random(n)) * 9 for n in (700, 20)], [rng.random(n) for n in (700, 20)]
    whole = totals(times, weights)
    for length in (1, 8, 9, 64, 65, 130, 515):
        alone = totals([times[0][:length]], [weights[0][:length]])[0]
        assert alone.tobytes() == whole[0][:length].tobytes()
    assert totals(times[::-1], weights[::-1])[0].tobytes() == whole[1].tobytes()


@pytest.mark.parametrize("span", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_visible_sums_are_those_of_a_loop(block: int, span: float) -> None:
    """This holds with windows, and if hidden events weigh more than float32 can hold."""
    rng = np.random.default_rng(6)
    k, n, candidates, dim = 3, 4, 5, 7
    values = unit(rng, k * n * block, dim).reshape(k, n, block, dim)
    heights = np.sort(rng.random((k, n * block)) * span)
    end = rng.integers(1, n * block + 1, (k, candidates))
    start = rng.integers(0, end)
    reference = np.take_along_axis(heights, end - 1, axis=1) + 3
    sums = visible_sums(values, heights, reference, start, end)
    for piece, candidate in np.ndindex(k, candidates):
        seen = slice(start[piece, candidate], end[piece, candidate])
        weights = np.exp2(heights[piece, seen] - reference[piece, candidate])
        expected = weights @ values[piece].reshape(-1, dim)[seen].astype(float)
        np.testing.assert_allclose(sums[piece, candidate], expected, atol=1e-6 * weights.sum())


def test_no_hidden_event_changes_a_bit_of_a_sum() -> None:
    rng = np.random.default_rng(8)
    values, heights = unit(rng, 192, 20).reshape(1, 3, 64, 20), np.arange(192.0)[None] / 9
    end, start = np.array([[40, 65, 100]]), np.array([[0, 3, 50]])
    reference = heights[0, end - 1] + 4
    whole = visible_sums(values, heights, reference, start, end)
    values[0, 1, 36:], values[0, 2] = -values[0, 1, 36:], 0
    heights[0, 100:] += 1e3
    for blocks in (2, 3):
        some = visible_sums(values[:, :blocks], heights[:, : 64 * blocks], reference, start, end)
        assert some.tobytes() == whole.tobytes()


def test_whole_weights_of_any_history_fit_62_bits_and_keep_its_old_events() -> None:
    for length in (1, 511, 512, 8_191, 8_192, 2**20 - 1, 2**20, 2**30):
        bits = whole_bits(np.array([length]))
        whole = whole_weights(None, np.array([0.0, 40.0]), np.repeat(bits, 2))
        assert int(whole[0]) * length < 2**62  # Python integers do not wrap around
        assert whole[1] > 0 or length > 2**21
    rng = np.random.default_rng(7)
    weights, ages = rng.random(50), rng.random(50) * 9
    scaled = whole_weights(weights, ages, np.full(50, 53)) / 2.0**53
    np.testing.assert_allclose(scaled, weights * 2.0**-ages, rtol=0, atol=2.0**-53)


def test_events_of_days_keep_their_ties() -> None:
    whole = whole_weights(None, np.array([5.0, 4, 4, 2]), np.full(4, 53))
    assert whole[3] == 4 * whole[1] == 4 * whole[2] == 8 * whole[0]
