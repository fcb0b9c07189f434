"""Measure how well scores rank rows, with a bootstrap over users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Doubles
from extembed_cli.evaluate.bootstrap import Interval, UserBootstrap, mean_over_seeds
from extembed_cli.evaluate.rows import Rows
from extembed_cli.kernels import metrics


@dataclass(frozen=True)
class Measurement:
    """The metrics of rankers of S seeds on the same rows."""

    values: dict[str, float]
    """Mean over seeds of each metric"""
    value: float
    """Mean over seeds of the metric of the ladder"""
    samples: Doubles
    """(S, R) the metric of the ladder for each seed under each resample of the users"""
    seed: int

    @property
    def interval(self) -> Interval:
        return Interval.of(self.value, mean_over_seeds(self.samples, self.seed))

    def gain_over(self, other: Measurement) -> Interval:
        """Return the difference of the metric to another measurement, on the same resamples."""
        return Interval.of(self.value - other.value, mean_over_seeds(self.samples - other.samples, self.seed))


class Judge:
    """Computes the metrics of scores of some rows. Each request counts as one row of its user."""

    def __init__(self, rows: Rows, resamples: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.resamples = resamples
        self.groups = None if rows.groups is None else metrics.Groups.of(rows.groups)
        users = rows.users
        if self.groups is not None:
            users = users[self.groups.rows[self.groups.start[:-1]]]
        self.users = UserBootstrap(users, resamples, seed)

    @property
    def metric(self) -> str:
        """Name of the metric of the ladder."""
        return "ndcg@10" if self.rows.listwise else "auc"

    def of(self, rows: Rows) -> Judge:
        """Return a judge of other rows with the same resamples and seed."""
        return Judge(rows, self.resamples, self.seed)

    def measure(self, scores_by_seed: Sequence[Doubles]) -> Measurement:
        """Return all metrics of scores (n), with resamples of the metric of the ladder."""
        values = [self._metrics(scores) for scores in scores_by_seed]
        samples = np.array([self._samples(scores) for scores in scores_by_seed])
        means = {name: float(np.mean([each[name] for each in values])) for name in values[0]}
        return Measurement(means, means[self.metric], samples, self.seed)

    def value(self, scores_by_seed: Sequence[Doubles]) -> float:
        """Return the mean over seeds of the metric of the ladder, without resamples."""
        if self.rows.listwise:
            return float(np.mean([np.nanmean(self._ndcgs(scores)) for scores in scores_by_seed]))
        return float(np.mean([metrics.auc(scores, self.rows.relevant) for scores in scores_by_seed]))

    def _samples(self, scores: Doubles) -> Doubles:
        if self.rows.listwise:
            return self.users.means(self._ndcgs(scores))
        ranked = metrics.RankedScores(scores, self.rows.relevant, self.users.of_row)
        return self.users.samples(ranked.auc)

    def _ndcgs(self, scores: Doubles) -> Doubles:
        assert self.groups is not None
        return metrics.ndcgs(scores, 2**self.rows.labels - 1, self.groups)

    def _metrics(self, scores: Doubles) -> dict[str, float]:
        relevant = self.rows.relevant
        values = {"auc": metrics.auc(scores, relevant)}
        if not self.rows.listwise:  # scores of lambdarank are not probabilities
            values["log_loss"] = float(metrics.log_losses(scores, relevant).mean())
        if self.groups is not None:
            aucs = metrics.group_aucs(scores, relevant, self.groups)
            values["gauc"] = _mean(aucs, self.groups.sizes.astype(np.float64))
            values["ndcg@10"] = _mean(self._ndcgs(scores))
            values["mrr"] = _mean(metrics.reciprocal_ranks(scores, relevant, self.groups))
        return values


def _mean(values: Doubles, weights: Doubles | None = None) -> float:
    """Return the weighted mean of the finite values; NaN without any."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=None if weights is None else weights[known]))
