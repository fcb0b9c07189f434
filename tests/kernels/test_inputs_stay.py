"""No kernel writes into its inputs: a job with read-only inputs gives the same output."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, run_spec

GROUPS = """
weight = "rating"
[within]
by = "request"
columns = ["text__all__cos_max"]
[histories.liked]
where = "rating >= 4"
[histories.recent]
window = "20d"
[[aggregate]]
histories = ["all", "recent"]
half_lives = ["7d", "none"]
thresholds = [0.0, 0.3, 1.0]
sd = true
top = [3]
[[aggregate]]
name = "rated"
histories = ["all"]
target = "rating"
residual = "item+user"
residual_half_life = "30d"
thresholds = [0.3]
top = [3]
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
sd = true
[[dual]]
name = "decayed_logistic"
histories = ["recent"]
target = "rating - 3"
loss = "logistic"
half_life = "10d"
sd = true
[[dual]]
name = "decayed_sd"
histories = ["all"]
half_life = "1h"
sd = true
[[dual]]
side = "all"
histories = ["all"]
sd = true
[[dual]]
name = "scaled"
sd = true
histories = ["recent"]
scaling = 1.0
"""


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of an argument, and those in its lists, tuples and dataclasses."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from arrays_in(each)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name))


def with_inputs_read_only(kernel: Callable[..., Any], called: set[str]) -> Callable[..., Any]:
    parameters = list(inspect.signature(kernel).parameters)

    @functools.wraps(kernel)
    def wrapped(*args: Any, **named: Any) -> Any:
        called.add(kernel.__qualname__)
        inputs = {**dict(zip(parameters, args, strict=False)), **named}
        locked = [
            array
            for name, value in inputs.items()
            if name not in {"out", "self"}  # what a kernel fills in, and what an object keeps
            for array in arrays_in(value)
            if array.flags.writeable
        ]
        for array in locked:
            array.flags.writeable = False
        try:
            return kernel(*args, **named)
        finally:
            for array in locked:
                array.flags.writeable = True

    return wrapped


def kernels_of(module: ModuleType) -> Iterator[tuple[object, str, Callable[..., Any]]]:
    """Yield the public kernels that a module has under a name, and the methods of its own classes.

    The metrics of evaluations are not for features.
    """
    for name, value in list(vars(module).items()):
        where = getattr(value, "__module__", None) or ""
        if not where.startswith("extembed_cli.kernels.") or where.endswith(".metrics") or name.startswith("_"):
            continue
        if isinstance(value, FunctionType):
            yield module, name, value
        elif isinstance(value, type) and where == module.__name__ and Protocol not in value.__bases__:
            for method, function in list(vars(value).items()):
                if isinstance(function, FunctionType) and not method.startswith("_"):
                    yield value, method, function


def test_no_kernel_writes_into_its_inputs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    events = world.table("interactions")
    more = events.take(
        np.random.default_rng(0).integers(0, len(events), 1500)
    )  # of three users, who get long histories
    more = more.set_column(0, "user_id", pa.array(np.arange(len(more)) % 3))
    world.write("interactions", pa.concat_tables([events, more]))
    candidates = world.table("candidates")
    world.write("candidates", candidates.append_column("request", candidates["timestamp"].cast(pa.int64())))
    expected = run_spec(world.spec(GROUPS), workers=1)
    called: set[str] = set()
    public: set[str] = set()
    modules = [module for name, module in sys.modules.items() if name.startswith("extembed_cli.")]
    for owner, name, kernel in [found for module in modules for found in kernels_of(module)]:
        public.add(kernel.__qualname__)
        monkeypatch.setattr(owner, name, with_inputs_read_only(kernel, called))
    assert run_spec(world.spec(GROUPS), workers=1).equals(expected, null_equal=True)
    # Where fits of a batch converge after each other; and on Spark, where the days of a log are apart.
    assert public - called <= {"PrimalForm.take", "EarlierMean.days"}
