"""Dual fits agree with the exact solver of `implicit`, and Ridge and LogisticRegression of scikit-learn."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conftest import World, run_spec, soak, timestamps, vectors
from implicit.cpu._als import least_squares
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

RELATIVE = 1e-4
START = 1_700_000_000_000_000
HOUR = 3_600_000_000


def write(world: World, dim: int, users: int = 40, items: int = 60, longest: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Write a log without repeated items, and unit vectors. Return the users and items of the log."""
    rng = np.random.default_rng(dim)
    counts = rng.integers(1, longest, users)
    user = np.repeat(np.arange(users), counts)
    item = np.concatenate([rng.choice(items, count, replace=False) for count in counts])
    world.write(
        "interactions",
        {
            "user_id": user,
            "item_id": item,
            "timestamp": timestamps(START + rng.integers(0, 1000, len(user)) * HOUR),
            "rating": rng.integers(1, 6, len(user)),
        },
    )
    raw = rng.standard_normal((items, dim)) + 0.3
    world.write("text", {"item_id": np.arange(items), "embedding": vectors(raw)})
    late = timestamps(np.full(users, START + 2000 * HOUR))
    world.write(
        "candidates", {"user_id": np.arange(users), "item_id": rng.integers(0, items, users), "timestamp": late}
    )
    return user, item


def unit(world: World) -> np.ndarray:
    raw = np.array(world.table("text")["embedding"].to_pylist())
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


@pytest.mark.parametrize("alpha", [1.5, 3.0, 40.0])
@pytest.mark.parametrize("dim", [8, 64])
@pytest.mark.few(3)
def test_user_vectors_agree_with_exact_implicit(world: World, dim: int, alpha: float) -> None:
    """Confidence α for events and 1 for all other items is weight α - 1, target α / (α - 1), unobserved weight 1."""
    user, item = write(world, dim)
    text = f"""interactions = "interactions.parquet"\nweight = "{alpha - 1}"\n[embeddings.text]\npath = "text.parquet"
[[dual]]\ntarget = "{alpha / (alpha - 1)!r}"\nunobserved_weight = 1\nregularization = 0.7\nuser_vectors = "u.parquet"
"""
    run_job(load_spec(world.spec(text)), RunOptions(workers=2), Watch())
    ours = pl.read_parquet(world.folder / "u.parquet")
    confidences = csr_matrix((np.full(len(user), alpha, np.float32), (user, item)), (40, 60))
    theirs = np.zeros((40, dim), np.float32)
    with threadpool_limits(1, "blas"):
        least_squares(confidences, theirs, unit(world).astype(np.float32), 0.7, num_threads=1)
    assert ours["user_id"].to_list() == list(range(40))
    difference = np.linalg.norm(ours["embedding"].to_numpy() - theirs, axis=1)
    assert (difference <= RELATIVE * np.linalg.norm(theirs, axis=1)).all()


@pytest.mark.parametrize("dim", [5, 80])
@pytest.mark.parametrize("strength", [soak(0.1), 4.0])
def test_scores_agree_with_ridge(world: World, dim: int, strength: float) -> None:
    write(world, dim)
    keys = f'target = "rating - 3"\nregularization = {strength}'
    output = run_spec(world.spec(f'weight = "rating / 4.0"\n[[dual]]\n{keys}'))
    x = unit(world)
    log = pl.read_parquet(world.folder / "interactions.parquet")
    for row in output.iter_rows(named=True):
        mine = log.filter(pl.col("user_id") == row["user_id"])
        model = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
        model.fit(x[mine["item_id"].to_numpy()], mine["rating"].to_numpy() - 3.0, mine["rating"].to_numpy() / 4)
        assert row["text__all__dual_score"] == pytest.approx(float(model.predict(x[[row["item_id"]]])[0]), abs=RELATIVE)


@pytest.mark.parametrize("dim", [5, 80])
@pytest.mark.parametrize("strength", [soak(0.1), 4.0])
def test_scores_agree_with_logistic_regression(world: World, dim: int, strength: float) -> None:
    write(world, dim)
    keys = f'loss = "logistic"\ntarget = "rating - 3"\nregularization = {strength}'
    output = run_spec(world.spec(f'weight = "rating / 4.0"\n[[dual]]\n{keys}'))
    x = unit(world)
    log = pl.read_parquet(world.folder / "interactions.parquet")
    compared = 0
    for row in output.iter_rows(named=True):
        mine = log.filter(pl.col("user_id") == row["user_id"])
        liked = mine["rating"].to_numpy() > 3
        if liked.all() or not liked.any():
            continue  # scikit-learn refuses one class
        model = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-10, solver="newton-cg", max_iter=1000)
        model.fit(x[mine["item_id"].to_numpy()], liked, mine["rating"].to_numpy() / 4)
        expected = float(model.decision_function(x[[row["item_id"]]])[0])
        assert row["text__all__dual_score"] == pytest.approx(expected, abs=RELATIVE)
        compared += 1
    assert compared > 20
