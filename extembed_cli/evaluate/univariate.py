"""Statistics of each column alone: coverage, AUC, drift, and correlation with the strongest feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints
from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.split import Split

_Z = 1.959963984540054  # quantile of the normal distribution for a 95 % interval


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of one column on the test rows."""

    name: str
    coverage: float
    """Share of the test rows where it is not null."""
    auc: Interval | None
    """AUC of the column as the score, where it is not null; None for text or where one class is missing."""
    encoded_auc: Interval | None
    """AUC of the column encoded as a score: 1 where it is not null, for columns with nulls; the mean label of its value
    in the training rows, for text; None for other columns."""
    drift: float | None
    """Kolmogorov-Smirnov distance of its values between training and test rows, 0 to 1; None for text."""


def column_statistics(split: Split) -> list[ColumnStatistics]:
    """Return the statistics of all columns. Text has no order, so it has neither an AUC of its own nor drift."""
    test = split.test
    statistics = []
    for name in test.names:
        values = test.column(name)
        known = ~np.isnan(values)
        coverage = float(known.mean())
        if name in test.categories:
            statistics.append(ColumnStatistics(name, coverage, None, _target_encoded_auc(split, name), None))
            continue
        auc = clustered_auc(values[known], test.relevant[known], test.users[known])
        known_auc = None if known.all() else clustered_auc(known.astype(np.float32), test.relevant, test.users)
        drifted = drift(split.train.column(name), values)
        statistics.append(ColumnStatistics(name, coverage, auc, known_auc, drifted))
    return statistics


def _target_encoded_auc(split: Split, name: str) -> Interval | None:
    """Return the AUC of a text column with each value replaced by its mean label in the training rows."""
    codes, test = (np.nan_to_num(part.column(name)).astype(np.int64) for part in (split.train, split.test))
    size = int(max(codes.max(), test.max())) + 1
    rows = np.bincount(codes, minlength=size)
    mean = split.train.relevant.mean()
    means = (np.bincount(codes, split.train.relevant, size) + mean) / (rows + 1)
    return clustered_auc(means[test].astype(np.float32), split.test.relevant, split.test.users)


def clustered_auc(values: Floats, relevant: Bools, users: Ints) -> Interval | None:
    """Return the AUC with a confidence interval that treats users as clusters, without resampling.

        var = Σ_users (positives' deviations / n_+ + negatives' deviations / n_-)² · U / (U − 1)

    where the deviation of a row is the share of the other class that it beats, minus the AUC. None for one class.
    Source: Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 53, 1997; for one row per user
    it is DeLong's. With one user the bounds are NaN. values, relevant, users (n); the bounds are clipped to [0, 1].
    """
    n = len(values)
    plus = int(np.count_nonzero(relevant))
    minus = n - plus
    if not plus or not minus:
        return None
    order = np.argsort(values, kind="stable")
    ordered, positive = values[order], relevant[order]
    tie = np.cumsum(np.append(True, ordered[1:] != ordered[:-1])) - 1
    per_tie = np.bincount(tie, ~positive).astype(np.float64), np.bincount(tie, positive).astype(np.float64)
    lower, higher = (np.cumsum(each) - each / 2 for each in per_tie)  # rows of each class at or below, ties half
    beaten = np.where(positive, lower[tie] / minus, 1 - higher[tie] / plus)
    auc = float(beaten[positive].mean())
    part = (beaten - auc) / np.where(positive, plus, minus)
    _, owner = np.unique(users[order], return_inverse=True)
    sums = np.bincount(owner, part)
    if len(sums) < 2:
        return Interval(auc, float("nan"), float("nan"))
    spread = _Z * np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1))
    return Interval(auc, max(0.0, auc - spread), min(1.0, auc + spread))


def drift(before: Floats, after: Floats) -> float | None:
    """Return the largest difference between the distribution functions of two samples.

    NaNs are left out; None without values. Kolmogorov-Smirnov, the same as scipy's `ks_2samp(...).statistic`.
    """
    a, b = (np.sort(values[~np.isnan(values)]) for values in (before, after))
    if not len(a) or not len(b):
        return None
    points = np.concatenate([a, b])
    difference = np.searchsorted(a, points, side="right") / len(a) - np.searchsorted(b, points, side="right") / len(b)
    return float(np.abs(difference).max())


def correlations(rows: Rows, strongest: str) -> dict[str, float | None]:
    """Return the Spearman correlation of every column with the strongest, where both are known; None if undefined."""
    reference = rows.column(strongest)
    by_column: dict[str, float | None] = {}
    for name in rows.names:
        values = rows.column(name)
        both = ~(np.isnan(values) | np.isnan(reference))
        by_column[name] = None if name in rows.categories else _spearman(values[both], reference[both])
    return by_column


def _spearman(a: Floats, b: Floats) -> float | None:
    if len(a) < 3 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Doubles:
    """Return the ranks of values; ties share their mean rank."""
    _, tie, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    mean: Doubles = (ends - (count + 1) / 2)[tie]
    return mean
