"""A technique is added by a class and a line of the registry: the rest of the program knows none by name."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import World

from extembed_cli.data.shard_results import Tally
from extembed_cli.errors import SpecError
from extembed_cli.features import registry
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.protocol import Prepared, ShardWork, State, Task, Technique
from extembed_cli.jobs.check import check_job
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.plan import plan_job
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.groups import Group
from extembed_cli.spec.loading import load_spec
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fourth technique: a column that has one value for every candidate."""

    class ConstantGroup(Group):
        """A constant."""

        technique = "constant"
        value: float

    @dataclass(frozen=True)
    class ConstantState(State):
        values: list[float]

        @property
        def passes(self) -> int:
            return 1

        def tasks(self, work: ShardWork) -> Iterator[Task]:
            def fill(value: float) -> Tally:
                work.values[value] = np.full(len(work.candidates.rows), value)
                return Tally(passes=len(work.candidates.rows), counts={"constants": 1})

            return (lambda value=value: fill(value) for value in self.values)

    class Constant(Technique):
        group = ConstantGroup
        steps = ("constant",)

        def columns(self, spec: Spec) -> Iterator[Column]:
            for group in spec.of(ConstantGroup):
                yield Column(f"{group.name}__value", "Float32", "constant", f"always {group.value:g}", group.value)

        def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> ConstantState:
            return ConstantState([value for value in statistics if isinstance(value, float)])

        def report(self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]]) -> dict[str, Any]:
            return {"constants": tally.counts.get("constants", 0)}

    monkeypatch.setattr(registry, "TECHNIQUES", [*registry.TECHNIQUES, Constant()])
    yield
    del Group.known["constant"]


GROUPS = """
[[aggregate]]
half_lives = ["7d"]
[[constant]]
name = "half"
value = 0.5
[[constant]]
name = "again"
value = 0.5
[[constant]]
name = "two"
value = 2.0
"""


@pytest.mark.usefixtures("constant")
@pytest.mark.parametrize("layout", [Layout(), Layout(shards=3, mapped=True)], ids=["in memory", "in mapped files"])
def test_a_fourth_technique(world: World, layout: Layout) -> None:
    spec = load_spec(world.spec(GROUPS))
    report = run_job(spec, RunOptions(workers=2, layout=layout), Watch())
    features = world.output()
    assert features["half__value"].to_list() == features["again__value"].to_list() == [0.5] * 300
    assert features["two__value"].to_list() == [2.0] * 300
    assert features["text__all__cos_mean__hl7d"].null_count() < 300
    assert report["column_names"][-3:] == ["half__value", "again__value", "two__value"]
    assert report["constants"] == 2 * layout.shards
    about = json.loads((pq.read_schema(world.folder / "out.parquet").metadata or {})[b"extembed"])
    assert about["columns"][-1] == {
        "name": "two__value",
        "technique": "constant",
        "dtype": "Float32",
        "meaning": "always 2",
    }
    assert about["spec"]["constant"][2] == {"name": "two", "value": 2.0}


@pytest.mark.usefixtures("constant")
def test_the_other_commands_know_it_too(world: World) -> None:
    spec = load_spec(world.spec(GROUPS))
    assert plan_job(spec, RunOptions(workers=1), Watch())["columns"][-1] == "two__value"
    assert check_job(spec, Watch())["columns"] == len(registry.output_columns(spec))
    with pytest.raises(SpecError, match=r"constant\.0\.valeu.*did you mean `value`"):
        load_spec(world.spec('[[constant]]\nname = "x"\nvalue = 1.0\nvaleu = 2.0\n'))


def test_without_it_the_key_is_not_known(world: World) -> None:
    with pytest.raises(SpecError, match="`constant` is not a known key"):
        load_spec(world.spec(GROUPS))


def test_techniques_and_groups_are_the_same() -> None:
    assert [technique.group for technique in registry.TECHNIQUES] == list(Group.known.values())
    steps = [step for technique in registry.TECHNIQUES for step in technique.steps]
    assert len(set(steps)) == len(steps)
