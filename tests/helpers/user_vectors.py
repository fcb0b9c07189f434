"""Runs that write a file of user vectors, and the comparison of the file with normal equations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from conftest import World

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch
from helpers.aggregate_loop import events_of, micros
from helpers.dual_loop import raw_vectors
from helpers.reference import Event, ReferenceHistory, events_by_user
from helpers.reference_dual import ReferenceFit, item_vectors, solve

TOLERANCE = 1e-5  # of scores of order 1, with vectors kept in float32
HOUR = 3_600_000_000
TEXT = '[embeddings.text]\npath = "text.parquet"\n'
FLAGS = ("dual", "-i", "interactions.parquet", "-e", "text=text.parquet", "--user-vectors", "users.parquet")


def vectors_only_spec(world: World, keys: str = "", top: str = "", tables: str = TEXT) -> Path:
    """Write a spec without candidates, with one group that writes `users.parquet`."""
    text = f'interactions = "interactions.parquet"\n{top}\n{tables}\n[[dual]]\nuser_vectors = "users.parquet"\n{keys}\n'
    return world.spec(text, "vectors.toml")


def run(spec: Path, workers: int = 2) -> dict[str, Any]:
    return run_job(load_spec(spec), RunOptions(workers=workers), Watch())


def compute_user_vectors(world: World, keys: str = "", top: str = "", tables: str = TEXT) -> pa.Table:
    """Run a spec without candidates and return the file of user vectors."""
    run(vectors_only_spec(world, keys, top, tables))
    return world.table("users")


def newest(world: World) -> int:
    return max(micros(t) for t in world.table("interactions")["timestamp"].to_pylist())


def check(
    world: World,
    users: pa.Table,
    fit: ReferenceFit,
    *,
    as_of: int | None = None,
    history: ReferenceHistory | None = None,
    lag: str = "0s",
    table: dict[str, bool] | None = None,
    events: list[Event] | None = None,
    weight: Callable[[dict[str, Any]], float] = lambda row: 1.0,
    tolerance: float = TOLERANCE,
) -> None:
    """Compare the users, and the score of every item for each of them, with normal equations in float64."""
    events = events_of(world, weight) if events is None else events
    as_of = newest(world) + 1 if as_of is None else as_of
    items = item_vectors(raw_vectors(world), bias=fit.bias, **(table or {}))
    reference = {}
    by_user = events_by_user(events)
    for user in sorted(user for user in by_user if user is not None):
        solution = solve(items, fit, by_user[user], history or ReferenceHistory(), user, as_of, lag)
        if solution is not None:
            reference[user] = solution[0]
    assert users["user_id"].to_pylist() == list(reference)
    assert reference
    x = np.array(list(items.values()))
    expected = np.array(list(reference.values())) @ x.T
    embedding = matrix(users)
    scores = embedding @ x[:, : embedding.shape[1]].T
    if fit.bias:
        scores += users["bias"].to_numpy()[:, None]
    assert np.abs(scores - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def matrix(users: pa.Table) -> np.ndarray:
    """Return the vectors in float64."""
    dim = users.schema.field("embedding").type.list_size
    return users["embedding"].combine_chunks().flatten().to_numpy().astype(np.float64).reshape(-1, dim)
