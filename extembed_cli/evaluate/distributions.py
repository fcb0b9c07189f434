"""The distributions of cosines for positives and for negatives, which the report shows as charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from extembed_cli.evaluate.columns import BASELINE, FeatureFile
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.schema import Distribution
from extembed_cli.evaluate.univariate import ColumnStatistics
from extembed_cli.features.registry import technique_of_step

_MAX_CHARTS, _BINS = 4, 32


def distributions(test: Rows, statistics: Sequence[ColumnStatistics], file: FeatureFile) -> list[Distribution]:
    """Return the distributions of the cosine columns with the best AUC, one for each embedding table and history."""
    step_of = {name: step for step, names in file.steps.items() if step != BASELINE for name in names}
    best: dict[str, str] = {}
    for column in sorted(statistics, key=lambda column: -abs(column.auc.value - 0.5) if column.auc else 0.0):
        if column.auc is None or column.name not in step_of:
            continue
        chart = technique_of_step(step_of[column.name]).chart_of(column.name)
        if chart is not None:
            best.setdefault(chart, column.name)
    return [_distribution(test, name) for name in list(best.values())[:_MAX_CHARTS]]


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
