"""A gradient-boosted ranker (LightGBM) on some of the columns, with usual parameters."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from extembed_cli.arrays import Doubles, Floats
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.split import Split
from extembed_cli.kernels.metrics import Groups
from extembed_cli.system import signals

_ROUNDS, _PATIENCE = 2000, 50
_PARAMETERS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_BINARY = {"objective": "binary", "metric": "binary_logloss"}
_LAMBDARANK = {"objective": "lambdarank", "metric": "ndcg", "eval_at": [10], "lambdarank_truncation_level": 20}


@dataclass(frozen=True)
class RankerFit:
    """The scores of one trained ranker, and the importance of its F columns."""

    test_scores: Doubles
    """(n) of the test rows: probabilities, or scores of lambdarank"""
    valid_scores: Doubles
    """(n) of the rows for early stopping"""
    gain: Doubles
    """(F) loss reduction by splits on each column"""


class TrainRankers(Protocol):
    """Trains a ranker for each seed on some columns, and as many more with `permuted` columns, if there are any.

    Returns the fits by seed: one list, or two with `permuted`.
    """

    def __call__(self, columns: Sequence[str], permuted: Sequence[str] = (), /) -> list[list[RankerFit]]: ...


def fit(split: Split, columns: Sequence[str], seed: int, permuted: Collection[str] = (), *, threads: int) -> RankerFit:
    """Train a ranker with early stopping and return its scores. `permuted` columns are shuffled inside each part.

    The loss is binary, or lambdarank where rows have requests.
    """
    # Threads that wait by spinning make training up to 20 times slower where other processes use the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import lightgbm  # noqa: PLC0415  an extra, and slow to import

    rng = np.random.default_rng([seed, 4])
    train, valid, test = (_matrix(part, columns, permuted, rng) for part in (split.train, split.valid, split.test))
    categories = [index for index, name in enumerate(columns) if name in split.train.categories]

    def dataset(rows: Rows, values: Floats, reference: Any = None) -> Any:
        """Return the rows as LightGBM needs them: those of one request side by side."""
        labels, sizes = rows.labels, None
        if rows.groups is not None:
            groups = Groups.of(rows.groups)
            values, labels, sizes = values[groups.rows], labels[groups.rows], groups.sizes
        return lightgbm.Dataset(
            values, labels, group=sizes, reference=reference, categorical_feature=categories or "auto"
        )

    loss = _LAMBDARANK if split.train.listwise else _BINARY
    train_set = dataset(split.train, train)
    model = lightgbm.train(
        {**_PARAMETERS, **loss, "seed": seed, "num_threads": threads},
        train_set,
        _ROUNDS,
        valid_sets=[dataset(split.valid, valid, train_set)],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False), lambda _: signals.exit_if_received()],
    )
    test_scores, valid_scores = (
        np.asarray(model.predict(values, num_threads=threads), np.float64) for values in (test, valid)
    )
    gain = model.feature_importance("gain", iteration=model.best_iteration)
    return RankerFit(test_scores, valid_scores, np.asarray(gain, np.float64))


def _matrix(rows: Rows, columns: Sequence[str], permuted: Collection[str], rng: np.random.Generator) -> Floats:
    values: Floats = rows.values[:, rows.indices(columns)]
    shuffled = [index for index, name in enumerate(columns) if name in permuted]
    if shuffled:
        order = rng.permutation(len(rows))  # one order for all columns, so that their correlations stay
        values[:, shuffled] = values[order][:, shuffled]
    return values
