"""A world whose answer is known: labels by a user's rate, an item's popularity and, with `signal`, taste in vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import timestamps, vectors

from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

TABLES = """
interactions = "interactions.parquet"
candidates = "candidates.parquet"
output = "features.parquet"
[embeddings.text]
path = "text.parquet"
[histories.liked]
where = "liked"
[histories.disliked]
where = "NOT liked"
"""
GROUPS = """
[[aggregate]]
half_lives = ["30d"]
percentiles = [50, 90]
thresholds = [0.3]
[[dual]]
histories = ["all"]
target = "CASE WHEN liked THEN 1.0 ELSE -1.0 END"
"""


def make_features(
    folder: Path, seed: int, signal: float, users: int = 100, items: int = 600, each: int = 50, dim: int = 16
) -> Path:
    """Write the world and run its spec; the feature file. Nobody meets an item twice: repeats would be a signal.

    Candidates are the interactions themselves, `each` per user within 90 days, in requests of one user and day.
    """
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((items, dim))
    popularity, rate, taste = rng.standard_normal(items), rng.standard_normal(users), rng.standard_normal((users, dim))
    user = np.repeat(np.arange(users), each)
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    time = rng.integers(0, 90 * 86_400, len(user)) * 1_000_000
    drawn = 0.7 * rate[user] + 0.7 * popularity[item] + signal * (taste[user] * table[item]).sum(1) / np.sqrt(dim)
    liked = rng.random(len(user)) < 1 / (1 + np.exp(-drawn))

    def write(name: str, **columns: object) -> None:
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")

    rows = {"user_id": user, "item_id": item, "timestamp": timestamps(time)}
    write("interactions", **rows, liked=liked)
    own = {"popularity": popularity[item], "kind": np.array(["book", "film"])[item % 2]}
    grade = liked.astype(np.int8) * (1 + (drawn > 1))
    day = np.array([f"{u}/{t // 86_400_000_000 // 15}" for u, t in zip(user, time, strict=True)])
    write("candidates", **rows, **own, label=liked.astype(np.int8), grade=grade, request=day)
    write("text", item_id=np.arange(items), embedding=vectors(table))
    (folder / "spec.toml").write_text(TABLES + GROUPS)
    spec = load_spec(folder / "spec.toml")
    run_job(spec, RunOptions(workers=1), Watch())
    return Path(str(spec.output))
