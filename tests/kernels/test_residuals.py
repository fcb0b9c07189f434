"""The mean of all earlier values does not depend on when the log begins, nor on how its days are cut into windows."""

from __future__ import annotations

import numpy as np
import pytest

from extembed_cli.kernels.residuals import DAY_US, EarlierMean

VALUES = np.array([1.0, 2.0, 3.0, 5.0, 4.0])
TIMES = np.array([0, 5, DAY_US, 3 * DAY_US, 3 * DAY_US + 7])


@pytest.mark.parametrize("half_life", [None, 3_600_000_000, DAY_US])
@pytest.mark.parametrize("begin", [-80 * 365 * DAY_US, 0, 50 * 365 * DAY_US], ids=["1890", "1970", "2020"])
def test_a_log_of_any_age_has_the_same_means(half_life: int | None, begin: int) -> None:
    """Long before 1970 a weight of nothing would grow beyond all numbers."""
    means = EarlierMean(half_life, begin).of(TIMES + begin, VALUES)
    weights = [1.0 if half_life is None else 2.0 ** (time / half_life) for time in TIMES.tolist()]
    expected = [np.average(VALUES[:place], weights=weights[:place]) for place in range(1, len(VALUES))]
    np.testing.assert_allclose(means, [np.nan, *expected], rtol=1e-12)
    windows = EarlierMean(half_life, begin)
    cut = np.concatenate([windows.of(TIMES[at] + begin, VALUES[at]) for at in (slice(3), slice(3, 5))])
    assert np.array_equal(cut, means, equal_nan=True)
