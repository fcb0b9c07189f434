"""Decay-weighted statistics of the cosines of each candidate. Weights are 0 where an event does not count.

Where nothing is visible a statistic is undefined: its value here is arbitrary, and callers make it null.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extembed_cli.kernels.sums import sum_of_products, weight_sum

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

# Sums of float64 weights that are equal in exact arithmetic differ by less than this, relative to their size.
TIE = 1e-12


def weighted_mean(weights: Floats, values: Floats) -> Floats:
    """Weighted mean over events.

        mean[b, c] = sum_h w[b, c, h] x[b, c, h] / sum_h w[b, c, h]

    weights, values (B, C, H) -> (B, C) float32
    """
    mean: Floats = (sum_of_products(weights, values) / weight_sum(weights)).astype(np.float32)
    return mean


def minimum_and_maximum(values: Floats, visible: Bools) -> tuple[Floats, Floats]:
    """Smallest and largest visible value: (B, C, H), (B, C, H) -> (B, C), (B, C)."""
    low = np.where(visible, values, np.float32(np.inf)).min(axis=-1)
    high = np.where(visible, values, np.float32(-np.inf)).max(axis=-1)
    return low, high


def flat_order(values: Floats) -> Ints:
    """Order of the values of each candidate, ascending: (B, C, H) -> (B, C, H) positions in the flat array.

    One order serves every history, half-life and percentile of an embedding: what is not visible weighs 0.
    """
    order = np.argsort(values, axis=-1)
    rows = np.arange(order.shape[0] * order.shape[1], dtype=order.dtype) * order.shape[2]
    order += rows.reshape(order.shape[0], order.shape[1], 1)
    return order


def weighted_percentiles(values: Floats, weights: Doubles, order: Ints, percentiles: Sequence[int]) -> list[Floats]:
    """Weighted percentiles by the inverted CDF, each one exactly the value of an event.

        p_q = the smallest x whose cumulative weight >= q sum_h w

    as numpy's `quantile(x, q, weights=w, method="inverted_cdf")`. values, weights (B, C, H); order from
    `flat_order`; percentiles in 1..99 -> one (B, C) float32 each. Sums that tie with q up to rounding count as
    reaching it, as in exact arithmetic (the median of two equal weights is the lower value).
    """
    cumulative = np.cumsum(weights.reshape(-1).take(order), axis=-1)
    total = cumulative[..., -1:] * (1 - TIE)
    rows = np.arange(total.size).reshape(total.shape[:-1]) * order.shape[-1]
    percentile_values = []
    for q in percentiles:
        rank = (cumulative >= total * q / 100).argmax(axis=-1)
        percentile_values.append(values.reshape(-1).take(order.reshape(-1).take(rows + rank)))
    return percentile_values
