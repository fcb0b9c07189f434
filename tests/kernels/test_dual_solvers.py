"""The solvers of the dual fit on ill-conditioned systems: both forms, every prefix, Newton, and equal bits."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import soak

from extembed_cli.kernels import prefix_form
from extembed_cli.kernels.prefix_form import PrefixForm
from extembed_cli.kernels.prefixes import BLOCK, MOST_DECAY, solve_prefixes
from extembed_cli.kernels.ridge import DualForm, Form, PrimalForm, RunningSums, kernels, solve_logistic, solve_squared


def systems(B: int, H: int, d: int, seed: int = 0, spread: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows with repeats, confidences over `spread` orders of magnitude with some zeros, and targets."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((B, H, d))
    rows[:, H // 2 :] = rows[:, : H - H // 2]
    confidences = 10.0 ** rng.uniform(-spread, spread, (B, H)) * (rng.random((B, H)) > 0.2)
    return rows, confidences, rng.standard_normal((B, H))


def forms(rows: np.ndarray) -> list[Form]:
    return [DualForm.of(rows), PrimalForm.of(lambda at: rows[:, at], rows.shape[1], rows.shape[2])]


@pytest.mark.parametrize(("B", "H", "d"), [(1, 1, 1), (3, 5, 20), (7, 7, 7), (4, 30, 6)])
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_both_forms_solve_the_normal_equations(B: int, H: int, d: int, spread: float) -> None:
    rows, c, y = systems(B, H, d, spread=spread)
    x = np.random.default_rng(1).standard_normal((B, 3, d))
    matrix = np.eye(d) + np.einsum("bhd,bh,bhe->bde", rows, c, rows)
    expected = np.linalg.solve(matrix, np.einsum("bhd,bh->bd", rows, c * y)[..., None])[..., 0]
    variance = np.einsum("bcd,bde,bce->bc", x, np.linalg.inv(matrix), x)
    for form in forms(rows):
        solved = solve_squared(form, c, y)
        np.testing.assert_allclose(form.vectors(solved.unknowns), expected, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(np.stack(form.variances(solved.weights, list(x))), variance, rtol=1e-7, atol=1e-7)
        assert solved.error.max() < 1e-8


@pytest.mark.parametrize(("H", "d"), [(1, 1), (6, 30), (30, 6)])
@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("stretch", [1.0, 0.01])
def test_newton_reaches_the_gradient_on_separable_and_lopsided_data(
    H: int, d: int, spread: float, stretch: float
) -> None:
    """Long rows have the effect of a small regularization."""
    rows, c, y = systems(5, H, d, spread=spread)
    rows /= stretch
    positive = (y > 0).astype(float)
    positive[0] = 1
    solutions = []
    for form in forms(rows):
        solved = solve_logistic(form, c, positive, np.ones(5))
        u = form.vectors(solved.unknowns)
        share = 1 / (1 + np.exp(-np.einsum("bhd,bd->bh", rows, u)))
        gradient = u - np.einsum("bhd,bh->bd", rows, c * (positive - share))
        # Computed from u, the gradient is only as exact as the rounding of its largest terms.
        rounding = 1e-10 * (c * np.linalg.norm(rows, axis=2)).sum(axis=1)
        assert (np.linalg.norm(gradient, axis=1) <= np.maximum(1e-6, rounding)).all()
        assert (solved.error <= np.maximum(1e-6, rounding)).all()
        solutions.append(u)
    np.testing.assert_allclose(*solutions, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_other_systems_of_a_batch_change_no_bit(loss: str) -> None:
    rows, c, y = systems(6, 9, 12, spread=2.0)
    positive, scale = (y > 0).astype(float), np.ones(6)
    for whole, alone in zip(forms(rows), forms(rows[2:3]), strict=True):
        if loss == "squared":
            together, single = solve_squared(whole, c, y), solve_squared(alone, c[2:3], y[2:3])
        else:
            together = solve_logistic(whole, c, positive, scale)
            single = solve_logistic(alone, c[2:3], positive[2:3], scale[2:3])
        assert together.unknowns[2].tobytes() == single.unknowns[0].tobytes()


def prefixes(rows: np.ndarray, c: np.ndarray, y: np.ndarray, x: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, ...]:
    return solve_prefixes(rows, rows.transpose(0, 2, 1), x.transpose(0, 2, 1), c, y, ends)


@pytest.mark.parametrize("d", [3, 50])
def test_every_prefix_is_the_fit_on_it(d: int) -> None:
    H = 3 * BLOCK
    rows, c, y = systems(2, H, d, spread=1.0)
    x = np.random.default_rng(2).standard_normal((2, H, d))
    ends = np.tile(np.arange(1, H + 1), (2, 1))
    score, explained, residual = prefixes(rows, c, y, x, ends)
    assert residual.max() < 1e-12
    for n in range(1, H + 1):
        form = DualForm.of(rows[:, :n])
        solved = solve_squared(form, c[:, :n], y[:, :n])
        at = x[:, n - 1 : n]
        np.testing.assert_allclose(score[:, n - 1], (at[:, 0] * form.vectors(solved.unknowns)).sum(1), atol=1e-9)
        variance = (at**2).sum(2)[:, 0] - explained[:, n - 1]
        np.testing.assert_allclose(variance, np.stack(form.variances(solved.weights, list(at)))[:, 0], atol=1e-9)


@pytest.mark.parametrize("cut", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_later_events_change_no_bit_of_earlier_prefixes(cut: int) -> None:
    rows, c, y = systems(2, 3 * BLOCK, 10, spread=1.0)
    x = np.random.default_rng(3).standard_normal((2, 8, 10))
    ends = np.minimum(np.tile(np.arange(1, 9) * 12, (2, 1)), cut)
    before = prefixes(rows, c, y, x, ends)
    others, more, targets = systems(2, 3 * BLOCK, 10, seed=9, spread=3.0)
    rows[:, cut:], c[:, cut:], y[:, cut:] = others[:, cut:], more[:, cut:], targets[:, cut:]
    after = prefixes(rows, c, y, x, ends)
    shorter = max(BLOCK, -(-cut // BLOCK) * BLOCK)
    without = prefixes(rows[:, :shorter], c[:, :shorter], y[:, :shorter], x, ends)
    for k in range(2):
        assert before[k].tobytes() == after[k].tobytes() == without[k].tobytes()


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_one_factor_serves_as_of_times_with_uniform_decay(strength: float) -> None:
    """Each as-of time is compared with a system of its own. Confidences decay by up to a thousandth."""
    H, d = 3 * BLOCK, 20
    rows, c, y = systems(2, H, d, spread=1.0)
    rows *= np.sqrt(strength)
    x = np.random.default_rng(5).standard_normal((2, H, d))
    ends = np.tile(np.arange(1, H + 1), (2, 1))
    growth = np.tile(np.linspace(0, MOST_DECAY, H), (2, 1))
    result = solve_prefixes(rows, rows.transpose(0, 2, 1), x.transpose(0, 2, 1), c, y, ends, growth)
    variance = np.einsum("bcd,bcd->bc", x, x) - result.explained
    for n in (1, 7, BLOCK, BLOCK + 1, H):
        form, at = DualForm.of(rows[:, :n]), x[:, n - 1 : n]
        solved = solve_squared(form, c[:, :n] / (1 + growth[:, n - 1 : n]), y[:, :n])
        exact = np.einsum("bcd,bd->bc", at, form.vectors(solved.unknowns))[:, 0]
        sd = np.sqrt(np.einsum("bcd,bcd->bc", at, at)[:, 0])
        assert (np.abs(result.score[:, n - 1] - exact) <= 1e-8 * sd * np.sqrt(H)).all()
        exact = np.stack(form.variances(solved.weights, list(at)))[:, 0]
        np.testing.assert_allclose(variance[:, n - 1], exact, rtol=1e-7)


@pytest.mark.parametrize(("d", "stretch"), [(3, 1.0), (50, 1.0), soak(50, 0.03)])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_newton_steps_that_share_a_factor_reach_the_same_fits(d: int, stretch: float, spread: float) -> None:
    """Each prefix is compared with a system of its own. Confidences decay by up to a half."""
    H, A = 3 * BLOCK, 7
    rows, c, y = systems(2, H, d, spread=spread)
    rows /= stretch
    ends = np.tile(np.linspace(1, H, A).astype(int), (2, 1))
    decay = np.linspace(1, 0.5, A)
    form = PrefixForm.of(rows, c, ends)
    positive = np.repeat((y > 0).astype(float), A, axis=0)
    inside = np.arange(H) < ends.reshape(-1, 1)
    confidences = np.repeat(c, A, axis=0) * np.tile(decay, 2)[:, None] * inside
    x = [np.random.default_rng(4).standard_normal((2, d))] * (2 * A)
    result = solve_logistic(form, confidences, positive, np.ones(2 * A))
    vectors, variances = form.vectors(result.unknowns), form.variances(result.weights, x)
    for system, n in enumerate(ends.ravel()):
        alone = DualForm.of(rows[system // A, None, :n])
        solved = solve_logistic(alone, confidences[None, system, :n], positive[None, system, :n], np.ones(1))
        rounding = 1e-10 * (c[system // A] * np.linalg.norm(rows[system // A], axis=1)).sum()
        assert result.error[system] <= max(1e-6, rounding)
        np.testing.assert_allclose(vectors[system], alone.vectors(solved.unknowns)[0], atol=1e-6)
        np.testing.assert_allclose(variances[system], alone.variances(solved.weights, x[:1])[0], rtol=1e-5)


def test_systems_that_do_not_converge_on_a_shared_factor_are_solved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, c, y = systems(1, BLOCK, 4)
    ends = np.array([[5, BLOCK]])
    confidences = np.repeat(c, 2, axis=0) * (np.arange(BLOCK) < ends.T)
    positive = np.repeat((y > 0).astype(float), 2, axis=0)
    expected = solve_logistic(PrefixForm.of(rows, c, ends), confidences, positive, np.ones(2))
    monkeypatch.setattr(prefix_form, "_STEPS", 1)
    result = solve_logistic(PrefixForm.of(rows, c, ends), confidences, positive, np.ones(2))
    assert result.error.max() <= 1e-8
    np.testing.assert_allclose(result.unknowns, expected.unknowns, atol=1e-8)


@pytest.mark.parametrize("cut", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_later_events_and_other_prefixes_change_no_bit_of_a_logistic_fit(cut: int) -> None:
    rows, c, y = systems(2, 3 * BLOCK, 10)
    ends = np.tile([1, (cut + 1) // 2, cut, 3 * BLOCK], (2, 1))

    def fitted(rows: np.ndarray, c: np.ndarray, y: np.ndarray, ends: np.ndarray) -> np.ndarray:
        inside = np.arange(rows.shape[1]) < ends.reshape(-1, 1)
        form = PrefixForm.of(rows, c, ends).take(np.flatnonzero(ends))
        some = np.flatnonzero(ends)
        confidences, positive = (np.repeat(values, 4, axis=0)[some] for values in (c, (y > 0).astype(float)))
        solved = solve_logistic(form, confidences * inside[some], positive, np.ones(len(some)))
        vectors = np.zeros((ends.size, 10))
        vectors[some] = form.vectors(solved.unknowns)
        return vectors.reshape(2, 4, 10)[:, :3]

    before = fitted(rows, c, y, ends)
    others, more, targets = systems(2, 3 * BLOCK, 10, seed=9, spread=2.0)
    rows[:, cut:], c[:, cut:], y[:, cut:] = others[:, cut:], more[:, cut:], targets[:, cut:]
    assert fitted(rows, c, y, ends).tobytes() == before.tobytes()
    shorter = max(BLOCK, -(-cut // BLOCK) * BLOCK)
    alone = fitted(rows[:, :shorter], c[:, :shorter], y[:, :shorter], np.where(ends > cut, 0, ends))
    assert alone.tobytes() == before.tobytes()


def test_kernels_in_blocks_are_products_and_later_events_change_no_bit() -> None:
    rows = np.random.default_rng(6).standard_normal((3, 4 * BLOCK, 50))
    result = kernels(rows, BLOCK)
    np.testing.assert_allclose(result, rows @ rows.transpose(0, 2, 1), atol=1e-12)
    for length in (BLOCK, 3 * BLOCK):
        assert kernels(rows[:, :length], BLOCK).tobytes() == result[:, :length, :length].tobytes()


def test_padding_changes_no_solution() -> None:
    rows, c, y = systems(4, 12, 30)
    plain = DualForm.of(rows)
    kernel = np.zeros((4, 16, 16))
    kernel[:, :12, :12] = plain.kernel
    more = DualForm(kernel, list(rows))
    c_more, y_more = (np.pad(values, ((0, 0), (0, 4))) for values in (c, y))
    one, other = solve_squared(plain, c, y), solve_squared(more, c_more, y_more)
    np.testing.assert_allclose(more.vectors(other.unknowns), plain.vectors(one.unknowns), atol=1e-12)
    positive = (y > 0).astype(float)
    one = solve_logistic(plain, c, positive, np.ones(4))
    other = solve_logistic(more, c_more, np.pad(positive, ((0, 0), (0, 4))), np.ones(4))
    np.testing.assert_allclose(more.vectors(other.unknowns), plain.vectors(one.unknowns), atol=1e-7)


@pytest.mark.parametrize("gap", [0.0, 0.1, 300.0])
def test_running_sums_are_those_of_all_events(gap: float) -> None:
    """Times are in half-lives. After 300 of them nothing is left of earlier events."""
    rng = np.random.default_rng(7)
    rows, weights, targets = rng.standard_normal((40, 6)), rng.uniform(0.1, 5, 40), rng.standard_normal(40)
    times = np.cumsum(rng.random(40)) * gap
    running = RunningSums(6)
    for low in (0, 16):
        at = slice(low, low + 16)
        running.add(rows[at], weights[at], targets[at], times[at])
    now = times[-1] + gap / 3
    matrix, right = running.at(now, rows[32:], weights[32:], targets[32:], times[32:])
    c = weights * 2.0 ** (times - now)
    np.testing.assert_allclose(matrix, np.einsum("hd,h,he->de", rows, c, rows), atol=1e-12)
    np.testing.assert_allclose(right, (c * targets) @ rows, atol=1e-12)
