"""How well scores rank some test rows, with what resamples of the users say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Doubles
from extembed_cli.evaluate.bootstrap import Interval, Users, mean_over_seeds
from extembed_cli.evaluate.rows import Rows
from extembed_cli.kernels import metrics


@dataclass(frozen=True)
class Measured:
    """How well rows are ranked by models of several seeds."""

    values: dict[str, float]
    """Each metric, the mean over seeds"""
    value: float
    """The metric that the ladder is judged by"""
    samples: Doubles
    """(S, R) the same, for each seed under each resample of the users"""
    seed: int

    @property
    def interval(self) -> Interval:
        return Interval.of(self.value, mean_over_seeds(self.samples, self.seed))

    def over(self, other: Measured) -> Interval:
        """How much better than the other, on the same resamples."""
        return Interval.of(self.value - other.value, mean_over_seeds(self.samples - other.samples, self.seed))


class Judge:
    """Measures scores of some rows. A request counts as a row of its user."""

    def __init__(self, rows: Rows, resamples: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.resamples = resamples
        self.groups = None if rows.groups is None else metrics.Groups.of(rows.groups)
        users = rows.users
        if self.groups is not None:
            users = users[self.groups.rows[self.groups.start[:-1]]]
        self.users = Users(users, resamples, seed)

    @property
    def metric(self) -> str:
        """The metric that the ladder is judged by."""
        return "ndcg@10" if self.rows.listwise else "auc"

    def of(self, rows: Rows) -> Judge:
        """The same for other rows."""
        return Judge(rows, self.resamples, self.seed)

    def measure(self, rankings: Sequence[Doubles]) -> Measured:
        """Scores (n) of several seeds."""
        values = [self._values(scores) for scores in rankings]
        samples = np.array([self._samples(scores) for scores in rankings])
        means = {name: float(np.mean([each[name] for each in values])) for name in values[0]}
        return Measured(means, means[self.metric], samples, self.seed)

    def value(self, rankings: Sequence[Doubles]) -> float:
        """Only the metric that the ladder is judged by."""
        if self.rows.listwise:
            return float(np.mean([np.nanmean(self._ndcgs(scores)) for scores in rankings]))
        return float(np.mean([metrics.auc(scores, self.rows.relevant) for scores in rankings]))

    def _samples(self, scores: Doubles) -> Doubles:
        if self.rows.listwise:
            return self.users.means(self._ndcgs(scores))
        ranked = metrics.RankedScores(scores, self.rows.relevant, self.users.of_row)
        return self.users.samples(ranked.auc)

    def _ndcgs(self, scores: Doubles) -> Doubles:
        assert self.groups is not None
        return metrics.ndcgs(scores, 2**self.rows.labels - 1, self.groups)

    def _values(self, scores: Doubles) -> dict[str, float]:
        relevant = self.rows.relevant
        values = {"auc": metrics.auc(scores, relevant)}
        if not self.rows.listwise:  # scores of lambdarank are no chances
            values["log_loss"] = float(metrics.log_losses(scores, relevant).mean())
        if self.groups is not None:
            aucs = metrics.group_aucs(scores, relevant, self.groups)
            values["gauc"] = _mean(aucs, self.groups.sizes.astype(np.float64))
            values["ndcg@10"] = _mean(self._ndcgs(scores))
            values["mrr"] = _mean(metrics.reciprocal_ranks(scores, relevant, self.groups))
        return values


def _mean(values: Doubles, weights: Doubles | None = None) -> float:
    """Of those that are defined."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=None if weights is None else weights[known]))
