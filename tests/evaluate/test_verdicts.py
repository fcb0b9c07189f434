"""Verdicts follow from intervals, and intervals hold the true value as often as they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from extembed_cli.evaluate.bootstrap import Interval, UserBootstrap, mean_over_seeds
from extembed_cli.evaluate.ladder import verdict
from extembed_cli.evaluate.rough import rough_range
from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.univariate import clustered_auc
from extembed_cli.evaluate.verdicts import Verdict
from extembed_cli.kernels import metrics

CASES = {
    "sure": ((0.02, 0.01, 0.03), (0.02, 0.01, 0.03), "keep"),
    "sure, but below the minimum gain": ((0.0005, 0.0002, 0.0008), (0.001, 0.0005, 0.002), "not worth it"),
    "harm": ((-0.02, -0.03, -0.01), (-0.02, -0.03, -0.01), "not worth it"),
    "wide": ((0.01, -0.01, 0.03), (0.01, -0.01, 0.03), "cannot tell"),
    "wide around nothing": ((0.0, -0.01, 0.01), (0.0, -0.01, 0.01), "cannot tell"),
    "no better than permuted": ((0.01, 0.005, 0.015), (-0.001, -0.006, 0.004), "cannot tell"),
    "unsure over permuted": ((0.01, 0.005, 0.015), (0.004, -0.001, 0.009), "cannot tell"),
    "a little below the minimum gain": ((0.0009, 0.0004, 0.0014), (0.001, 0.0002, 0.002), "cannot tell"),
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case: str) -> None:
    gain, over, word = CASES[case]
    result = verdict(Interval(*gain), Interval(*over), 10_000, 100, Settings())
    assert result.word == word
    assert (result.more_rows is None) == (word != "cannot tell" or case == "no better than permuted")
    if case.endswith("permuted"):
        assert "over its columns permuted" in result.reason
    assert verdict(Interval(*gain), Interval(*over), 10_000, 5, Settings()).word == "cannot tell"


@settings(max_examples=100)
@given(st.floats(-0.02, 0.05), st.floats(1e-5, 0.05), st.floats(1e-5, 0.05), st.sampled_from([0.0, 0.001, 0.01]))
def test_the_reported_number_of_rows_decides(value: float, low: float, high: float, least: float) -> None:
    def at(rows: int) -> Verdict:
        shrink = (10_000 / rows) ** 0.5
        gain = Interval(value, value - low * shrink, value + high * shrink)
        return verdict(gain, gain, rows, 100, Settings(min_gain=least))

    result = at(10_000)
    if result.more_rows is not None:
        assert result.word == "cannot tell"
        assert at(10_000 + result.more_rows[1]).word != "cannot tell"


@pytest.mark.parametrize(
    ("estimate", "low", "high"),
    [
        (20_000, 10_000, 40_000),
        (22_000, 10_000, 40_000),
        (12_000, 6_000, 20_000),
        (900, 400, 2_000),
        (400_000, 200_000, 800_000),
        (600_000, 300_000, 1_000_000),
        (0.2, 1, 2),
        (3e13, 20_000_000_000_000, 60_000_000_000_000),
    ],
)
def test_a_rough_range(estimate: float, low: int, high: int) -> None:
    assert rough_range(estimate) == (low, high)


@given(st.floats(1, 1e14))
def test_a_rough_range_holds_the_estimate(estimate: float) -> None:
    low, high = rough_range(estimate)
    assert low <= estimate * 1.001 <= high * 1.001
    assert high <= 10 * low
    assert all(set(str(bound)[1:]) <= {"0"} for bound in (low, high))


def test_a_reason_says_how_to_get_an_answer() -> None:
    wide = Interval(0.01, -0.01, 0.03)
    assert verdict(wide, wide, 10_000, 100, Settings()).reason == (
        "adds +0.0100, between -0.0100 and +0.0300; to tell would take roughly 20,000 to 60,000 more test rows: "
        "add labelled candidates, or test on a longer span (--test-fraction)"
    )
    assert "test rows: raise --max-rows, add" in verdict(wide, wide, 10_000, 100, Settings(max_rows=50_000)).reason
    assert verdict(wide, wide, 10_000, 1, Settings()).reason.startswith(
        "the test rows have 1 user; at least 10 are needed: add labelled candidates of more users"
    )
    assert "change the features" in verdict(wide, Interval(-1, -2, 0), 10_000, 100, Settings()).reason


def clustered(rng: np.random.Generator, users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, labels and users. Rows of one user are alike: a shift per user is in scores and labels."""
    sizes = rng.integers(5, 30, users)
    owner = np.repeat(np.arange(users), sizes)
    shift = rng.standard_normal(users)[owner]
    labels = rng.random(len(owner)) < 1 / (1 + np.exp(-shift))
    return rng.standard_normal(len(owner)) + 0.8 * labels + 0.7 * shift, labels, owner


@pytest.mark.soak
def test_intervals_hold_the_true_auc_19_times_of_20() -> None:
    trials = 200
    """The bootstrap and the closed form do, on samples of 80 users. A bootstrap over rows does far less often."""
    truth = metrics.auc(*clustered(np.random.default_rng(0), 200_000)[:2])
    held = {"bootstrap": 0, "closed form": 0, "rows": 0}
    for trial in range(trials):
        scores, labels, owner = clustered(np.random.default_rng(trial + 1), 80)
        value = metrics.auc(scores, labels)
        for name, users in {"bootstrap": owner, "rows": np.arange(len(owner))}.items():
            drawn = UserBootstrap(users, 200, trial)
            samples = drawn.samples(metrics.RankedScores(scores, labels, drawn.of_row).auc)
            interval = Interval.of(value, samples)
            held[name] += interval.low <= truth <= interval.high
        closed = clustered_auc(scores.astype(np.float32), labels, owner)
        assert closed is not None
        assert closed.value == pytest.approx(value, abs=1e-4)
        held["closed form"] += closed.low <= truth <= closed.high
    low, high = stats.binom.interval(0.998, trials, 0.95)
    assert low <= held["bootstrap"] <= high, held
    assert low <= held["closed form"] <= high, held
    assert held["rows"] < held["bootstrap"] - 0.04 * trials, held


def test_a_difference_of_two_scores_of_the_same_rows_has_a_narrow_interval() -> None:
    """Resamples are paired, so the difference of two similar scores is more certain than each score."""
    scores, labels, owner = clustered(np.random.default_rng(3), 60)
    other = scores + 0.01 * np.random.default_rng(4).standard_normal(len(scores))
    users = UserBootstrap(owner, 500, 0)
    one, two = (users.samples(metrics.RankedScores(s, labels, users.of_row).auc) for s in (scores, other))
    alone, difference = Interval.of(0, one), Interval.of(0, one - two)
    assert difference.half_width < alone.half_width / 20


def test_resampled_means_are_of_whole_users() -> None:
    values = np.array([1.0, 1.0, 1.0, 5.0, np.nan])
    users = UserBootstrap(np.array([4, 4, 4, 9, 9]), 400, 0)
    means = users.means(values)
    # Each resample draws two users: the first twice, the second twice, or both.
    assert set(np.round(means, 6)) == {1.0, 2.0, 5.0}


@given(st.integers(1, 5), st.integers(0, 1000))
def test_means_over_seeds_are_paired_and_keep_their_mean(seeds: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal((seeds, 2000))
    shifted = samples + 0.5
    one, two = mean_over_seeds(samples, seed), mean_over_seeds(shifted, seed)
    np.testing.assert_allclose(two - one, 0.5, atol=1e-12)
    assert one.mean() == pytest.approx(samples.mean(), abs=0.15)
