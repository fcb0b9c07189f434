"""Sums along steps of time, against loops over the events."""

from __future__ import annotations

import numpy as np

from extembed_cli.kernels.step_sums import StepSums, solve_step, variances_of_step

DIM, STEPS = 6, 5


def test_decayed_sums_are_those_over_all_events() -> None:
    rng = np.random.default_rng(0)
    rows, weights, targets = rng.standard_normal((40, DIM)), rng.random(40), rng.standard_normal(40)
    step = np.sort(rng.integers(0, STEPS, 40))
    sums = StepSums(np.zeros((DIM, DIM)), np.zeros(DIM), 0)
    for each in range(STEPS):
        at = step == each
        new = StepSums.of(rows[at], weights[at], weights[at] * targets[at], int(at.sum()))
        sums = sums.decayed(0.7).plus(new)
    c = weights * 0.7 ** (STEPS - 1 - step)
    matrix, right = np.zeros((DIM, DIM)), np.zeros(DIM)
    for x, weight, y in zip(rows, c, targets, strict=True):
        matrix += weight * np.outer(x, x)
        right += weight * y * x
    np.testing.assert_allclose(sums.matrix, matrix, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sums.right, right, rtol=1e-12, atol=1e-12)
    assert sums.events == 40
    prior = 2.0 * np.eye(DIM)
    vector, residual = solve_step(sums, prior)
    np.testing.assert_allclose(vector, np.linalg.inv(matrix + prior) @ right, rtol=1e-10)
    assert residual < 1e-14
    variances = variances_of_step(sums, prior, rows)
    expected = [x @ np.linalg.inv(matrix + prior) @ x for x in rows]
    np.testing.assert_allclose(variances, expected, rtol=1e-10)


def test_events_of_weight_0_count_as_events_alone() -> None:
    sums = StepSums.of(np.ones((3, DIM)), np.zeros(3), np.zeros(3), 7)
    assert not sums.matrix.any()
    assert sums.events == 7
    vector, residual = solve_step(sums, np.eye(DIM))
    assert not vector.any()
    assert residual == 0
