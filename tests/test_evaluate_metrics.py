"""Metrics of `extembed evaluate` against scikit-learn and ir-measures; intervals by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from extembed_cli.evaluate.bootstrap import Interval, Users, mean_over_seeds
from extembed_cli.evaluate.ladder import Verdict, verdict
from extembed_cli.evaluate.single import clustered_auc, drift
from extembed_cli.kernels import metrics

EXACT = 1e-12  # sums of float64 in another order


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores (some tied), labels of both classes, users, and weights of users."""
    n = draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    grid = draw(st.sampled_from([2, 5, 10**6]))
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    users = rng.integers(0, draw(st.integers(1, 20)), n)
    weights = rng.integers(0, 4, 20).astype(np.float64)
    weights[users[:2]] = 1
    return rng.integers(0, grid, n) / grid, labels, users, weights


@given(rows())
def test_auc_with_weights_of_users_is_scikit_learns(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, labels, users, weights = drawn
    expected = roc_auc_score(labels, scores, sample_weight=weights[users])
    assert metrics.RankedScores(scores, labels, users).auc(weights) == pytest.approx(expected, abs=EXACT)
    assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([True, True])))


def test_log_loss_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    chances, labels = rng.random(500), rng.random(500) < 0.3
    chances[:2] = 0, 1
    ours = metrics.log_losses(chances, labels).mean()
    assert ours == pytest.approx(log_loss(labels, np.clip(chances, 1e-15, 1 - 1e-15)), rel=1e-9)
    assert np.isfinite(ours)


