"""Write synthetic inputs of any size, a million rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

YEAR_US, QUARTER_US = 365 * 86_400_000_000, 90 * 86_400_000_000
START_US = 1_700_000_000_000_000
_ROWS = 2**20


@dataclass(frozen=True)
class Size:
    """The size of random inputs: events, and candidates at random times among them.

    Lengths of histories are lognormal and items are popular, as in real logs. With `even`, all histories have the same
    length over a year, and the candidates are in its second half.
    """

    users: int = 20_000
    events: int = 50
    """Mean number of events of a user."""
    candidates: int = 50
    """Mean number of candidates of a user."""
    items: int = 100_000
    dim: int = 128
    even: bool = False

    @property
    def name(self) -> str:
        """Name of the size in printed tables."""
        n, m = self.users * self.events, self.users * self.candidates
        lengths = "" if self.even else "about "
        return f"{n / 1e6:g} M x {m / 1e6:g} M, histories of {lengths}{self.events}, d = {self.dim}"

    def write(self, folder: Path, seed: int = 0) -> None:
        """Write interactions, candidates and item vectors as Parquet."""
        rng = np.random.default_rng(seed)
        for table, mean in (("interactions", self.events), ("candidates", self.candidates)):
            with _Writer(folder / f"{table}.parquet") as write:
                owners = self._owners(rng, mean)
                for low in range(0, len(owners), _ROWS):
                    users = owners[low : low + _ROWS]
                    since = YEAR_US // 2 if self.even and table == "candidates" else 0
                    times = START_US + rng.integers(since, YEAR_US if self.even else QUARTER_US, len(users))
                    write(user_id=users, item_id=self._items(rng, len(users)), timestamp=times)
        vectors = rng.standard_normal((self.items, self.dim), dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dim)
        pq.write_table(pa.table({"item_id": np.arange(self.items), "embedding": column}), folder / "items.parquet")

    def _owners(self, rng: np.random.Generator, mean: int) -> np.ndarray:
        """Return the user of each row, in random order."""
        if self.even:
            return rng.permutation(np.repeat(np.arange(self.users), mean))
        lengths = np.clip(np.rint(rng.lognormal(np.log(mean) - 0.5, 1, self.users)), 1, 10 * mean).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(self.users), lengths))

    def _items(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        return rng.integers(0, self.items, rows) if self.even else rng.zipf(1.3, rows) % self.items


SIZES = {
    "big": Size(),
    "short": Size(users=100_000, events=10, candidates=10),
    "long": Size(users=2_000, events=400, candidates=500, dim=384),
}


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
