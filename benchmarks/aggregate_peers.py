"""Other programs that compute the features of technique 1, each as a process. Run by aggregate.py.

    python benchmarks/aggregate_peers.py duckdb|polars|floor FOLDER

`duckdb` is plain SQL (its percentiles are unweighted: SQL has no weighted ones); `polars` is the same as expressions;
`floor` is the lower bound: it computes no features, but reads the inputs, gathers the vectors, multiplies and sorts as
many pairs as are visible, and writes as many columns.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from threadpoolctl import threadpool_limits

HALF_LIFE_US = 7 * 86_400_000_000
PERCENTILES, THRESHOLDS = (0.1, 0.5, 0.9), (0.2, 0.5)
FEATURES = 13  # columns of the job

SQL = """
COPY (
    WITH items AS (SELECT item_id, embedding::FLOAT[{dim}] AS vector FROM '{folder}/items.parquet'),
    candidate AS (SELECT row_number() OVER () AS row, * FROM '{folder}/candidates.parquet'),
    pairs AS (
        SELECT candidate.row, array_cosine_similarity(event_item.vector, candidate_item.vector) AS cosine,
            pow(2, -(epoch_us(candidate.timestamp) - epoch_us(i.timestamp)) / {half_life}) AS w,
            epoch_us(candidate.timestamp) - epoch_us(i.timestamp) AS age
        FROM candidate
        JOIN '{folder}/interactions.parquet' i ON i.user_id = candidate.user_id AND i.timestamp < candidate.timestamp
        JOIN items event_item ON event_item.item_id = i.item_id
        JOIN items candidate_item ON candidate_item.item_id = candidate.item_id),
    features AS (
        SELECT row, count(*) AS count, min(age) / 1e6 AS age_last_s, sum(w) AS decayed_count,
            min(cosine) AS cos_min, max(cosine) AS cos_max, sum(w * cosine) / sum(w) AS cos_mean,
            quantile_cont(cosine, {percentiles}) AS percentiles, {shares}
        FROM pairs GROUP BY row)
    SELECT candidate.* EXCLUDE row, features.* EXCLUDE row
    FROM candidate LEFT JOIN features USING (row) ORDER BY candidate.row
) TO '{folder}/duckdb.parquet' (FORMAT parquet)
"""


def by_duckdb(folder: Path, threads: int) -> None:
    """Compute the features with SQL."""
    import duckdb  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    dim = pq.read_schema(folder / "items.parquet").field("embedding").type.list_size
    shares = ", ".join(f"sum(w * (cosine >= {t})::INT) / sum(w) AS share_{n}" for n, t in enumerate(THRESHOLDS))
    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}; SET preserve_insertion_order = false")
    connection.execute(
        SQL.format(folder=folder, dim=dim, half_life=HALF_LIFE_US, percentiles=list(PERCENTILES), shares=shares)
    )


def by_polars(folder: Path, threads: int) -> None:
    """Compute the features with expressions over the joined pairs: every pair of vectors is a row in memory."""
    import polars as pl  # noqa: PLC0415

    items = pl.scan_parquet(folder / "items.parquet").with_columns(
        pl.col("embedding") / pl.col("embedding").arr.eval(pl.element() ** 2).arr.sum().sqrt()
    )
    candidates = pl.scan_parquet(folder / "candidates.parquet").with_row_index("row")
    age = (pl.col("timestamp") - pl.col("at")).dt.total_microseconds()
    w, cosine = pl.col("w"), pl.col("cosine")
    pairs = (
        candidates.join(items, on="item_id")
        .join(
            pl.scan_parquet(folder / "interactions.parquet")
            .rename({"timestamp": "at"})
            .join(items.rename({"embedding": "seen"}), on="item_id")
            .drop("item_id"),
            on="user_id",
        )
        .filter(pl.col("at") < pl.col("timestamp"))
        .select(
            "row",
            age.alias("age"),
            (2.0 ** (-age / HALF_LIFE_US)).alias("w"),
            (pl.col("embedding") * pl.col("seen")).arr.sum().alias("cosine"),
        )
    )
    features = pairs.group_by("row").agg(
        pl.len().alias("count"),
        (pl.col("age").min() / 1e6).alias("age_last_s"),
        w.sum().alias("decayed_count"),
        cosine.min().alias("cos_min"),
        cosine.max().alias("cos_max"),
        ((w * cosine).sum() / w.sum()).alias("cos_mean"),
        *(cosine.quantile(q).alias(f"cos_p{q}") for q in PERCENTILES),
        *(((w * (cosine >= t)).sum() / w.sum()).alias(f"share_{t}") for t in THRESHOLDS),
    )
    candidates.join(features, on="row", how="left", maintain_order="left").drop("row").sink_parquet(
        folder / "polars.parquet"
    )


def floor(folder: Path, threads: int) -> None:
    """Read, gather, multiply, sort and write arrays of the job's shapes, and nothing else."""
    import numpy as np  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    def by_user(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the items ordered by user, and the index of each user's first item."""
        users = table["user_id"].to_numpy()
        return table["item_id"].to_numpy()[np.argsort(users)], np.append(0, np.cumsum(np.bincount(users)))

    candidates = pq.read_table(folder / "candidates.parquet")
    events, event_at = by_user(pq.read_table(folder / "interactions.parquet"))
    candidate_items, candidate_at = by_user(candidates)
    column = pq.read_table(folder / "items.parquet")["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    # An event is visible to half of the candidates on average: as many cosines are multiplied and sorted.
    H, C = (np.diff(event_at) + 1) // 2, np.diff(candidate_at)
    shape = np.stack([-(-H // 8) * 8, -(-C // 8) * 8])
    order = np.lexsort(shape)
    cuts = np.flatnonzero(np.any(np.diff(shape[:, order]), axis=0)) + 1

    def batch(users: np.ndarray) -> None:
        h, c = shape[:, users[0]]
        step = max(1, 2**18 // (h * c))
        for low in range(0, len(users), step):
            block = users[low : low + step, None]
            v = vectors.take(events.take(event_at[block] + np.arange(h), mode="clip"), axis=0)
            q = vectors.take(candidate_items.take(candidate_at[block] + np.arange(c), mode="clip"), axis=0)
            np.matmul(q, v.transpose(0, 2, 1)).sort(axis=-1)

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(batch, np.split(order, cuts)):
            pass
    values = np.random.default_rng(0).random((FEATURES, len(candidates)), np.float32)
    for index in range(FEATURES):
        candidates = candidates.append_column(f"feature {index}", pa.array(values[index]))
    pq.write_table(candidates, folder / "floor.parquet", use_dictionary=["user_id", "item_id", "timestamp"])


def main() -> None:
    program, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    {"duckdb": by_duckdb, "polars": by_polars, "floor": floor}[program](folder, threads)


if __name__ == "__main__":
    main()
