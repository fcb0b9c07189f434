"""Time technique 2 and `implicit`, from Parquet to user vectors: 12,000 users with about 50 events, 40,000 items.

    python benchmarks/dual.py [--dim 384 768] [--runs 3]

Runs whole processes in turn: extembed, and `implicit` with its exact solver and with three conjugate-gradient steps,
each with the default number of BLAS threads and with one, as `implicit` advises. Then runs both solvers inside this
process. Prints medians and ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from implicit.cpu._als import least_squares_cg
from processes import Cost, measure, median
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.features.dual.bases import make_basis
from extembed_cli.features.dual.fits import PreparedFit, owner_fits
from extembed_cli.features.dual.shard import DualShard
from extembed_cli.features.dual.tasks import tasks
from extembed_cli.features.prepare import gramian
from extembed_cli.features.technique.protocol import ShardWork
from extembed_cli.histories.csr import History, every_owner
from extembed_cli.histories.visibility import visible_end
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.loading import build_spec
from extembed_cli.system.threads import threads

USERS, EVENTS, ITEMS = 12_000, 50, 40_000
START_US, YEAR_US = 1_700_000_000_000_000, 365 * 86_400_000_000
FLAGS = ["--weight", "1.0", "--target", "2.0", "--unobserved-weight", "1", "--regularization", "1"]


def write_inputs(folder: Path, dim: int) -> None:
    """Write a log of users with 50 different items on average, in random order, and item vectors."""
    rng = np.random.default_rng(0)
    counts = np.clip(rng.poisson(EVENTS, USERS), 1, None)
    users = np.repeat(np.arange(USERS), counts)
    items = np.concatenate([rng.choice(ITEMS, count, replace=False) for count in counts])
    times = pa.array(START_US + rng.integers(0, YEAR_US, len(users)), pa.timestamp("us"))
    order = rng.permutation(len(users))
    log = pa.table({"user_id": users, "item_id": items, "timestamp": times}).take(order)
    pq.write_table(log, folder / "interactions.parquet")
    vectors = rng.standard_normal((ITEMS, dim)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    pq.write_table(pa.table({"item_id": np.arange(ITEMS), "embedding": column}), folder / "items.parquet")


def compare(dim: int, runs: int) -> None:
    """Compare all sides at one length of vectors."""
    cores = str(os.cpu_count())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, dim)
        ours = [sys.executable, "-m", "extembed_cli", "dual", "-q", "-i", f"{folder}/interactions.parquet"]
        ours += ["-e", f"items={folder}/items.parquet", "--user-vectors", f"{folder}/ours.parquet", *FLAGS]
        peer = [sys.executable, str(Path(__file__).with_name("dual_peer.py"))]
        sides: dict[str, tuple[list[str], dict[str, str]]] = {"extembed": (ours, {})}
        for solver in ("exact", "cg"):
            for blas in ("1", cores):
                command = [*peer, solver, str(folder)]
                sides[f"implicit {solver}, {blas} BLAS thread(s)"] = (command, {"OPENBLAS_NUM_THREADS": blas})
        measure(ours)
        costs: dict[str, list[Cost]] = {side: [] for side in sides}
        for _ in range(runs):
            for side, (command, env) in sides.items():
                costs[side].append(measure(command, env))
        a, b = (vectors_of(folder / f"{side}.parquet") for side in ("ours", "exact"))
        print(f"\nd = {dim}: largest relative difference from implicit's exact vectors {difference(a, b):.1e}")
        for side, runs_of_side in costs.items():
            pairs = zip(runs_of_side, costs["extembed"], strict=True)
            ratios = [peer_cost.wall / our_cost.wall for peer_cost, our_cost in pairs]
            ratio = "" if side == "extembed" else f"  {statistics.median(ratios):.1f}x"
            print(f"  {side:36} {median(runs_of_side)}{ratio}")
        in_process(folder, dim, runs)


def in_process(folder: Path, dim: int, runs: int) -> None:
    """Time the solvers alone, from arrays in memory; ours includes Gramian, eigenvectors and rotation."""
    vectors = vectors_of(folder / "items.parquet")
    norms = np.linalg.norm(vectors, axis=1)
    unit = np.append(vectors / norms[:, None], np.zeros((1, dim), np.float32), axis=0)
    log = pq.read_table(folder / "interactions.parquet").sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    users, items = log["user_id"].to_numpy(), log["item_id"].to_numpy()
    counts = np.bincount(users, minlength=USERS)
    history = History(
        indptr=np.append(0, np.cumsum(counts)),
        times=log["timestamp"].cast(pa.int64()).to_numpy(),
        partners=items.astype(np.int32),
        values={Expression("2.0", "Float64"): np.full(len(users), 2.0)},
    )
    matrix = EmbeddingMatrix(unit, np.append(norms, 0), np.arange(ITEMS + 1, dtype=np.int32), {})
    group = {"target": "2.0", "unobserved_weight": 1.0, "regularization": 1.0, "user_vectors": "u.parquet"}
    spec = build_spec({"interactions": "i", "embeddings": {"items": {"path": "e"}}, "dual": [group]}, "benchmark")
    (fit,) = owner_fits(spec)

    def ours() -> None:
        with threads(os.cpu_count() or 1) as mapped:
            total = gramian(matrix, mapped, normalized=True)
            basis = make_basis(matrix, ITEMS, total, normalized=True, bias=False, mapped=mapped)
            users = every_owner(history, START_US + 2 * YEAR_US)
            work = ShardWork(spec, {}, history, users, users, visible_end(spec, history, users))
            shard = DualShard(work, PreparedFit(fit, matrix, basis), of_owners=True)
            for _ in mapped(lambda task: task(), tasks(shard)):
                pass
            assert shard.vectors is not None
            blocks = (shard.vectors[low : low + 2048] for low in range(0, USERS, 2048))
            for _ in mapped(basis.original, blocks):
                pass

    confidences = csr_matrix((np.full(len(users), 2.0, np.float32), (users, items)), (USERS, ITEMS))

    def theirs() -> None:
        least_squares_cg(confidences, np.zeros((USERS, dim), np.float32), unit[:-1], 1.0, num_threads=0, cg_steps=3)

    def theirs_with_one_thread() -> None:
        with threadpool_limits(1, "blas"):
            theirs()

    sides: dict[str, Callable[[], None]] = {
        "ours": ours,
        "3-step CG, 1 BLAS thread": theirs_with_one_thread,
        "3-step CG, default BLAS threads": theirs,
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(runs):
        for side, run in sides.items():
            began = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - began)
    print("  inside one process: " + ", ".join(f"{side} {statistics.median(s):.2f} s" for side, s in seconds.items()))


def vectors_of(path: Path) -> np.ndarray:
    """Return the vectors of a file as a matrix."""
    column = pq.read_table(path)["embedding"].combine_chunks()
    vectors: np.ndarray = column.flatten().to_numpy().reshape(len(column), -1)
    return vectors


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two vectors, relative to the length of the second."""
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    for dim in args.dim:
        compare(dim, args.runs)


if __name__ == "__main__":
    main()
