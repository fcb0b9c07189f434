"""Cosines agree with float64, and other pieces of a batch change no bit of them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.units import unit

from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import BLOCK

COSINE = 4e-7  # of float32 products of unit vectors


@pytest.mark.parametrize("dim", [1, 3, 64, 128, 129, 384, 1536])
def test_cosines_are_those_of_float64(dim: int) -> None:
    rng = np.random.default_rng(2)
    near = unit(rng, 1, dim) * np.float32(0.99)
    q, v = (near + 0.1 * unit(rng, *shape, dim) for shape in ((3, 5), (3, 4, BLOCK)))
    q, v = (np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32) for x in (q, v))
    out = np.empty((3, 5, 4, BLOCK), np.float32)
    block_cosines(q, v, out)
    expected = np.einsum("kcd,knhd->kcnh", q.astype(np.float64), v.astype(np.float64))
    np.testing.assert_allclose(out, expected, atol=COSINE)
    pairs = exact_cosines(np.repeat(q[0], BLOCK, axis=0), np.tile(v[0, 0], (5, 1)))
    np.testing.assert_allclose(pairs, expected[0, :, 0].ravel(), atol=2e-7)


@pytest.mark.parametrize("candidates", [1, 3, 4, 12, 40, 64])
def test_more_events_and_other_pieces_change_no_bit_of_a_cosine(candidates: int) -> None:
    rng = np.random.default_rng(3)
    q, v = unit(rng, 2, candidates, 200), unit(rng, 2, 30, BLOCK, 200)
    results = []
    for pieces, blocks in ((2, 30), (2, 4), (1, 4)):
        out = np.empty((pieces, candidates, blocks, BLOCK), np.float32)
        block_cosines(q[:pieces], v[:pieces, :blocks], out)
        results.append(out[:1, :, :4].tobytes())
    assert results[0] == results[1] == results[2]


def test_clipping() -> None:
    assert clipped(np.array([-1.0000001, 0.5, 1.0000001])).tolist() == [-1, 0.5, 1]
    assert exact_cosines(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)).tolist() == [0]


def test_other_pairs_change_no_bit_of_an_exact_cosine() -> None:
    rng = np.random.default_rng(4)
    a, b = unit(rng, 40, 10_000), unit(rng, 40, 10_000)
    together = exact_cosines(a, b)
    alone = np.concatenate([exact_cosines(a[i : i + 1], b[i : i + 1]) for i in range(40)])
    assert together.tobytes() == alone.tobytes()
