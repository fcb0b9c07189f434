"""`check`, `columns`, `sample`, and a run into a directory of parts."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed
from helpers.commands import SPEC_OF_A_RUN, names, only_json
from polars.testing import assert_frame_equal


def test_check_reports_rows_and_dimensions(world: World) -> None:
    spec = world.spec()
    before = names(world.folder)
    shown = extembed("check", spec).ok()
    assert all(part in shown.out for part in ("600 rows", "300 rows", "35 rows of 8 dimensions", "no problems found"))
    assert only_json(extembed("check", spec, "--json").ok().out)["inputs"]["embeddings"]["text"]["dim"] == 8
    quiet = extembed("check", spec, "-q").ok()
    assert quiet.out == quiet.err == ""
    assert names(world.folder) == before


def test_columns_lists_the_columns_that_run_writes(world: World) -> None:
    features = world.run(SPEC_OF_A_RUN)
    spec = world.folder / "spec.toml"
    for name in ("interactions", "candidates", "text"):  # no data is needed
        (world.folder / f"{name}.parquet").unlink()
    listed = only_json(extembed("columns", spec, "--json").ok().out)["columns"]
    written = list(features.schema.items())[4:]
    assert [(c["name"], c["dtype"]) for c in listed] == [(name, str(dtype)) for name, dtype in written]
    assert all(c["meaning"] for c in listed)
    lines = [f"{c['name']}\t{c['dtype']}\t{c['technique']}\t{c['meaning']}" for c in listed]
    assert extembed("columns", spec).ok().out.splitlines() == lines


@pytest.mark.soak
def test_the_sample_runs(tmp_path: Path) -> None:
    sample = extembed("sample", "try", cwd=tmp_path).ok()
    assert sample.out == ""
    assert "extembed run try/spec.toml" in sample.err
    extembed("check", "try/spec.toml", cwd=tmp_path).ok()
    extembed("run", "try/spec.toml", cwd=tmp_path).ok()
    features = pl.read_parquet(tmp_path / "try" / "features.parquet")
    assert len(features) == pq.read_metadata(tmp_path / "try" / "candidates.parquet").num_rows
    extembed("sample", "try", cwd=tmp_path).failed(2, "try: has other files", "name a new folder")


def test_a_run_can_write_a_directory_of_parts(world: World) -> None:
    expected = world.run()
    spec = world.folder / "spec.toml"
    for _ in range(2):  # an output of extembed can be overwritten
        extembed("run", spec, "-o", world.folder / "features").ok()
        manifest = json.loads((world.folder / "features" / "_extembed_manifest.json").read_text())
        assert names(world.folder / "features") == {"_extembed_manifest.json", *(p["file"] for p in manifest["parts"])}
    assert manifest["rows"] == sum(part["rows"] for part in manifest["parts"]) == 300
    parts = [pl.read_parquet(world.folder / "features" / part["file"]) for part in manifest["parts"]]
    assert_frame_equal(pl.concat(parts), expected, check_exact=True)
    report = json.loads((world.folder / "features.run.json").read_text())
    assert report["rows_out"] == 300
    assert not [name for name in names(world.folder) if name.endswith((".tmp", ".lock"))]
