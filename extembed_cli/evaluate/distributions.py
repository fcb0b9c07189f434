"""The distributions of cosines for positives and for negatives, which the report shows as charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from extembed_cli.evaluate.columns import FeatureFile
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.schema import Distribution
from extembed_cli.evaluate.univariate import ColumnStatistics

_MAX_CHARTS, _BINS = 4, 32


def distributions(test: Rows, statistics: Sequence[ColumnStatistics], file: FeatureFile) -> list[Distribution]:
    """Return the distributions of the cosine columns with the best AUC, one for each embedding table and history."""
    cosines = [
        column
        for column in statistics
        if column.auc is not None
        and column.name in file.steps.get("aggregate", ())
        and "cos_" in column.name
        and "cos_share" not in column.name
    ]
    cosines.sort(key=lambda column: -abs(column.auc.value - 0.5) if column.auc else 0.0)
    best = list({column.name.rsplit("cos_", 1)[0]: column for column in reversed(cosines)}.values())
    return [_distribution(test, column.name) for column in sorted(best, key=cosines.index)[:_MAX_CHARTS]]


def _distribution(test: Rows, name: str) -> Distribution:
    values = test.column(name).astype(np.float64)
    known = ~np.isnan(values)
    low, high = values[known].min(), values[known].max()
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    shares = []
    for relevant in (True, False):
        counts, _ = np.histogram(values[known & (test.relevant == relevant)], edges)
        shares.append((counts / max(1, counts.sum())).tolist())
    return Distribution(name=name, edges=edges.tolist(), positives=shares[0], negatives=shares[1])
