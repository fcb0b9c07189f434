"""Confidence intervals by resampling users: the rows of one user are not independent.

Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993: percentile intervals, clusters as units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Doubles, Ints

LEVEL = 0.95
MIN_USERS = 10
"""Resamples of fewer users say little about how users differ."""


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: Doubles) -> Interval:
        """Return the interval from the values of R resamples; its bounds are NaN where all of these are undefined."""
        samples = samples[np.isfinite(samples)]
        if not len(samples):
            return cls(value, float("nan"), float("nan"))
        low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(value, float(low), float(high))

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


class UserBootstrap:
    """Resamples of the users of some rows. Every call draws the same resamples, so that differences are paired."""

    def __init__(self, users: Ints, resamples: int, seed: int) -> None:
        _, self.of_row = np.unique(users, return_inverse=True)
        """(n) the user of each row, from 0"""
        self.number = int(self.of_row.max()) + 1 if len(users) else 0
        self.resamples = resamples
        self.seed = seed

    def counts(self) -> Iterator[Doubles]:
        """Yield, for each resample, how many times each user was drawn: (U)."""
        rng = np.random.default_rng([self.seed, 3])
        for _ in range(self.resamples):
            yield np.bincount(rng.integers(0, self.number, self.number), minlength=self.number).astype(np.float64)

    def samples(self, statistic: Callable[[Doubles], float]) -> Doubles:
        """Return a statistic of the users' weights (U) under every resample: (R)."""
        return np.array([statistic(counts) for counts in self.counts()])

    def means(self, values: Doubles) -> Doubles:
        """Return resampled means of the values of rows (n) without NaN: (R)."""
        known = np.isfinite(values)
        top = np.bincount(self.of_row, np.where(known, values, 0), self.number)
        bottom = np.bincount(self.of_row, known, self.number)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.samples(lambda counts: float((counts @ top) / (counts @ bottom)))


def mean_over_seeds(samples: Doubles, seed: int) -> Doubles:
    """Return resampled means over seeds: (S, R) -> (R). Each resample also draws S seeds, for the luck of training.

    The draw depends on the shape and the seed alone: differences of two sides stay paired.
    """
    S, R = samples.shape
    drawn = np.random.default_rng([seed, 2]).integers(0, S, (S, R))
    mean: Doubles = np.take_along_axis(samples, drawn, 0).mean(0)
    return mean
