"""Made inputs of any size, written a million rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

YEAR_US = 365 * 86_400_000_000
START_US = 1_700_000_000_000_000
_ROWS = 2**20


@dataclass(frozen=True)
class Size:
    """Random events over a year, and candidates at its end (or, `spread`, at random moments of its second half)."""

    users: int = 20_000
    events: int = 50
    """Of a user on average."""
    candidates: int = 50
    """Of each user."""
    items: int = 40_000
    dim: int = 128
    spread: bool = False

    @property
    def name(self) -> str:
        """What it is, for tables."""
        n, m = self.users * self.events, self.users * self.candidates
        times = ", as-of times of their own" if self.spread else ""
        return f"{n / 1e6:g} M x {m / 1e6:g} M, histories of {self.events}, d = {self.dim}{times}"

    def write(self, folder: Path, seed: int = 0) -> None:
        """Write interactions, candidates and item vectors as Parquet."""
        rng = np.random.default_rng(seed)
        with _Writer(folder / "interactions.parquet") as write:
            for n in _pieces(self.users * self.events):
                times = START_US + rng.integers(0, YEAR_US, n)
                write(user_id=rng.integers(0, self.users, n), item_id=rng.integers(0, self.items, n), timestamp=times)
        with _Writer(folder / "candidates.parquet") as write:
            first = 0
            for n in _pieces(self.users * self.candidates):
                users = np.arange(first, first + n) // self.candidates
                first += n
                times = np.full(n, START_US + YEAR_US)
                if self.spread:
                    times -= rng.integers(0, YEAR_US // 2, n)
                items, labels = rng.integers(0, self.items, n), rng.integers(0, 2, n).astype(np.int8)
                write(user_id=users, item_id=items, timestamp=times, label=labels)
        vectors = rng.standard_normal((self.items, self.dim)).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dim)
        pq.write_table(pa.table({"item_id": np.arange(self.items), "embedding": column}), folder / "items.parquet")


class _Writer:
    """A Parquet file written in pieces; `timestamp` holds us."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def __call__(self, **columns: np.ndarray) -> None:
        table = pa.table(columns)
        at = table.schema.get_field_index("timestamp")
        table = table.set_column(at, "timestamp", table["timestamp"].cast(pa.timestamp("us")))
        self.writer = self.writer or pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)


def _pieces(rows: int) -> list[int]:
    return [min(_ROWS, rows - low) for low in range(0, rows, _ROWS)]
