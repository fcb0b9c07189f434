"""Percentiles, shares and deviations of cosines agree with numpy and exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from extembed_cli.kernels.cosines import exact_cosines
from extembed_cli.kernels.segments import offsets
from extembed_cli.kernels.statistics import Ranked, cumulate, deviations, rank, reaching, share, weighted_percentiles


class Rows:
    """Random cosines of rows. Each row is a segment of a larger array, and each place of an event has a weight."""

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
    result = weighted_percentiles(rows.ranked, rows.cumulative, percentiles)
    for r, (cosines, weights) in enumerate(rows):
        exact = np.quantile(
            cosines.astype(np.float64), np.array(percentiles) / 100, weights=weights / 2.0**53, method="inverted_cdf"
        )
        assert [float(p[r]) for p in result] == exact.tolist()


def test_sums_beyond_64_bits_wrap_around_without_harm() -> None:
    """A row has 500 events of weight 2^53 each, so the sum of a batch is far beyond 2^63."""
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
        result = weighted_percentiles(ranked, cumulative, [10, 30, 50, 70, 71])
        assert [round(float(p[0]), 1) for p in result] == [0.1, 0.3, 0.5, 0.7, 0.8]


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
    """Return the float32 cosines, in place of the exact ones."""
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
    for t, result in zip(thresholds, shares(ranked, cumulative, thresholds), strict=True):
        np.testing.assert_allclose(result[0], weights[values >= t].sum() / weights.sum(), rtol=1e-7)


def test_shares_of_random_rows() -> None:
    rows = Rows([1, 5, 700, 2, 17, 64, 130], 12)
    thresholds = [-0.99, -0.4, 0.0, 0.4, 0.99]
    for t, result in zip(thresholds, shares(rows.ranked, rows.cumulative, thresholds), strict=True):
        for r, (cosines, weights) in enumerate(rows):
            exact = float(weights[cosines >= np.float32(t)].sum()) / float(weights.sum())
            assert result[r] == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5, 1.0])
def test_thresholds_are_decided_as_in_exact_arithmetic(threshold: float) -> None:
    # Integer vectors whose cosines are exact fractions, many of them equal to the threshold.
    rng = np.random.default_rng(13)
    raw_q, raw_v = (rng.choice([-1, 0, 1], (n, 4), p=[0.3, 0.3, 0.4]) for n in (10, 30))
    raw_q[..., 0], raw_v[..., 0] = 1, 1
    q, v = ((raw / np.linalg.norm(raw, axis=-1, keepdims=True)).astype(np.float32) for raw in (raw_q, raw_v))
    dots, squares = raw_q @ raw_v.T, (raw_q**2).sum(-1)[:, None] * (raw_v**2).sum(-1)
    # cos >= t without rounding: signed squares of integers are compared
    exact = np.sign(dots) * dots**2 * 4 >= np.sign(threshold) * round(4 * threshold**2) * squares
    cosines = (q @ v.T).astype(np.float32)
    ranked = rank(cosines.ravel(), np.arange(0, 300, 30), np.zeros(10, np.int64), np.full(10, 30))
    cumulative = cumulate(ranked, np.ones(30, np.int64), np.zeros(10, np.int64))
    before = ranked.keys.copy()
    result = shares(ranked, cumulative, [threshold], lambda rows, places: exact_cosines(q[rows], v[places]))[0]
    assert result.tolist() == exact.mean(axis=1).astype(np.float32).tolist()
    assert (ranked.keys == before).all()  # a threshold changes no other column


def exact_variance(cosines: np.ndarray, weights: np.ndarray) -> Fraction:
    """Return the variance by its definition, in fractions."""
    c, w = ([Fraction(float(value)) for value in values] for values in (cosines, weights))
    mean = sum(wi * ci for wi, ci in zip(w, c, strict=True)) / sum(w)
    return sum((wi * (ci - mean) ** 2 for wi, ci in zip(w, c, strict=True)), Fraction(0)) / sum(w)


@pytest.mark.parametrize("width", [1.0, 1e-4, 1e-6])
@pytest.mark.parametrize("oldest", [0, 60, 2000])
def test_deviations_do_not_cancel(width: float, oldest: int) -> None:
    """The cosines are close to each other, and old events weigh almost nothing or, at 2^-2000, nothing."""
    rng = np.random.default_rng(14)
    counts = np.array([1, 2, 700, 17, 64, 1])
    cosines = (0.9 + width * rng.uniform(-0.1, 0.1, counts.sum())).astype(np.float32)
    weights = np.exp2(-rng.uniform(0, oldest, counts.sum()))
    weights[offsets(counts)[1:] - 1] = 1
    result = deviations(cosines, weights, counts)
    assert result.dtype == np.float32
    assert result[0] == result[-1] == 0
    for r, low in enumerate(offsets(counts)[:-1]):
        at = slice(low, low + counts[r])
        # relative to the value itself, even if it is small
        assert result[r] == pytest.approx(float(exact_variance(cosines[at], weights[at])) ** 0.5, rel=1e-6)


def test_equal_cosines_do_not_deviate() -> None:
    rng = np.random.default_rng(15)
    counts = np.array([1, 3, 1000])
    cosines = np.repeat(rng.uniform(-1, 1, 3).astype(np.float32), counts)
    assert deviations(cosines, rng.uniform(0, 1, len(cosines)), counts).tolist() == [0, 0, 0]


def test_a_deviation_depends_only_on_its_own_row() -> None:
    rng = np.random.default_rng(16)
    counts = np.array([5, 1, 9000, 64, 130, 20000, 7, 129])
    cosines, weights = rng.uniform(-1, 1, counts.sum()).astype(np.float32), rng.uniform(0, 1, counts.sum())
    together, first = deviations(cosines, weights, counts), offsets(counts)[:-1]
    for r, (low, count) in enumerate(zip(first, counts, strict=True)):
        at = slice(low, low + count)
        assert deviations(cosines[at], weights[at], counts[r : r + 1])[0] == together[r]
