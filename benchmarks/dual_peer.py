"""The job of dual.py with `implicit`: Parquet in, one vector per user out. Run by dual.py.

    python benchmarks/dual_peer.py exact|cg FOLDER

It runs half an iteration of ALS on the given item vectors: `least_squares` (an exact d x d Cholesky per user) or
`least_squares_cg` (three steps). Unobserved items have weight 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from implicit.cpu._als import least_squares, least_squares_cg
from scipy.sparse import csr_matrix


def main() -> None:
    solver, folder = sys.argv[1], Path(sys.argv[2])
    items = pq.read_table(folder / "items.parquet")
    ids = items["item_id"].to_numpy()
    column = items["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    log = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id"])
    users, user_nums = np.unique(log["user_id"].to_numpy(), return_inverse=True)
    order = np.argsort(ids)
    item_nums = order[np.searchsorted(ids, log["item_id"].to_numpy(), sorter=order)]
    confidences = csr_matrix((np.full(len(log), 2.0, np.float32), (user_nums, item_nums)), (len(users), len(ids)))
    out = np.zeros((len(users), vectors.shape[1]), np.float32)
    solve = {"exact": least_squares, "cg": least_squares_cg}[solver]
    solve(confidences, out, vectors, 1.0, num_threads=0)
    embedding = pa.FixedSizeListArray.from_arrays(out.ravel(), out.shape[1])
    pq.write_table(pa.table({"user_id": users, "embedding": embedding}), folder / f"{solver}.parquet")


if __name__ == "__main__":
    main()