@pytest.fixture(params=range(5))
def requests(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, grades 0 to 3 and requests of 1 to 40 rows in no order, without ties in scores."""
    rng = np.random.default_rng(request.param)
    keys = np.repeat(np.arange(50), rng.integers(1, 41, 50))
    keys = keys[rng.permutation(len(keys))]
    grades = rng.choice([0, 0, 0, 1, 2, 3], len(keys)).astype(np.float64)
    grades[keys == 7] = 0  # a request without anything relevant
    return rng.permutation(len(keys)) / len(keys), grades, keys


def test_metrics_of_requests_are_those_of_ir_measures(requests: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import ir_measures
    from ir_measures import RR, nDCG

    scores, grades, keys = requests
    groups = metrics.Groups.of(keys)
    # trec_eval takes gains as they are: 2^grade - 1 is given to it as the grade.
    gains = 2**grades - 1
    qrels = [ir_measures.Qrel(str(k), str(i), int(g)) for i, (k, g) in enumerate(zip(keys, gains, strict=True))]
    run = [ir_measures.ScoredDoc(str(k), str(i), float(s)) for i, (k, s) in enumerate(zip(keys, scores, strict=True))]
    found = {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc([nDCG @ 10, RR], qrels, run)}
    ndcgs = metrics.ndcgs(scores, gains, groups)
    ranks = metrics.reciprocal_ranks(scores, grades > 0, groups)
    checked = 0
    for group, (ndcg, rank) in enumerate(zip(ndcgs, ranks, strict=True)):
        relevant = (grades[groups.rows[groups.start[group] : groups.start[group + 1]]] > 0).any()
        assert np.isfinite(ndcg) == np.isfinite(rank) == relevant
        if relevant:
            assert ndcg == pytest.approx(found[str(group), "nDCG@10"], abs=1e-9)
            assert rank == pytest.approx(found[str(group), "RR"], abs=1e-9)
            checked += 1
    assert checked > 30


def test_metrics_of_requests_are_those_of_scikit_learn(requests: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, grades, keys = requests
    groups = metrics.Groups.of(keys)
    aucs = metrics.group_aucs(scores, grades > 0, groups)
    ndcgs = metrics.ndcgs(scores, grades, groups)
    for group in range(50):
        mine = keys == group
        if len(np.unique(grades[mine] > 0)) < 2:
            assert np.isnan(aucs[group])
            continue
        assert aucs[group] == pytest.approx(roc_auc_score(grades[mine] > 0, scores[mine]), abs=EXACT)
        if mine.sum() > 1:
            assert ndcgs[group] == pytest.approx(ndcg_score([grades[mine]], [scores[mine]], k=10), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_ties_share_their_places(seed: int) -> None:
    """nDCG as scikit-learn has it; the reciprocal rank as the mean over all orders of equal scores."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    scores, grades = rng.integers(0, 3, n) / 2, rng.integers(0, 3, n).astype(np.float64)
    grades[0] = 1
    groups = metrics.Groups.of(np.zeros(n, np.int64))
    ours = metrics.ndcgs(scores, grades, groups, most=3)[0]
    assert ours == pytest.approx(ndcg_score([grades], [scores], k=3), abs=EXACT)
    found = []
    for order in itertools.permutations(range(n)):
        ranked = np.array(order)[np.argsort(-scores[list(order)], kind="stable")]
        found.append(1 / (1 + np.flatnonzero(grades[ranked] > 0)[0]))
    ours = metrics.reciprocal_ranks(scores, grades > 0, groups)[0]
    assert ours == pytest.approx(np.mean(found), abs=EXACT)


# --- verdicts ----------------------------------------------------------------------------------------


CASES = {
    "sure": ((0.02, 0.01, 0.03), (0.02, 0.01, 0.03), "keep"),
    "sure, but smaller than asked for": ((0.0005, 0.0002, 0.0008), (0.001, 0.0005, 0.002), "not worth it"),
    "harm": ((-0.02, -0.03, -0.01), (-0.02, -0.03, -0.01), "not worth it"),
    "wide": ((0.01, -0.01, 0.03), (0.01, -0.01, 0.03), "cannot tell"),
    "wide around nothing": ((0.0, -0.01, 0.01), (0.0, -0.01, 0.01), "cannot tell"),
    "no better than permuted": ((0.01, 0.005, 0.015), (-0.001, -0.006, 0.004), "cannot tell"),
    "unsure over permuted": ((0.01, 0.005, 0.015), (0.004, -0.001, 0.009), "cannot tell"),
    "a little below what is asked for": ((0.0009, 0.0004, 0.0014), (0.001, 0.0002, 0.002), "cannot tell"),
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case: str) -> None:
    gain, over, word = CASES[case]
    told = verdict(Interval(*gain), Interval(*over), 10_000, 100, 0.001)
    assert told.word == word
    assert (told.more_rows is None) == (word != "cannot tell" or case == "no better than permuted")
    if case.endswith("permuted"):
        assert "over its columns permuted" in told.reason
    assert verdict(Interval(*gain), Interval(*over), 10_000, 5, 0.001).word == "cannot tell"


@given(st.floats(-0.02, 0.05), st.floats(1e-5, 0.05), st.floats(1e-5, 0.05), st.sampled_from([0.0, 0.001, 0.01]))
def test_as_many_rows_as_are_told_do_decide(value: float, low: float, high: float, least: float) -> None:
    def at(rows: int) -> Verdict:
        shrink = (10_000 / rows) ** 0.5
        gain = Interval(value, value - low * shrink, value + high * shrink)
        return verdict(gain, gain, rows, 100, least)

    told = at(10_000)
    if told.more_rows is not None:
        assert told.word == "cannot tell"
        assert at(10_000 + told.more_rows).word != "cannot tell"


def test_ties_inside_a_request_count_half_in_its_auc() -> None:
    groups = metrics.Groups.of(np.array([0, 0, 1, 1, 1]))
    aucs = metrics.group_aucs(np.array([1.0, 1.0, 3.0, 3.0, 1.0]), np.array([True, False, True, False, False]), groups)
    assert aucs.tolist() == [0.5, 0.75]


# --- intervals ---------------------------------------------------------------------------------------


def clustered(rng: np.random.Generator, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and labels whose rows of one user are alike: a shift of the user in both."""
    sizes = rng.integers(5, 30, users)
    owner = np.repeat(np.arange(users), sizes)
    shift = rng.standard_normal(users)[owner]
    labels = rng.random(len(owner)) < 1 / (1 + np.exp(-shift))
    return rng.standard_normal(len(owner)) + 0.8 * labels + 0.7 * shift, labels, owner


def test_intervals_hold_the_true_auc_19_times_of_20() -> None:
    """Both ways to an interval, on 200 samples of 80 users; a row-wise bootstrap would hold it far less often."""
    truth = metrics.auc(*clustered(np.random.default_rng(0), 200_000)[:2])
    held = {"bootstrap": 0, "closed form": 0, "rows": 0}
    for trial in range(200):
        scores, labels, owner = clustered(np.random.default_rng(trial + 1), 80)
        value = metrics.auc(scores, labels)
        for name, users in {"bootstrap": owner, "rows": np.arange(len(owner))}.items():
            drawn = Users(users, 200, trial)
            samples = drawn.samples(metrics.RankedScores(scores, labels, drawn.of_row).auc)
            interval = Interval.of(value, samples)
            held[name] += interval.low <= truth <= interval.high
        closed = clustered_auc(scores.astype(np.float32), labels, owner)
        assert closed is not None
        assert closed.value == pytest.approx(value, abs=1e-4)
        held["closed form"] += closed.low <= truth <= closed.high
    # 190 of 200 are to be expected, and 180 to 198 by chance (binomial, 99.8 %).
    assert 180 <= held["bootstrap"] <= 198, held
    assert 180 <= held["closed form"] <= 198, held
    assert held["rows"] < held["bootstrap"] - 8, held


def test_a_difference_of_two_scores_of_the_same_rows_has_a_narrow_interval() -> None:
    """Paired resamples: two nearly equal scores differ by little, however uncertain each of them is."""
    scores, labels, owner = clustered(np.random.default_rng(3), 60)
    other = scores + 0.01 * np.random.default_rng(4).standard_normal(len(scores))
    users = Users(owner, 500, 0)
    one, two = (users.samples(metrics.RankedScores(s, labels, users.of_row).auc) for s in (scores, other))
    alone, difference = Interval.of(0, one), Interval.of(0, one - two)
    assert difference.half_width < alone.half_width / 20


def test_resampled_means_are_of_whole_users() -> None:
    values = np.array([1.0, 1.0, 1.0, 5.0, np.nan])
    users = Users(np.array([4, 4, 4, 9, 9]), 400, 0)
    means = users.means(values)
    # Two users are drawn: twice the first, twice the second, or both.
    assert set(np.round(means, 6)) == {1.0, 2.0, 5.0}


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_means_over_seeds_are_paired_and_keep_their_mean(seeds: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal((seeds, 2000))
    shifted = samples + 0.5
    one, two = mean_over_seeds(samples, seed), mean_over_seeds(shifted, seed)
    np.testing.assert_allclose(two - one, 0.5, atol=1e-12)
    assert one.mean() == pytest.approx(samples.mean(), abs=0.15)


def test_drift_is_the_kolmogorov_smirnov_distance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(300).astype(np.float32), (rng.standard_normal(200) + 0.4).astype(np.float32)
    a[:5] = b[:9] = 0.25  # ties
    expected = stats.ks_2samp(a, b).statistic
    found = drift(np.append(a, np.float32(np.nan)), b)
    assert found == pytest.approx(expected, abs=EXACT)
    assert drift(a, a) == 0
    assert drift(a, np.full(3, np.nan, np.float32)) is None
