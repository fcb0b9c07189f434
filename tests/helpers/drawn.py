"""Small worlds that hypothesis draws."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import run_spec, timestamps, vectors
from hypothesis import settings

HOUR = 3_600_000_000
START = 1_700_000_000_000_000
SPEC = """require.allow_empty = true
interactions = {interactions}
candidates = {candidates}
output = "out.parquet"
weight = "weight"
[embeddings.text]
path = {text}
center = true
[histories.liked]
where = "rating >= 4"
max_events = 5
[histories.recent]
window = "30h"
"""
AGGREGATE = """
[[aggregate]]
histories = ["all", "liked", "recent"]
half_lives = ["6h", "none"]
percentiles = [10, 50, 90]
thresholds = [0.0, 0.3]
sd = true
[[aggregate]]
name = "rated"
histories = ["all", "liked", "recent"]
half_lives = ["6h", "none"]
percentiles = []
thresholds = [0.3]
target = "rating"
residual = "item+user"
residual_half_life = "20h"
top = [2]
[[aggregate]]
name = "user"
histories = ["recent"]
half_lives = ["6h"]
percentiles = []
target = "CASE WHEN rating <> 3 THEN rating END"
residual = "user"
temperatures = [0.1]
center = false
"""


@dataclass(frozen=True)
class Small:
    """A drawn world. Times are whole hours, so that ties happen."""

    events: list[tuple[int, int, int, int, int]]  # user, item, hour, rating, weight
    candidates: list[tuple[int, int, int]]  # user, item, hour
    seed: int
    shift: int = 0
    weight_scale: float = 1.0
    parts: int = 1
    order: int | None = None  # seed of a shuffle of every table
    groups: str = AGGREGATE

    def features(self) -> pl.DataFrame:
        """Run the spec and return the output in the order in which the candidates were drawn."""
        with tempfile.TemporaryDirectory() as name:
            return run_spec(self.write(Path(name))).sort("row").drop("row", "timestamp", "user_id", "item_id")

    def write(self, folder: Path) -> Path:
        """Write the tables and the spec."""
        lists = {table: self._write(folder, table, rows) for table, rows in self._tables().items()}
        (folder / "spec.toml").write_text(SPEC.format(**lists) + self.groups)
        return folder / "spec.toml"

    def _tables(self) -> dict[str, pa.Table]:
        events = np.array(self.events, np.int64).reshape(-1, 5)
        candidates = np.array(self.candidates, np.int64).reshape(-1, 3)
        rng = np.random.default_rng(self.seed)
        return {
            "interactions": pa.table(
                {
                    "user_id": events[:, 0],
                    "item_id": events[:, 1],
                    "timestamp": timestamps(START + self.shift + events[:, 2] * HOUR),
                    "rating": events[:, 3],
                    "weight": events[:, 4] * self.weight_scale,
                }
            ),
            "candidates": pa.table(
                {
                    "user_id": candidates[:, 0],
                    "item_id": candidates[:, 1],
                    "timestamp": timestamps(START + self.shift + candidates[:, 2] * HOUR),
                    "row": np.arange(len(candidates)),
                }
            ),
            "text": pa.table({"item_id": np.arange(8), "embedding": vectors(rng.standard_normal((8, 5)))}),
        }

    def _write(self, folder: Path, name: str, table: pa.Table) -> list[str]:
        if self.order is not None:
            table = table.take(np.random.default_rng(self.order).permutation(len(table)))
        cuts = np.linspace(0, len(table), self.parts + 1).astype(int)
        for part in range(self.parts):
            pq.write_table(table.slice(cuts[part], cuts[part + 1] - cuts[part]), folder / f"{name}-{part}.parquet")
        return [f"{name}-{part}.parquet" for part in range(self.parts)]


EVENT = st.tuples(
    st.integers(0, 2), st.integers(0, 9), st.integers(0, 60), st.integers(1, 5), st.sampled_from([1, 1, 2, 3])
)
CANDIDATE = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 70))
WORLDS = st.builds(
    Small,
    events=st.lists(EVENT, min_size=0, max_size=80),
    candidates=st.lists(CANDIDATE, min_size=1, max_size=20),
    seed=st.integers(0, 5),
)


def twice() -> settings:
    """Return settings with twice the examples of the profile, for the leakage tests."""
    return settings(max_examples=2 * settings.default.max_examples)


def same_bytes(one: pl.DataFrame, other: pl.DataFrame) -> None:
    for name in one.columns:
        assert one[name].equals(other[name], null_equal=True), name
