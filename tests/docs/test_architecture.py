"""The examples of the architecture page work: a statistic in one entry, and a whole technique outside the package."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from conftest import ROOT, World, run_spec
from helpers.pages import blocks

from extembed_cli.features.aggregate import statistics
from extembed_cli.features.technique.definitions import Definition

PAGE = ROOT / "docs" / "architecture.md"


def test_a_statistic_is_one_entry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(block.text for block in blocks(PAGE, "python") if "cos_range" in block.text)
    cosines = dict(statistics.COSINES)
    exec(entry, {"COSINES": cosines, "Definition": Definition})
    monkeypatch.setitem(statistics.COSINES, "cos_range", cosines["cos_range"])
    features = run_spec(world.spec())
    lowest, highest, span = (features[f"text__all__cos_{what}"].to_numpy() for what in ("min", "max", "range"))
    assert np.isfinite(span).sum() > 100
    np.testing.assert_allclose(span, highest - lowest, rtol=1e-6)


@pytest.mark.soak
def test_a_technique_takes_one_file_and_one_registry_entry(world: World) -> None:
    """The example runs in processes of its own, because a technique stays registered; in memory and in shards."""
    (world.folder / "tenure.py").write_text(next(b.text for b in blocks(PAGE, "python") if "TenureGroup" in b.text))
    spec = world.spec("[[tenure]]\n")
    for shards in (1, 3):
        script = (
            "import tenure\nfrom pathlib import Path\n"
            "from extembed_cli.jobs.layout import Layout\nfrom extembed_cli.jobs.options import RunOptions\n"
            "from extembed_cli.jobs.run import run_job\nfrom extembed_cli.spec.loading import load_spec\n"
            "from extembed_cli.system.progress import Watch\n"
            f"layout = Layout(shards={shards}, mapped={shards > 1})\n"
            f"spec = load_spec(Path('spec.toml'), output='{shards}.parquet')\n"
            "run_job(spec, RunOptions(workers=2, layout=layout), Watch())\n"
        )
        subprocess.run([sys.executable, "-c", script], cwd=spec.parent, check=True)
    one, three = ((spec.parent / f"{shards}.parquet").read_bytes() for shards in (1, 3))
    assert one == three
    features = pl.read_parquet(spec.parent / "1.parquet")
    assert (features["all__tenure_s"].drop_nulls() >= features["all__age_last_s"].drop_nulls()).all()
    assert features["all__tenure_s"].null_count() == features["all__age_last_s"].null_count() > 0


def test_saved_state_gives_the_result_of_the_same_process(world: World) -> None:
    """The two lines of the page compute the same result from a saved state."""
    lines = next(block.text for block in blocks(PAGE, "python") if "Shared.open" in block.text)
    from extembed_cli.engines import base
    from extembed_cli.features.prepare import Shared

    compared = []
    original = base.Job.compute

    def compute(job: base.Job, shard: base.Shard, *more: object) -> base.ShardResult:
        here = original(job, shard)
        folder = world.folder / "shared"
        job.shared.save(folder)
        names = {"Shared": Shared, "Job": base.Job, "spec": job.spec, "folder": folder, "shard": shard}
        names["columns"] = job.shared.columns
        names["vectors_as_of"] = job.vectors_as_of
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base.Job, "compute", original)
            exec(lines, names)
        there = names["result"]
        assert isinstance(there, base.ShardResult)
        for name, values in here.features.columns.items():
            assert there.features.columns[name].tobytes() == values.tobytes()
        assert [part.vectors.tobytes() for part in there.vectors] == [part.vectors.tobytes() for part in here.vectors]
        compared.append((len(here.features.columns), len(here.vectors), here.tally.counts == there.tally.counts))
        return there

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base.Job, "compute", compute)
        run_spec(world.spec('[[dual]]\nunobserved_weight = 0.1\nuser_vectors = "users.parquet"\n'))
    assert compared == [(1, 1, True)]
