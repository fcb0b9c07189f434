"""Intervals by resampling users, whose rows are not independent; both sides of a difference see the same resamples.

Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993: percentile intervals, clusters as units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from extembed_cli.arrays import Doubles, Ints

LEVEL = 0.95
FEWEST_USERS = 10
"""With fewer, resamples of them say little of how users differ."""


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds between which it lies 19 times of 20."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: Doubles) -> Interval:
        """From the values of resamples (R); NaN where none of them is defined."""
        samples = samples[np.isfinite(samples)]
        if not len(samples):
            return cls(value, float("nan"), float("nan"))
        low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(value, float(low), float(high))

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


class Users:
    """Resamples of the users of some rows, the same for whatever is compared on them."""

    def __init__(self, users: Ints, resamples: int, seed: int) -> None:
        _, self.of_row = np.unique(users, return_inverse=True)
        """(n) the user of each row, from 0"""
        self.number = int(self.of_row.max()) + 1 if len(users) else 0
        self.resamples = resamples
        self.seed = seed

    def counts(self) -> Iterator[Doubles]:
        """How many times each user was drawn: (U), for each resample. The same at every call."""
        rng = np.random.default_rng([self.seed, 3])
        for _ in range(self.resamples):
            yield np.bincount(rng.integers(0, self.number, self.number), minlength=self.number).astype(np.float64)

    def samples(self, statistic: Callable[[Doubles], float]) -> Doubles:
        """A statistic of the users' weights (U) under every resample: (R)."""
        return np.array([statistic(counts) for counts in self.counts()])

    def means(self, values: Doubles) -> Doubles:
        """Resampled means of values of rows (n), those that are NaN left out: (R)."""
        known = np.isfinite(values)
        top = np.bincount(self.of_row, np.where(known, values, 0), self.number)
        bottom = np.bincount(self.of_row, known, self.number)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.samples(lambda counts: float((counts @ top) / (counts @ bottom)))


def mean_over_seeds(samples: Doubles, seed: int) -> Doubles:
    """Resampled means over seeds: (S, R) -> (R), each of S seeds drawn again, so that the luck of training counts too.

    The same draw for the same shape and seed: differences of two sides stay paired.
    """
    S, R = samples.shape
    drawn = np.random.default_rng([seed, 2]).integers(0, S, (S, R))
    mean: Doubles = np.take_along_axis(samples, drawn, 0).mean(0)
    return mean
