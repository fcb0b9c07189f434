"""A run that writes features and user vectors, killed at any place, leaves each file old or new, and complete."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, soak
from helpers.faults import KILLED, Fault, drive, place, undisturbed

SPEC = '[[dual]]\nregularization = {strength}\nuser_vectors = "users.parquet"\n'
FILES = ("out.parquet", "users.parquet")


def spec(world: World, strength: float) -> Path:
    return world.spec(SPEC.format(strength=strength))


def run_clean(world: World, strength: float) -> dict[str, bytes]:
    """Run without faults, and return the files that it wrote."""
    undisturbed("run", spec(world, strength)).ok()
    return contents(world)


def contents(world: World) -> dict[str, bytes]:
    return {name: (world.folder / name).read_bytes() for name in FILES}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "new"),
    [
        soak(Fault("extembed_cli.engines.base:compute_shard"), 0),
        soak(Fault("extembed_cli.jobs.outputs:write_vectors"), 0),
        soak(Fault("pyarrow.parquet:ParquetWriter.write_batch", "after", 2), 0),
        soak(Fault("extembed_cli.jobs.outputs:write_vectors", "after"), 0),
        soak(Fault("pathlib:Path.replace"), 0),
        (Fault("pathlib:Path.replace", "after", 1), 1),
        soak(Fault("pathlib:Path.replace", "after", 2), 2),
    ],
    ids=lambda case: place(case) if isinstance(case, Fault) else None,
)
def test_a_killed_run_leaves_each_file_old_or_new(world: World, fault: Fault, new: int) -> None:
    after, before = run_clean(world, 7), run_clean(world, 2)
    assert all(before[name] != after[name] for name in FILES)
    with drive("run", str(spec(world, 7)), faults=(fault,)) as run:
        assert run.end().code == KILLED
    files = contents(world)
    assert [files[name] == after[name] for name in FILES] == [True] * new + [False] * (2 - new)
    assert all(files[name] in {before[name], after[name]} for name in FILES)
    assert all(pq.read_table(world.folder / name).num_rows for name in FILES)
    verified = extembed("verify", world.folder / "out.parquet")
    if new:
        verified.failed(1, "not all files are of one run", "A run was killed between renaming them")
    else:
        verified.ok()
    assert run_clean(world, 7) == after
    extembed("verify", world.folder / "out.parquet").ok()
    assert not list(world.folder.glob(".*"))


@pytest.mark.soak
def test_two_runs_cannot_write_the_same_user_vectors_at_once(world: World, tmp_path: Path) -> None:
    """The second run has the lock of its own output. It still must not write the vectors."""
    other = ("run", world.spec(SPEC.format(strength=3), "other.toml"), "-o", world.folder / "other.parquet")
    hold = Fault("os:fsync", do="hold", path=str(tmp_path / "go"))
    with drive("run", str(spec(world, 2)), faults=(hold,)) as first:
        first.reached()
        extembed(*other).failed(4, "users.parquet", "another run")
        assert not (world.folder / "other.parquet").exists()
        (tmp_path / "go").touch()
        first.end().ok()
    extembed(*other).ok()
