"""Each kernel against a loop or a library's answer, on random and on awkward shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from extembed_cli.kernels.cosines import block_cosines, clipped, exact_cosines
from extembed_cli.kernels.decay import BLOCK, decayed_totals, visible_sums, whole_bits, whole_weights
from extembed_cli.kernels.ranges import first_at_or_after
from extembed_cli.kernels.segments import LADDER, first_reaching, offsets, padded, ragged, run_starts, spread
from extembed_cli.kernels.statistics import Ranked, cumulate, rank, reaching, share, weighted_percentiles

COSINE = 4e-7  # float32 products of unit vectors
LENGTHS = [1, 2, 7, 8, 9, 33, 64, 130, 700]


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


# --- ranges and segments -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_first_at_or_after_is_a_count(seed: int) -> None:
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
    # Users times microseconds of 8,000 years overflow: the search has to go in slices of users.
    users = np.arange(200_000)
    times = np.stack([users * 1_000_000 - 6 * 10**16, np.full(len(users), 2 * 10**17)], axis=1).ravel()
    found = first_at_or_after(np.arange(0, 2 * len(users) + 1, 2), times, users, np.zeros(len(users), np.int64))
    assert (found - 2 * users).tolist() == [1] * len(users)


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
    first = offsets(counts + 2)[:-1] + 1  # something else lies between them
    values = np.full(int((counts + 2).sum()), 99)
    for f, n in zip(first, counts, strict=True):
        values[f : f + n] = np.sort(rng.integers(0, 10, n))
    limits = np.array([[0], [4], [10]])
    made = first_reaching(lambda at: values[at] >= limits, first, counts, len(limits))
    for s, i in np.ndindex(made.shape):
        segment = values[first[i] : first[i] + counts[i]]
        assert made[s, i] == first[i] + int((segment < limits[s]).sum())


def test_the_ladder_is_increasing_and_never_pads_much() -> None:
    assert (np.diff(LADDER) > 0).all()
    lengths = np.arange(1, 5000)
    assert (padded(lengths) >= lengths).all()
    assert (padded(lengths[40:]) <= lengths[40:] * 1.15).all()


# --- cosines -----------------------------------------------------------------------------------------


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
    found = []
    for pieces, blocks in ((2, 30), (2, 4), (1, 4)):
        out = np.empty((pieces, candidates, blocks, BLOCK), np.float32)
        block_cosines(q[:pieces], v[:pieces, :blocks], out)
        found.append(out[:1, :, :4].tobytes())
    assert found[0] == found[1] == found[2]


def test_clipping() -> None:
    assert clipped(np.array([-1.0000001, 0.5, 1.0000001])).tolist() == [-1, 0.5, 1]
    assert exact_cosines(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)).tolist() == [0]


# --- decay -------------------------------------------------------------------------------------------


def blocked(pieces: list[np.ndarray], fill: Callable[[np.ndarray], object]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of pieces, each padded to whole blocks: (n, BLOCK); and how many blocks each has."""
    blocks = np.array([-(-len(piece) // BLOCK) for piece in pieces])
    rows = [np.append(p, np.full(b * BLOCK - len(p), fill(p))) for p, b in zip(pieces, blocks, strict=True)]
    return np.concatenate(rows).reshape(-1, BLOCK), blocks


def totals(times: list[np.ndarray], weights: list[np.ndarray]) -> list[np.ndarray]:
    """`decayed_totals` by piece."""
    t, blocks = blocked(times, lambda piece: piece[-1])
    made = decayed_totals(blocked(weights, lambda piece: 0)[0], t, blocks).ravel()
    return [made[at : at + len(piece)] for at, piece in zip(offsets(blocks * BLOCK), times, strict=False)]


def slow_totals(times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.array([weights[: e + 1] @ 2.0 ** (times[: e + 1] - times[e]) for e in range(len(times))])


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e5])
def test_decayed_totals_are_those_of_a_loop(scale: float) -> None:
    """Whatever the half-life: without decay, and with gaps of 100,000 half-lives."""
    rng = np.random.default_rng(4)
    times = [np.sort(rng.random(n)) * scale for n in LENGTHS]
    weights = [rng.uniform(0.1, 9, n) for n in LENGTHS]
    for made, t, w in zip(totals(times, weights), times, weights, strict=True):
        np.testing.assert_allclose(made, slow_totals(t, w), rtol=1e-12)


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
    """Windows and all; what is hidden may weigh more than float32 can hold."""
    rng = np.random.default_rng(6)
    k, n, candidates, dim = 3, 4, 5, 7
    values = unit(rng, k * n * block, dim).reshape(k, n, block, dim)
    heights = np.sort(rng.random((k, n * block)) * span)
    end = rng.integers(1, n * block + 1, (k, candidates))
    start = rng.integers(0, end)
    reference = np.take_along_axis(heights, end - 1, axis=1) + 3
    made = visible_sums(values, heights, reference, start, end)
    for piece, candidate in np.ndindex(k, candidates):
        seen = slice(start[piece, candidate], end[piece, candidate])
        weights = np.exp2(heights[piece, seen] - reference[piece, candidate])
        expected = weights @ values[piece].reshape(-1, dim)[seen].astype(float)
        np.testing.assert_allclose(made[piece, candidate], expected, atol=1e-6 * weights.sum())


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
        assert int(whole[0]) * length < 2**62  # Python's integers do not wrap around
        assert whole[1] > 0 or length > 2**21
    rng = np.random.default_rng(7)
    weights, ages = rng.random(50), rng.random(50) * 9
    made = whole_weights(weights, ages, np.full(50, 53)) / 2.0**53
    np.testing.assert_allclose(made, weights * 2.0**-ages, rtol=0, atol=2.0**-53)


def test_events_of_days_keep_their_ties() -> None:
    whole = whole_weights(None, np.array([5.0, 4, 4, 2]), np.full(4, 53))
    assert whole[3] == 4 * whole[1] == 4 * whole[2] == 8 * whole[0]


# --- statistics of ranked cosines --------------------------------------------------------------------


class Rows:
    """Random cosines of rows, each a segment somewhere in a larger array, with weights by place of event."""

    def __init__(self, counts: list[int], seed: int, values: np.ndarray | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.counts = np.array(counts)
        self.first = offsets(self.counts + rng.integers(0, 3, len(counts)))[:-1]
        total = int(self.first[-1] + self.counts[-1] + 3)
        self.cosines = rng.uniform(-1, 1, total).astype(np.float32) if values is None else values
        self.places = rng.integers(0, 50, len(counts))  # rows share events
        self.weights = rng.integers(1, 2**53, int((self.places + self.counts).max()))
        self.ranked = rank(self.cosines, self.first, self.places, self.counts)
        self.cumulative = cumulate(self.ranked, self.weights, np.zeros(len(counts), np.int64))

    def __iter__(self):
        for f, p, n in zip(self.first, self.places, self.counts, strict=True):
            yield self.cosines[f : f + n], self.weights[p : p + n]


def test_a_sort_of_rows_of_any_length() -> None:
    rows = Rows([1, 5, 700, 2, 17, 64, 1, 130, 20, 5000], 8)
    for r, (cosines, _) in enumerate(rows):
        at = slice(rows.ranked.start[r], rows.ranked.start[r] + rows.counts[r])
        order = np.argsort(cosines, kind="stable")
        assert rows.ranked.values(np.arange(at.start, at.stop)).tolist() == cosines[order].tolist()
        assert rows.ranked.places(at).tolist() == (rows.places[r] + order).tolist()
    assert rows.ranked.smallest.tolist() == [cosines.min() for cosines, _ in rows]
    assert rows.ranked.largest.tolist() == [cosines.max() for cosines, _ in rows]


def test_percentiles_are_numpys_inverted_cdf() -> None:
    rows = Rows([1, 5, 700, 2, 17, 64, 130], 9)
    percentiles = [1, 10, 37, 50, 90, 99]
    made = weighted_percentiles(rows.ranked, rows.cumulative, percentiles)
    for r, (cosines, weights) in enumerate(rows):
        exact = np.quantile(
            cosines.astype(np.float64), np.array(percentiles) / 100, weights=weights / 2.0**53, method="inverted_cdf"
        )
        assert [float(p[r]) for p in made] == exact.tolist()


def test_sums_beyond_64_bits_wrap_around_without_harm() -> None:
    """Rows of 500 events of 2^53 each: a batch of them is far beyond 2^63."""
    rows = Rows([500] * 40, 10)
    rows.weights[:] = 2**53 - 1
    cumulative = cumulate(rows.ranked, rows.weights, np.zeros(40, np.int64))
    assert (cumulative.total == 500 * (2**53 - 1)).all()
    for p, q in zip(weighted_percentiles(rows.ranked, cumulative, [10, 50]), (0.1, 0.5), strict=True):
        assert p.tolist() == [np.sort(cosines)[round(q * 500) - 1] for cosines, _ in rows]


def test_a_percentile_at_a_tie_is_the_lower_value() -> None:
    values = np.arange(1, 11, dtype=np.float32) / 10
    for weight in (2**53, 2**49 // 10, 2**53 // 3):
        ranked = rank(values, np.array([0]), np.array([0]), np.array([10]))
        cumulative = cumulate(ranked, np.full(10, weight), np.array([0]))
        made = weighted_percentiles(ranked, cumulative, [10, 30, 50, 70, 71])
        assert [round(float(p[0]), 1) for p in made] == [0.1, 0.3, 0.5, 0.7, 0.8]


def test_each_row_has_weights_of_its_own() -> None:
    rows = Rows([3, 40, 9], 11)
    size = len(rows.weights)
    tables = np.concatenate([rows.weights, 2 * rows.weights, rows.weights[::-1]])
    cumulative = cumulate(rows.ranked, tables, np.array([0, size, 2 * size]))
    for r, factor in ((0, 1), (1, 2)):
        assert cumulative.total[r] == factor * list(rows)[r][1].sum()
    assert cumulative.total[2] == rows.weights[::-1][rows.places[2] : rows.places[2] + 9].sum()


def shares(ranked: Ranked, cumulative: object, thresholds: list[float], exact: object = None) -> list[np.ndarray]:
    def none(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        return ranked_value(ranked, rows, places)

    return [share(cumulative, each) for each in reaching(ranked, thresholds, exact or none)]  # type: ignore[arg-type]


def ranked_value(ranked: Ranked, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The float32 cosines themselves, as if they were exact."""
    out = []
    for row, place in zip(rows, places, strict=True):
        at = np.arange(ranked.start[row], ranked.start[row] + ranked.counts[row])
        out.append(ranked.values(at)[ranked.places(at) == place][0])
    return np.array(out, np.float64)


def test_shares_at_ties_zeros_and_signs() -> None:
    values = np.array([-1.0, -0.25, -0.0, 0.0, 0.25, 1.0, 0.25, -0.25, -0.5, 0.75], np.float32)
    weights = np.arange(1, 11)
    ranked = rank(values, np.array([0]), np.array([0]), np.array([10]))
    cumulative = cumulate(ranked, weights, np.array([0]))
    thresholds = [-1.0, -0.25, 0.0, 0.25, 1.0]
    for t, made in zip(thresholds, shares(ranked, cumulative, thresholds), strict=True):
        np.testing.assert_allclose(made[0], weights[values >= t].sum() / weights.sum(), rtol=1e-7)


def test_shares_of_random_rows() -> None:
    rows = Rows([1, 5, 700, 2, 17, 64, 130], 12)
    thresholds = [-0.99, -0.4, 0.0, 0.4, 0.99]
    for t, made in zip(thresholds, shares(rows.ranked, rows.cumulative, thresholds), strict=True):
        for r, (cosines, weights) in enumerate(rows):
            exact = float(weights[cosines >= np.float32(t)].sum()) / float(weights.sum())
            assert made[r] == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5, 1.0])
def test_thresholds_are_decided_as_in_exact_arithmetic(threshold: float) -> None:
    # Integer vectors whose cosines are exact fractions, many of them equal to the threshold.
    rng = np.random.default_rng(13)
    raw_q, raw_v = (rng.choice([-1, 0, 1], (n, 4), p=[0.3, 0.3, 0.4]) for n in (10, 30))
    raw_q[..., 0], raw_v[..., 0] = 1, 1
    q, v = ((raw / np.linalg.norm(raw, axis=-1, keepdims=True)).astype(np.float32) for raw in (raw_q, raw_v))
    dots, squares = raw_q @ raw_v.T, (raw_q**2).sum(-1)[:, None] * (raw_v**2).sum(-1)
    # cos >= t without rounding: compare signed squares of integers
    exact = np.sign(dots) * dots**2 * 4 >= np.sign(threshold) * round(4 * threshold**2) * squares
    cosines = (q @ v.T).astype(np.float32)
    ranked = rank(cosines.ravel(), np.arange(0, 300, 30), np.zeros(10, np.int64), np.full(10, 30))
    cumulative = cumulate(ranked, np.ones(30, np.int64), np.zeros(10, np.int64))
    before = ranked.keys.copy()
    made = shares(ranked, cumulative, [threshold], lambda rows, places: exact_cosines(q[rows], v[places]))[0]
    assert made.tolist() == exact.mean(axis=1).astype(np.float32).tolist()
    assert (ranked.keys == before).all()  # no other column is touched by a threshold
