"""The README is true: its commands run in a shell, its spec runs, its table and the help are generated."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import ROOT, World, timestamps

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder(world: World) -> Path:
    """The files that the README's commands name."""
    log = world.table("interactions")
    log = log.append_column("customer", log.column("user_id"))
    world.write("events/2026-01", log.slice(0, 300))
    world.write("events/2026-02", log.slice(300))
    asked = world.table("candidates")
    popularity = pa.array(np.arange(len(asked)) % 7)
    asked = asked.append_column("customer", asked.column("user_id")).append_column("popularity", popularity)
    world.write("candidates", asked.append_column("item_price", popularity))
    world.write("item_text", world.table("text"))
    (spec,) = blocks("toml")
    (world.folder / "spec.toml").write_text(spec)
    (world.folder / "docs").mkdir()
    return world.folder


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        ["sh", "-ec", command],
        cwd=cwd,
        env={"PATH": f"{scripts}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_of_the_readme_runs(folder: Path) -> None:
    commands = [block for block in blocks("sh") if "extembed" in block]
    assert len(commands) == 6
    for block in commands:
        done = shell(block, folder)
        assert done.returncode == 0, done.stderr
    # The command with flags and the spec write one file in turn; the last line of the block writes another.
    assert "text__liked__cos_to_mean__hl7d" in pl.read_parquet(folder / "features.parquet").columns
    assert "text__liked__cos_to_mean__hl1d" in pl.read_parquet(folder / "other.parquet").columns


def test_the_make_targets_of_the_readme_exist() -> None:
    (block,) = (b for b in blocks("sh") if "make features" in b)
    for target in re.findall(r"^make (\w+)", block, flags=re.MULTILINE):
        done = shell(f"make --dry-run {target}", ROOT)
        assert done.returncode == 0, done.stderr


def test_the_makefile_rule_of_the_readme_rebuilds_what_is_old(folder: Path) -> None:
    (rule,) = blocks("make")
    (folder / "Makefile").write_text(rule)
    for expected in ("extembed run", "up to date"):
        done = shell("make features.parquet", folder)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_generated_parts_are_in_step_with_the_code() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_rows_shown_are_rows_of_the_sample(tmp_path: Path) -> None:
    shown = next(block for block in blocks("text") if "item-1671" in block)
    names, *rows = (re.split(r"\s{2,}", line.strip()) for line in shown.strip().splitlines())
    output = tmp_path / "features.parquet"
    done = shell(f"extembed run {ROOT}/sample_data/spec.toml -q -o {output}", tmp_path)
    assert done.returncode == 0, done.stderr
    made = pl.read_parquet(output)
    for user, item, moment, *values in rows:
        micros = np.datetime64(moment.removesuffix(" UTC"), "us").astype(np.int64)
        when = pl.from_arrow(timestamps([micros], zone="UTC"))
        row = made.filter(
            pl.col("user_id") == int(user), pl.col("item_id") == item, pl.col("timestamp").is_in(when.implode())
        ).row(0, named=True)
        for name, value in zip(names[3:], values, strict=True):
            assert row[name] == pytest.approx(float(value), abs=1e-5), name
