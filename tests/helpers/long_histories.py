"""Worlds with histories of all lengths."""

from __future__ import annotations

import numpy as np
from conftest import World, timestamps, vectors

HOUR = 3_600_000_000
START = 1_700_000_000_000_000
HISTORIES = """[histories.liked]
where = "rating >= 4"
[histories.newest]
max_events = 7
[histories.recent]
window = "9d"
"""


def lognormal(rng: np.random.Generator, mean: int, users: int, most: int) -> np.ndarray:
    return np.clip(np.rint(rng.lognormal(np.log(mean) - 0.5, 1, users)), 1, most).astype(np.int64)


def write_lognormal(world: World, mean: int, users: int, most: int, dim: int = 8, candidates: int = 5) -> None:
    """Write histories and candidates of lognormal lengths over 60 days. Some items have no vector."""
    rng = np.random.default_rng(17)
    for name, average in (("interactions", mean), ("candidates", candidates)):
        owners = rng.permutation(np.repeat(np.arange(users), lognormal(rng, average, users, most)))
        columns = {
            "user_id": owners,
            "item_id": rng.integers(0, 40, len(owners)),
            "timestamp": timestamps(START + rng.integers(0, 60 * 24, len(owners)) * HOUR),
        }
        if name == "interactions":
            columns |= {"rating": rng.integers(1, 6, len(owners)), "weight": rng.integers(1, 5, len(owners))}
        world.write(name, columns)
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, dim)))})
