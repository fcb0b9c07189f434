"""No kernel writes into its inputs: a job with read-only inputs gives the same output."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from conftest import World, run_spec

GROUPS = """
weight = "rating"
[histories.liked]
where = "rating >= 4"
[histories.recent]
window = "20d"
[[aggregate]]
histories = ["all", "recent"]
half_lives = ["7d", "none"]
thresholds = [0.0, 0.3, 1.0]
sd = true
[[dual]]
histories = ["all"]
target = "rating - 3"
unobserved_weight = 0.1
bias = true
sd = true
[[dual]]
name = "decay"
histories = ["liked"]
half_life = "30d"
[[dual]]
name = "logistic"
histories = ["all"]
target = "rating - 3"
loss = "logistic"
[[dual]]
name = "scaled"
histories = ["recent"]
scaling = 1.0
"""


def with_inputs_read_only(kernel: Callable[..., Any], called: set[str]) -> Callable[..., Any]:
    parameters = list(inspect.signature(kernel).parameters)

    @functools.wraps(kernel)
    def wrapped(*args: Any, **named: Any) -> Any:
        called.add(kernel.__name__)
        inputs = {**dict(zip(parameters, args, strict=False)), **named}
        locked = [
            value
            for name, value in inputs.items()
            if name != "out" and isinstance(value, np.ndarray) and value.flags.writeable
        ]
        for array in locked:
            array.flags.writeable = False
        try:
            return kernel(*args, **named)
        finally:
            for array in locked:
                array.flags.writeable = True

    return wrapped


def test_no_kernel_writes_into_its_inputs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_spec(world.spec(GROUPS), workers=1)
    called: set[str] = set()
    modules = [module for name, module in sys.modules.items() if name.startswith("extembed_cli.")]
    for module in modules:
        for name, value in list(vars(module).items()):
            is_kernel = isinstance(value, FunctionType) and value.__module__.startswith("extembed_cli.kernels.")
            if is_kernel and not name.startswith("_"):
                monkeypatch.setattr(module, name, with_inputs_read_only(value, called))
    assert run_spec(world.spec(GROUPS), workers=1).equals(expected, null_equal=True)
    assert called >= {
        "block_cosines",
        "visible_sums",
        "rank",
        "cumulate",
        "deviations",
        "solve_prefixes",
        "solve_logistic",
        "kernels",
    }
