"""Each kernel against a loop or a library's answer, on random and on awkward shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from extembed_cli.data.batches import BLOCK, LADDER, TILE_COSINES, TILE_FLOATS, batches, padded, tiles
from extembed_cli.kernels import cosines as cosines_module
from extembed_cli.kernels.cosines import EventVectors, cosine_to_mean, cosines, decide
from extembed_cli.kernels.ranges import first_at_or_after
from extembed_cli.kernels.statistics import (
    Ranked,
    cumulative_weights,
    rank,
    share_from,
    weighted_percentiles,
)
from extembed_cli.kernels.sums import product, sum_of_products, sum_of_squares, weight_sum
from extembed_cli.kernels.weights import decayed_count, fixed_point, relative_weights, sum_of_range

DAY = 86_400_000_000
SHAPES = [(1, 1, 1), (3, 4, 7), (2, 9, 33), (5, 1, 129)]
FLOAT32_SUM = 3e-6  # float32 sums of up to 130 terms


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def gathered(vectors: np.ndarray, k: int = 0) -> EventVectors:
    """Event vectors (B, H, d) as rows of a table."""
    B, H, d = vectors.shape
    return EventVectors(vectors.reshape(-1, d), np.arange(B * H).reshape(B, H), k or H)


def to_mean(weights: np.ndarray, *rest: Any) -> np.ndarray:
    """The cosine to the mean from weights (B, V, H) that are 0 where an event is not visible."""
    values, *others = rest
    with np.errstate(divide="ignore", invalid="ignore"):
        return cosine_to_mean(
            weights, weights > 0, sum_of_products(weights.astype(np.float32), values, weights.shape[2]), *others
        )


def tile(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Random cosines, visibility with at least one event, and times of a (B, C, H) tile."""
    rng = np.random.default_rng(seed)
    B, _, H = shape
    visible = rng.random(shape) < 0.7
    visible[..., 0] = True
    times = np.sort(rng.integers(0, 90 * DAY, (B, H)), axis=1).astype(np.float64)
    newest = np.where(visible, times[:, None, :], -1).max(axis=-1)
    return rng.uniform(-1, 1, shape).astype(np.float32), visible, times, newest


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half_life", [None, DAY, 30 * DAY, 1_000_000])
def test_weights_and_their_absolute_sum(shape: tuple[int, int, int], half_life: int | None) -> None:
    """Relative to the newest event, or, in a tile that is short against the half-life, to one moment for all views."""
    rng = np.random.default_rng(1)
    _, visible, times, newest = tile(shape)
    weights = rng.uniform(0.1, 9, times.shape)
    as_of = newest + 3600e6
    latest = as_of.max(axis=1)
    for given, moment in ((None, None), (None, latest), (weights, None), (weights, latest)):
        made = relative_weights(times, newest, visible, half_life, given, moment)
        expected = np.zeros(shape)
        for b, c, h in np.ndindex(shape):
            if visible[b, c, h]:
                age = as_of[b, c] - times[b, h]
                decay = 1.0 if half_life is None else 2.0 ** (-age / half_life)
                expected[b, c, h] = decay * (1.0 if given is None else given[b, h])
        absolute = made.factor * visible * (1 if made.scale is None else made.scale[..., None])
        if half_life is not None:
            absolute *= np.exp2((made.reference - as_of) / half_life)[..., None]
        np.testing.assert_allclose(absolute, expected, rtol=1e-10, atol=1e-300)
        total = decayed_count((made.factor * visible).sum(-1), made, as_of, half_life)
        np.testing.assert_allclose(total, expected.sum(-1), rtol=1e-10)
    if half_life == 30 * DAY:  # 90 days are three half-lives: one moment serves all
        assert relative_weights(times, newest, visible, half_life, None, latest).factor.shape[1] == 1
    if half_life == 1_000_000:  # 90 days are millions
        assert (relative_weights(times, newest, visible, half_life, None, latest).reference == newest).all()


