"""A gradient-boosted ranker (LightGBM) on some of the columns, as a team would train one overnight."""

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
class Ranked:
    """What one ranker made of the rows."""

    scores: Doubles
    """(n) of the test rows: chances, or scores of lambdarank"""
    valid: Doubles
    """(n) of the rows for early stopping"""
    gain: Doubles
    """(F) what each column took off the loss"""


class Train(Protocol):
    """A ranker for each seed on some columns; with `permuted` ones, as many again with the rows of those shuffled."""

    def __call__(self, columns: Sequence[str], permuted: Sequence[str] = (), /) -> list[list[Ranked]]: ...


def fit(split: Split, columns: Sequence[str], seed: int, permuted: Collection[str] = (), *, threads: int) -> Ranked:
    """Train with early stopping, and score. The rows of `permuted` columns are shuffled inside each part.

    The loss is binary, or, where rows have requests, lambdarank over those.
    """
    # Threads that wait by spinning take twenty times as long where others want the cores, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import lightgbm  # noqa: PLC0415  an extra, and slow to import

    rng = np.random.default_rng([seed, 4])
    train, valid, test = (_matrix(part, columns, permuted, rng) for part in (split.train, split.valid, split.test))
    categories = [place for place, name in enumerate(columns) if name in split.train.categories]

    def dataset(rows: Rows, values: Floats, reference: Any = None) -> Any:
        """As LightGBM takes it: the rows of a request side by side."""
        labels, sizes = rows.labels, None
        if rows.groups is not None:
            groups = Groups.of(rows.groups)
            values, labels, sizes = values[groups.rows], labels[groups.rows], groups.sizes
        return lightgbm.Dataset(
            values, labels, group=sizes, reference=reference, categorical_feature=categories or "auto"
        )

    loss = _LAMBDARANK if split.train.listwise else _BINARY
    learned = dataset(split.train, train)
    model = lightgbm.train(
        {**_PARAMETERS, **loss, "seed": seed, "num_threads": threads},
        learned,
        _ROUNDS,
        valid_sets=[dataset(split.valid, valid, learned)],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False), lambda _: signals.check()],
    )
    scores, stopped = (np.asarray(model.predict(each, num_threads=threads), np.float64) for each in (test, valid))
    gain = model.feature_importance("gain", iteration=model.best_iteration)
    return Ranked(scores, stopped, np.asarray(gain, np.float64))


def _matrix(rows: Rows, columns: Sequence[str], permuted: Collection[str], rng: np.random.Generator) -> Floats:
    values: Floats = rows.values[:, rows.places(columns)]
    shuffled = [place for place, name in enumerate(columns) if name in permuted]
    if shuffled:
        order = rng.permutation(len(rows))  # one for all: what columns have to do with each other stays
        values[:, shuffled] = values[order][:, shuffled]
    return values
