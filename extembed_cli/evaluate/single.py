"""Each column by itself: how often it is known, how well it ranks, whether it drifts, and what it repeats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Bools, Doubles, Floats, Ints
from extembed_cli.evaluate.bootstrap import Interval
from extembed_cli.evaluate.rows import Rows
from extembed_cli.evaluate.split import Split

_Z = 1.959963984540054  # of a normal distribution, 19 times of 20


@dataclass(frozen=True)
class Single:
    """One column on the test rows."""

    name: str
    coverage: float
    """Share of the test rows where it is not null."""
    auc: Interval | None
    """Of the column as the score, where it is known; None where one class is missing, or for text."""
    knowing: Interval | None
    """Whether it is known as a score, for columns with nulls; text: the training rows' mean label of each value."""
    drift: float | None
    """Kolmogorov-Smirnov distance of its values between training and test rows: 0 = the same, 1 = apart."""


def judge_columns(split: Split) -> list[Single]:
    """All columns of the rows; text has no order, so neither AUC nor drift."""
    test = split.test
    found = []
    for name in test.names:
        values = test.column(name)
        known = ~np.isnan(values)
        coverage = float(known.mean())
        if name in test.categories:
            found.append(Single(name, coverage, None, _by_value(split, name), None))
            continue
        auc = clustered_auc(values[known], test.relevant[known], test.users[known])
        knowing = None if known.all() else clustered_auc(known.astype(np.float32), test.relevant, test.users)
        found.append(Single(name, coverage, auc, knowing, drift(split.train.column(name), values)))
    return found


def _by_value(split: Split, name: str) -> Interval | None:
    """The AUC of a text column whose values stand for the mean label that they have in the training rows."""
    codes, test = (np.nan_to_num(part.column(name)).astype(np.int64) for part in (split.train, split.test))
    size = int(max(codes.max(), test.max())) + 1
    rows = np.bincount(codes, minlength=size)
    mean = split.train.relevant.mean()
    means = (np.bincount(codes, split.train.relevant, size) + mean) / (rows + 1)
    return clustered_auc(means[test].astype(np.float32), split.test.relevant, split.test.users)


def clustered_auc(values: Floats, relevant: Bools, users: Ints) -> Interval | None:
    """The AUC with an interval for rows of users, without resampling.

        var = Σ_users (positives' deviations / n_+ + negatives' deviations / n_-)² · U / (U − 1)

    where the deviation of a row is the share of the other class that it beats, less the AUC. None for one class.
    Source: Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 53, 1997; for one row per user
    it is DeLong's. One user has no interval (NaN). values, relevant, users (n); the bounds are kept in [0, 1].
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
    lower, higher = (np.cumsum(each) - each / 2 for each in per_tie)  # of each class at or below, ties half
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
    """The largest difference between the distribution functions of two samples; NaNs left out, None without values.

    Kolmogorov-Smirnov, as scipy's `ks_2samp(...).statistic`.
    """
    a, b = (np.sort(values[~np.isnan(values)]) for values in (before, after))
    if not len(a) or not len(b):
        return None
    points = np.concatenate([a, b])
    apart = np.searchsorted(a, points, side="right") / len(a) - np.searchsorted(b, points, side="right") / len(b)
    return float(np.abs(apart).max())


def correlations(rows: Rows, strongest: str) -> dict[str, float | None]:
    """Spearman's rank correlation of every column with one of them, where both are known; None where undefined."""
    reference = rows.column(strongest)
    found: dict[str, float | None] = {}
    for name in rows.names:
        values = rows.column(name)
        both = ~(np.isnan(values) | np.isnan(reference))
        found[name] = None if name in rows.categories else _spearman(values[both], reference[both])
    return found


def _spearman(a: Floats, b: Floats) -> float | None:
    if len(a) < 3 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Doubles:
    """Mean ranks, ties sharing theirs."""
    _, tie, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    mean: Doubles = (ends - (count + 1) / 2)[tie]
    return mean