def test_short_and_long_tiles_of_a_batch_do_not_touch_each_other() -> None:
    _, visible, times, newest = tile((4, 6, 20))
    times[2] *= 1e6
    newest = np.where(visible, times[:, None, :], -1).max(axis=-1)
    latest = newest.max(axis=1)
    together = relative_weights(times, newest, visible, DAY * 10, None, latest)
    for b in range(4):
        at = slice(b, b + 1)
        alone = relative_weights(times[at], newest[at], visible[at], DAY * 10, None, latest[at])
        assert (together.factor[at] * visible[at]).tobytes() == (alone.factor * visible[at]).tobytes()
        assert together.reference[at].tobytes() == alone.reference.tobytes()
    assert (together.reference[2] == newest[2]).all() and (together.reference[1] >= latest[1]).all()


def ranked_weights(
    values: np.ndarray, weights: np.ndarray, visible: np.ndarray | None = None
) -> tuple[Ranked, np.ndarray, np.ndarray]:
    """The sorted visible cosines, the cumulative weights (B, V, H) in their order, and their sums."""
    visible = weights > 0 if visible is None else visible
    ranked, whole = rank(values, ~visible), fixed_point(weights)
    return ranked, cumulative_weights(ranked, whole), (whole * visible).sum(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("one_view", [False, True])
def test_percentiles_are_numpys_inverted_cdf(shape: tuple[int, int, int], one_view: bool) -> None:
    values, visible, times, newest = tile(shape, seed=2)
    if one_view:
        visible, newest = visible[:, :1], newest[:, :1]
    weights = relative_weights(times, newest, visible, 20 * DAY).factor
    percentiles = [1, 10, 37, 50, 90, 99]
    made = weighted_percentiles(*ranked_weights(values, weights, visible), percentiles)
    for b, c in np.ndindex(shape[:2]):
        view = 0 if one_view else c
        seen = visible[b, view]
        wanted = np.quantile(
            values[b, c][seen].astype(np.float64),
            np.array(percentiles) / 100,
            weights=weights[b, view][seen],
            method="inverted_cdf",
        )
        assert [float(p[b, c]) for p in made] == wanted.tolist()


def test_a_percentile_at_a_tie_is_the_lower_value() -> None:
    values = np.array([[[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]]], np.float32)
    for weight in (1.0, 0.1, 1 / 3):
        weights = np.full(values.shape, weight)
        made = weighted_percentiles(*ranked_weights(values, weights), [10, 30, 50, 70, 71])
        assert [round(float(p[0, 0]), 1) for p in made] == [0.1, 0.3, 0.5, 0.7, 0.8]


def test_ties_stay_ties_whoever_else_asks() -> None:
    """Events of days, half-lives of days: weights are powers of two, relative to the newest event or to a later one."""
    times = np.array([[0.0, 0, 1, 1, 1, 3]]) * DAY
    visible = np.ones((1, 3, 6), bool)
    newest = np.full((1, 3), 3.0 * DAY)
    for hours in (9, 10, 23, 24, 100):
        latest = newest.max(axis=1) + hours * 3600e6
        made = relative_weights(times, newest, visible, DAY, None, latest)
        assert made.factor.shape == (1, 1, 6)
        whole = fixed_point(made.factor)[0, 0]
        assert whole[5] == 4 * whole[2] == 8 * whole[0]


def test_tiles_of_short_histories_keep_to_their_size() -> None:
    """One event, several as-of times: what is computed for a batch is not more than what it may have."""
    users = 4000
    for asked, events in ((2, 1), (2, 3), (20, 5), (3, 40)):
        indptr = np.arange(0, users * asked + 1, asked)
        start = np.repeat(np.arange(users) * events, asked)
        end = start + np.tile(np.linspace(1, events, asked).astype(np.int64), users)
        times = np.tile(np.arange(asked), users)
        cut = tiles(indptr, start, end, np.full(users, events), times)
        assert (cut.cosines <= cut.C * np.maximum(4, 4 * cut.H)).all()
        for make in batches(cut, dim=128):
            batch = make()
            assert batch.cosines <= TILE_COSINES
            assert batch.events.size * 128 <= TILE_FLOATS


def test_whole_weights_of_any_history_fit_an_int64_and_keep_its_old_events() -> None:
    for length in (1, 64, 65, 2**20):
        whole = fixed_point(np.ones((1, 1, length)))
        assert whole.sum() == length * int(whole[0, 0, 0]) > 0  # Python's integers do not wrap around
        assert fixed_point(np.full((1, 1, length), 2.0**-40)).min() > 0
    rng = np.random.default_rng(9)
    weights = rng.random((1, 1, 50))
    np.testing.assert_allclose(fixed_point(weights) / fixed_point(np.ones((1, 1, 50))), weights, rtol=0, atol=2.0**-49)


@pytest.mark.parametrize("rows", [1, 4])
def test_sums_of_ranges_are_exact(rows: int) -> None:
    rng = np.random.default_rng(12)
    whole = rng.integers(0, 2**62 // 9, (3, rows, 9))
    ends = np.sort(rng.integers(0, 10, (2, 3, 4)), axis=0)
    for b, v in np.ndindex(3, 4):
        start, end = ends[:, b, v]
        expected = sum(whole[b, v if rows > 1 else 0, start:end].tolist())
        assert int(sum_of_range(whole, *ends)[b, v]) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("one_view", [False, True])
def test_sums_minimum_and_maximum(shape: tuple[int, int, int], one_view: bool) -> None:
    values, visible, times, newest = tile(shape, seed=3)
    if one_view:
        visible, newest = visible[:, :1], newest[:, :1]
    weights = (relative_weights(times, newest, visible, 20 * DAY).factor * visible).astype(np.float32)
    np.testing.assert_allclose(
        weight_sum(weights, weights.shape[2]), weights.sum(-1, dtype=np.float64), rtol=FLOAT32_SUM
    )
    exact = (weights.astype(np.float64) * values).sum(-1)
    np.testing.assert_allclose(sum_of_products(weights, values, weights.shape[2]), exact, atol=FLOAT32_SUM * shape[2])
    ranked = rank(values, ~visible)
    low, high = (
        ranked.values(np.zeros(shape[:2], np.int64)),
        ranked.values(np.broadcast_to(visible.sum(-1) - 1, shape[:2])),
    )
    assert low.tolist() == np.where(visible, values, 9).min(-1).tolist()
    assert high.tolist() == np.where(visible, values, -9).max(-1).tolist()


@pytest.mark.parametrize("threshold", [-1.0, -0.25, 0.0, 0.25, 1.0])
def test_shares_at_ties_zeros_and_signs(threshold: float) -> None:
    values = np.array([[[-1.0, -0.25, -0.0, 0.0, 0.25, 1.0, 0.25, -0.25, -0.5, 0.75]]], np.float32)
    weights = np.arange(1.0, 11.0).reshape(values.shape) / 10
    ranked, *others = ranked_weights(values, weights)
    made = share_from(ranked, *others, ranked.at_or_above(threshold))
    np.testing.assert_allclose(made[0, 0], weights[values >= threshold].sum() / weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("threshold", [-0.4, 0.0, 0.4, 0.9])
def test_shares_of_what_is_visible(threshold: float) -> None:
    values, visible, times, newest = tile((3, 4, 20), seed=7)
    values[0] = -0.95  # nothing reaches it
    weights = relative_weights(times, newest, visible, 20 * DAY).factor
    ranked, *others = ranked_weights(values, weights, visible)
    made = share_from(ranked, *others, ranked.at_or_above(threshold))
    seen = weights * visible
    expected = (seen * (values >= np.float32(threshold))).sum(-1) / seen.sum(-1)
    np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.parametrize("views", [1, 5])
@pytest.mark.parametrize("dim", [2, 8, 384])
def test_cosine_to_the_weighted_mean(dim: int, views: int) -> None:
    rng = np.random.default_rng(4)
    q, v = unit(rng, 3, 5, dim), unit(rng, 3, 20, dim)
    weights = rng.random((3, views, 20))
    events = gathered(v)
    made = to_mean(weights, cosines(q, events), q, events)
    mean = np.broadcast_to(np.einsum("bvh,bhd->bvd", weights, v), q.shape)
    expected = np.einsum("bcd,bcd->bc", q, mean) / np.linalg.norm(mean, axis=-1)
    np.testing.assert_allclose(made, expected, atol=5e-6)


def test_a_mean_that_nearly_cancels_does_not_depend_on_padding() -> None:
    # Pairs of nearly opposite vectors: what is left of their sum is a thousandth of it, and float32 rounds that.
    rng = np.random.default_rng(8)
    half, q = unit(rng, 1, 2, 384), unit(rng, 1, 3, 384)
    v = np.concatenate([half, (-half + 1e-3 * unit(rng, 1, 2, 384)).astype(np.float32)], axis=1)
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    expected = np.einsum("bcd,bd->bc", q.astype(np.float64), v.sum(1, dtype=np.float64))
    expected /= np.linalg.norm(v.sum(1, dtype=np.float64))
    found = []
    for length in (4, 5, 30, 100):
        events = gathered(np.concatenate([v, unit(rng, 1, length - 4, 384)], axis=1) if length > 4 else v)
        weights = np.zeros((1, 3, length))
        weights[..., :4] = 1
        found.append(to_mean(weights, cosines(q, events), q, events))
        one = weights[:, :1]
        same = to_mean(one, cosines(q, events), q, events)
        np.testing.assert_allclose(same, found[-1], atol=1e-6)
        np.testing.assert_allclose(found[-1], expected, atol=2e-4)  # the rounding of the vectors themselves
        np.testing.assert_allclose(found[-1], found[0], atol=1e-6)


def test_long_sums_of_like_terms_do_not_drift() -> None:
    length = 102_400
    values = np.full((1, 2, length), 0.3, np.float32)
    for views, k in ((1, 64), (2, 64), (2, 1024)):
        weights = np.full((1, views, length), 0.7, np.float32)
        mean = sum_of_products(weights, values, k) / weight_sum(weights, k)
        np.testing.assert_allclose(mean, np.full((1, 2), 0.3), atol=1e-6)
        np.testing.assert_allclose(weight_sum(weights, k), length * np.float64(np.float32(0.7)), rtol=5e-6)
        np.testing.assert_allclose(sum_of_squares(weights, k), length * 0.49, rtol=5e-6)
        events = np.full((1, length // k, k, 2), 0.6, np.float32)
        np.testing.assert_allclose(product(weights, events), length * 0.42, rtol=5e-6)


@pytest.mark.parametrize("shape", [(3, 5, 64), (1, 64, 192), (7, 2, 64)])
def test_one_row_of_weights_for_all_views_is_summed_as_one_of_each(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(14)
    values = rng.uniform(-1, 1, shape).astype(np.float32)
    one = rng.random((shape[0], 1, shape[2])).astype(np.float32)
    each = np.repeat(one, shape[1], axis=1)
    shared = sum_of_products(np.broadcast_to(one, shape), values, BLOCK)
    assert shared.tobytes() == sum_of_products(each, values, BLOCK).tobytes()


@pytest.mark.parametrize("dim", [8, 64, 200])
def test_more_events_that_nobody_sees_change_no_byte(dim: int) -> None:
    rng = np.random.default_rng(13)
    q, v = unit(rng, 2, 5, dim), unit(rng, 2, 320, dim)
    single = rng.random((2, 5, 320)).astype(np.float32)
    single[..., 50:] = 0
    found = []
    for length in (64, 128, 320):
        events, weights = gathered(v[:, :length], BLOCK), single[..., :length]
        made = cosines(q, events)
        made[..., 50:] = 0
        vectors = next(iter(events.blocks()))[1]
        sums = [
            made[..., :64],
            weight_sum(weights, BLOCK),
            sum_of_squares(weights, BLOCK),
            sum_of_products(weights, made, BLOCK),
            sum_of_products(weights[:, :1], made, BLOCK),
            product(weights, vectors),
            to_mean(weights, made, q, events),
        ]
        found.append([each.tobytes() for each in sums])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5, 1.0])
def test_thresholds_are_decided_as_in_exact_arithmetic(threshold: float) -> None:
    # Integer vectors whose cosines are exact fractions, many of them equal to the threshold.
    rng = np.random.default_rng(5)
    raw_q, raw_v = (rng.choice([-1, 0, 1], (4, n, 4), p=[0.3, 0.3, 0.4]) for n in (10, 30))
    raw_q[..., 0], raw_v[..., 0] = 1, 1
    q, v = ((raw / np.linalg.norm(raw, axis=-1, keepdims=True)).astype(np.float32) for raw in (raw_q, raw_v))
    dots = np.einsum("bcd,bhd->bch", raw_q, raw_v)
    squares = (raw_q**2).sum(-1)[:, :, None] * (raw_v**2).sum(-1)[:, None, :]
    # cos >= t without rounding: compare signed squares of integers
    exact = np.sign(dots) * dots**2 * 4 >= np.sign(threshold) * round(4 * threshold**2) * squares
    events = gathered(v)
    made = cosines(q, events)
    before = made.copy()
    decide(made, threshold, q, events)
    assert ((made >= np.float32(threshold)) == exact).all()
    np.testing.assert_allclose(made, before, rtol=0, atol=5e-7)


def test_the_ladder_is_increasing_and_never_pads_much() -> None:
    assert (np.diff(LADDER) > 0).all()
    lengths = np.arange(1, 5000)
    assert (padded(lengths) >= lengths).all()
    assert (padded(lengths[40:]) <= lengths[40:] * 1.15).all()


def test_every_candidate_that_sees_something_is_in_exactly_one_tile() -> None:
    rng = np.random.default_rng(6)
    asked, events = rng.integers(0, 300, 40), rng.integers(0, 90, 40)
    indptr, last = np.r_[0, np.cumsum(asked)], np.cumsum(events)
    seen = np.concatenate([np.sort(rng.integers(0, n + 1, c)) for n, c in zip(events, asked, strict=True)])
    start = np.repeat(last - events, asked)
    times = np.concatenate([np.sort(rng.integers(0, n // 20 + 1, n)) for n in asked])
    ends = start + seen
    made = [make() for make in batches(tiles(indptr, start, ends, events, times), dim=16)]
    found = np.concatenate([b.candidates[b.is_candidate] for b in made])
    assert len(found) == len(set(found.tolist()))
    assert set(np.flatnonzero(seen)) <= set(found.tolist())
    for batch in made:
        C = batch.candidates.shape[1]
        one_time = (times[batch.candidates] == times[batch.candidates[:, :1]]).all(axis=1)
        assert batch.views.shape[1] == (1 if one_time.all() else C)
        assert one_time.all() or not one_time.any()
        users = np.searchsorted(indptr, batch.candidates[:, 0], side="right") - 1
        for row, user in enumerate(users):
            mine = batch.candidates[row][batch.is_candidate[row]]
            own = set(range(last[user] - events[user], ends[mine].max()))
            assert set(batch.events[row][batch.is_event[row]].tolist()) == own


def test_a_long_history_is_gathered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cosines, thresholds and means, near cancellation too, as with all vectors at once."""
    rng = np.random.default_rng(10)
    q, v = unit(rng, 2, 3, 24), unit(rng, 2, 50, 24)
    v[1, 25:] = -v[1, :25] + 1e-4  # cancels
    v[1] /= np.linalg.norm(v[1], axis=-1, keepdims=True)
    v[0, 7] = q[0, 1]
    weights = np.ones((2, 3, 50))
    found = []
    for events_at_a_time in (8192, 16):
        monkeypatch.setattr(cosines_module, "_EVENTS", events_at_a_time)
        events = gathered(v, 2)
        made = cosines(q, events)
        decide(made, 1.0, q, events)
        found.append((made, to_mean(weights, made, q, events)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=0, atol=2e-7)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=2e-6)
    assert found[1][0][0, 1, 7] == 1
