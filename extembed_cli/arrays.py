"""Names for arrays by what they hold; shapes stand in docstrings: Q candidates, N events, U users, d dimensions."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]
Nums: TypeAlias = NDArray[np.int32]
"""Nums of items; -1 = a null item."""
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.floating[Any]]
"""float64: operations on it keep numpy's types vague."""
Values: TypeAlias = NDArray[Any]
"""Numbers of a type that the docstring says."""
