"""One flipped bit of any file of a run, its report and manifest too, does not go unnoticed by `verify`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import World, soak
from helpers.faults import undisturbed

from extembed_cli.errors import DataError
from extembed_cli.jobs.verify import verify_run
from extembed_cli.system.progress import Watch

SPEC = """[[aggregate]]
half_lives = ["7d"]
[[dual]]
user_vectors = "users.parquet"
[[dual]]
name = "items"
user_vectors = "more.parquet"
target = "rating - 3"
"""


def files_of_run(folder: Path, output: str) -> list[Path]:
    """Return all files of a run: the report, the vectors, and the feature file or the manifest and the parts."""
    features = folder / output
    parts = sorted(features.iterdir()) if features.is_dir() else [features]
    return [*parts, *(folder / name for name in (f"{output}.run.json", "users.parquet", "more.parquet"))]


@pytest.mark.parametrize(
    ("output", "flips"), [("out", 50), soak("out.parquet", 50), soak("out.parquet", 500), soak("out", 500)]
)
def test_every_flipped_bit_is_found(world: World, output: str, flips: int) -> None:
    undisturbed("run", world.spec(SPEC), "-o", world.folder / output).ok()
    path, files = world.folder / output, files_of_run(world.folder, output)
    assert len(files) == (4 if output == "out.parquet" else 7)
    verify_run(path, None, "skip", Watch())
    draw, unnoticed = random.Random(flips), []
    for _ in range(flips):
        file = draw.choice(files)
        before = file.read_bytes()
        place, bit = draw.randrange(len(before)), 1 << draw.randrange(8)
        file.write_bytes(before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :])
        try:
            verify_run(path, None, "skip", Watch())
            unnoticed.append((file.name, place, bit))
        except DataError:
            pass
        file.write_bytes(before)
    assert not unnoticed
    verify_run(path, None, "skip", Watch())
