"""Metrics of `extembed evaluate` agree with scikit-learn, ir-measures and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from extembed_cli.evaluate.univariate import drift
from extembed_cli.kernels import metrics

EXACT = 1e-12  # of float64 sums in another order


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw scores (some tied), labels of both classes, users, and weights of users."""
    n = draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    grid = draw(st.sampled_from([2, 5, 10**6]))
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    users = rng.integers(0, draw(st.integers(1, 20)), n)
    weights = rng.integers(0, 4, 20).astype(np.float64)
    weights[users[:2]] = 1
    return rng.integers(0, grid, n) / grid, labels, users, weights


@settings(max_examples=100)
@given(rows())
def test_auc_with_user_weights_agrees_with_scikit_learn(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    scores, labels, users, weights = drawn
    expected = roc_auc_score(labels, scores, sample_weight=weights[users])
    assert metrics.RankedScores(scores, labels, users).auc(weights) == pytest.approx(expected, abs=EXACT)
    assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)


def test_log_loss_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    chances, labels = rng.random(500), rng.random(500) < 0.3
    chances[:2] = 0, 1
    ours = metrics.log_losses(chances, labels).mean()
    assert ours == pytest.approx(log_loss(labels, np.clip(chances, 1e-15, 1 - 1e-15)), rel=1e-9)
    assert np.isfinite(ours)


@pytest.fixture(params=range(5))
def requests(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Provides scores without ties, grades 0 to 3, and requests of 1 to 40 rows, in random order."""
    rng = np.random.default_rng(request.param)
    keys = np.repeat(np.arange(50), rng.integers(1, 41, 50))
    keys = keys[rng.permutation(len(keys))]
    grades = rng.choice([0, 0, 0, 1, 2, 3], len(keys)).astype(np.float64)
    grades[keys == 7] = 0  # a request without a relevant row
    return rng.permutation(len(keys)) / len(keys), grades, keys


def test_metrics_of_requests_agree_with_ir_measures(requests: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import ir_measures
    from ir_measures import RR, nDCG

    scores, grades, keys = requests
    groups = metrics.Groups.of(keys)
    # trec_eval uses gains unchanged, so it gets 2^grade - 1 as the grade.
    gains = 2**grades - 1
    qrels = [ir_measures.Qrel(str(k), str(i), int(g)) for i, (k, g) in enumerate(zip(keys, gains, strict=True))]
    run = [ir_measures.ScoredDoc(str(k), str(i), float(s)) for i, (k, s) in enumerate(zip(keys, scores, strict=True))]
    reference = {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc([nDCG @ 10, RR], qrels, run)}
    ndcgs = metrics.ndcgs(scores, gains, groups)
    ranks = metrics.reciprocal_ranks(scores, grades > 0, groups)
    checked = 0
    for group, (ndcg, rank) in enumerate(zip(ndcgs, ranks, strict=True)):
        relevant = (grades[groups.rows[groups.start[group] : groups.start[group + 1]]] > 0).any()
        assert np.isfinite(ndcg) == np.isfinite(rank) == relevant
        if relevant:
            assert ndcg == pytest.approx(reference[str(group), "nDCG@10"], abs=1e-9)
            assert rank == pytest.approx(reference[str(group), "RR"], abs=1e-9)
            checked += 1
    assert checked > 30


@pytest.mark.few(2)
def test_metrics_of_requests_agree_with_scikit_learn(requests: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
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
    """nDCG agrees with scikit-learn, and the reciprocal rank is the mean over all orders of equal scores."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    scores, grades = rng.integers(0, 3, n) / 2, rng.integers(0, 3, n).astype(np.float64)
    grades[0] = 1
    groups = metrics.Groups.of(np.zeros(n, np.int64))
    ours = metrics.ndcgs(scores, grades, groups, most=3)[0]
    assert ours == pytest.approx(ndcg_score([grades], [scores], k=3), abs=EXACT)
    ranks = []
    for order in itertools.permutations(range(n)):
        ranked = np.array(order)[np.argsort(-scores[list(order)], kind="stable")]
        ranks.append(1 / (1 + np.flatnonzero(grades[ranked] > 0)[0]))
    ours = metrics.reciprocal_ranks(scores, grades > 0, groups)[0]
    assert ours == pytest.approx(np.mean(ranks), abs=EXACT)


def test_drift_is_the_kolmogorov_smirnov_distance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(300).astype(np.float32), (rng.standard_normal(200) + 0.4).astype(np.float32)
    a[:5] = b[:9] = 0.25  # ties
    expected = stats.ks_2samp(a, b).statistic
    result = drift(np.append(a, np.float32(np.nan)), b)
    assert result == pytest.approx(expected, abs=EXACT)
    assert drift(a, a) == 0
    assert drift(a, np.full(3, np.nan, np.float32)) is None
