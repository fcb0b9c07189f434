"""How cosines of positives and negatives are distributed: for a chart that shows what a ranker can see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from extembed_cli.evaluate.columns import FeatureFile
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.schema import Distribution
from extembed_cli.evaluate.single import Single

_MOST, _BINS = 4, 32


def distributions(test: Rows, singles: Sequence[Single], file: FeatureFile) -> list[Distribution]:
    """Of the cosine columns that rank best by themselves, one for each embedding table and history."""
    cosines = [
        one
        for one in singles
        if one.auc is not None
        and one.name in file.steps.get("aggregate", ())
        and "cos_" in one.name
        and "cos_share" not in one.name
    ]
    cosines.sort(key=lambda one: -abs(one.auc.value - 0.5) if one.auc else 0.0)
    chosen = list({one.name.rsplit("cos_", 1)[0]: one for one in reversed(cosines)}.values())
    return [_of(test, one.name) for one in sorted(chosen, key=cosines.index)[:_MOST]]


def _of(test: Rows, name: str) -> Distribution:
    values = test.column(name).astype(np.float64)
    known = ~np.isnan(values)
    low, high = values[known].min(), values[known].max()
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    shares = []
    for relevant in (True, False):
        counts, _ = np.histogram(values[known & (test.relevant == relevant)], edges)
        shares.append((counts / max(1, counts.sum())).tolist())
    return Distribution(name=name, edges=edges.tolist(), positives=shares[0], negatives=shares[1])
