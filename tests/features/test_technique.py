"""A technique needs one file and one line of the registry. No other file changes or knows its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Ran, World, soak

from extembed_cli.evaluate.columns import feature_steps
from extembed_cli.features import registry
from extembed_cli.spec.groups import Group

CONSTANT = '''
"""A fourth technique: a column that has one value for every candidate."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.protocol import Prepared, ShardWork, State, Task, Technique
from extembed_cli.spec.groups import Group
from extembed_cli.spec.model import Spec


class ConstantGroup(Group):
    """A constant."""

    technique = "constant"
    value: float


class Constant(Technique):
    group = ConstantGroup
    step = "constant"

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(ConstantGroup):
            yield Column(f"{group.name}__value", "Float32", "constant", f"always {group.value:g}", group.value)

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> "ConstantState":
        return ConstantState([value for value in statistics if isinstance(value, float)])

    def report(self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return {"constants": tally.counts.get("constants", 0)}


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
'''
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
IN_MAPPED_SHARDS = """
import sys
from extembed_cli.jobs import local_passes
from extembed_cli.jobs.layout import Layout

local_passes.layout_of = lambda *args, **named: Layout(shards=3, mapped=True)
from extembed_cli.__main__ import main

main()
"""

WITH_A_FIFTH = """
import numpy as np
from extembed_cli.features import constant, registry
from extembed_cli.spec.groups import Group


class OppositeGroup(Group):
    technique = "opposite"
    value: float


class Opposite(constant.Constant):
    group = OppositeGroup
    step = "opposite"

    def columns(self, spec):
        for group in spec.of(OppositeGroup):
            yield constant.Column(f"{group.name}__opposite", "Float32", "opposite", "", group.value)

    def prepare(self, spec, statistics, prepared):
        return OppositeState(list(statistics))


class OppositeState(constant.ConstantState):
    def tasks(self, work):
        def fill(value):
            work.values[value] = np.full(len(work.candidates.rows), -value)
            return constant.Tally()

        return (lambda value=value: fill(value) for value in self.values)


registry.TECHNIQUES.append(Opposite())
from extembed_cli.__main__ import main

main()
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides a copy of the package with a new technique and its line in the registry."""
    folder: Path = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "extembed_cli", folder / "extembed_cli")
    (folder / "extembed_cli" / "features" / "constant.py").write_text(CONSTANT)
    path = folder / "extembed_cli" / "features" / "registry.py"
    listed = "TECHNIQUES: list[Technique] = [Counters(), Aggregate(), Direct(), Dual(), Neural()]"
    text = path.read_text()
    assert text.count(listed) == 1
    added = f"from extembed_cli.features.constant import Constant\n\n{listed[:-1]}, Constant()]"
    path.write_text(text.replace(listed, added))
    return folder


def extembed(package: Path, *args: str | Path, program: str | None = None) -> Ran:
    start = ["-m", "extembed_cli"] if program is None else ["-c", program]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, *start, *map(str, args)]
    done = subprocess.run(
        command, env=environment, cwd=package, capture_output=True, text=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("program", [soak(None), IN_MAPPED_SHARDS], ids=["in memory", "in mapped shards"])
def test_a_fourth_technique_runs(world: World, package: Path, program: str | None) -> None:
    report = extembed(package, "run", world.spec(GROUPS), "--json", program=program).ok().json
    features = world.output()
    assert features["half__value"].to_list() == features["again__value"].to_list() == [0.5] * 300
    assert features["two__value"].to_list() == [2.0] * 300
    assert features["text__all__cos_mean__hl7d"].null_count() < 300
    assert report["column_names"][-3:] == ["half__value", "again__value", "two__value"]
    assert report["shards"] == (1 if program is None else 3)
    assert report["constants"] == 2 * report["shards"]
    about = json.loads((pq.read_schema(world.folder / "out.parquet").metadata or {})[b"extembed"])
    named = {"name": "two__value", "technique": "constant", "dtype": "Float32", "meaning": "always 2"}
    assert about["columns"][-1] == named
    assert about["spec"]["constant"][2] == {"name": "two", "value": 2.0}


@pytest.mark.soak
def test_the_other_commands_know_a_fourth_technique(world: World, package: Path) -> None:
    spec = world.spec(GROUPS)
    assert extembed(package, "columns", spec).ok().out.splitlines()[-1] == "two__value\tFloat32\tconstant\talways 2"
    assert "{half,again,two}__value" in extembed(package, "run", spec, "--dry-run").ok().out
    extembed(package, "check", spec).ok()
    explained = extembed(package, "explain", spec, "--row", "7", "--columns", "two__*").ok().out
    assert explained.splitlines()[-1].split() == ["two__value", "2", "always", "2"]
    wrong = world.spec('[[constant]]\nname = "x"\nvalue = 1.0\nvaleu = 2.0\n')
    extembed(package, "run", wrong).failed(2, "constant.0.valeu", "did you mean `value`?")
    extembed(ROOT, "run", spec).failed(2, "`constant` is not a known key")


@pytest.mark.soak
def test_equal_statistics_of_two_techniques_do_not_meet(world: World, package: Path) -> None:
    groups = '[[constant]]\nname = "half"\nvalue = 0.5\n[[opposite]]\nname = "half"\nvalue = 0.5\n'
    extembed(package, "run", world.spec(groups), "-q", program=WITH_A_FIFTH).ok()
    features = world.output()
    assert features["half__value"].to_list() == [0.5] * 300
    assert features["half__opposite"].to_list() == [-0.5] * 300


def test_every_technique_has_its_group() -> None:
    assert [technique.group for technique in registry.TECHNIQUES] == list(Group.known.values())
    assert feature_steps() == ["counters", "aggregate", "dual", "neural"]
