"""Metrics in cases that libraries do not define: a single class, and ties within a request."""

from __future__ import annotations

import numpy as np

from extembed_cli.kernels import metrics


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([True, True])))


def test_ties_inside_a_request_count_half_in_its_auc() -> None:
    groups = metrics.Groups.of(np.array([0, 0, 1, 1, 1]))
    aucs = metrics.group_aucs(np.array([1.0, 1.0, 3.0, 3.0, 1.0]), np.array([True, False, True, False, False]), groups)
    assert aucs.tolist() == [0.5, 0.75]
