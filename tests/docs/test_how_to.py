"""The commands of the how-to pages run, each page in its own small world."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import ROOT, World
from helpers.foreign import VECTORS, WORDS, csv, npy, real, safetensors, text, word2vec
from helpers.pages import blocks, cron_command, name, shell, sooner

HOW_TO = sorted(page for page in (ROOT / "docs" / "how-to").glob("*.md") if page.name != "rankers.md")
CRON = ROOT / "docs" / "how-to" / "cron-and-make.md"
VERIFY = "extembed verify features.parquet -q --inputs skip"
with_commands = [
    pytest.param(page, id=name(page), marks=[] if page == CRON else [pytest.mark.soak])
    for page in HOW_TO
    if blocks(page, "sh")
]


@pytest.fixture
def folder(world: World) -> Path:
    """Provides a folder with all files that the commands name, and with the spec of the reference."""
    log = world.table("interactions")
    world.write("events/2026-01", log.slice(0, 300))
    world.write("events/2026-02", log.slice(300))
    candidates = world.table("candidates")
    popularity = pa.array(np.arange(len(candidates)) % 7)
    candidates = candidates.append_column("popularity", popularity).append_column("item_price", popularity)
    for path in ("candidates", "tonight"):
        world.write(path, candidates)
    world.write("item_text", world.table("text"))
    write_foreign(world.folder)
    (spec,) = blocks(ROOT / "docs" / "reference" / "spec.md", "toml")
    (world.folder / "spec.toml").write_text(spec.text)
    return world.folder


def write_foreign(folder: Path) -> None:
    """Write the files that the page on import names."""
    matrix = ("F32", VECTORS)
    for file, write in {
        "vectors.npy": npy(VECTORS),
        "ids.txt": text("ids.txt", "\n".join(WORDS)),
        "item2vec.bin": word2vec(b""),
        "products.csv": csv("sku,price,d0,d1,d2\n" + "".join(f"{word},9.5,1,2,3\n" for word in WORDS)),
        "items.faiss": real("map.faiss"),
        "model.safetensors": safetensors(**{"item_embedding.weight": matrix, "user_embedding.weight": matrix}),
    }.items():
        (folder / file).write_bytes(write(folder).read_bytes())


@pytest.mark.soak
def test_the_refusal_of_a_job_without_enough_memory_is_as_shown(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "logs-larger-than-memory.md"
    shown = next(block.text for block in blocks(page, "text") if "needs at least" in block.text)
    spec = ROOT / "sample_data" / "spec.toml"
    assert shell(f"extembed run {spec} -o out.parquet --memory 100MiB --workers 2", tmp_path, code=5) == shown


@pytest.mark.soak
def test_the_explanation_is_as_shown(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "explain.md"
    command, _ = blocks(page, "sh")
    (shown,) = blocks(page, "text")
    assert shell(command.text, tmp_path).endswith(f"\n{shown.text}")


@pytest.mark.parametrize("page", with_commands)
def test_the_commands_of_a_how_to_page_run(page: Path, folder: Path) -> None:
    if page.name == "evaluate.md":
        shell("extembed run spec.toml -q", folder)
    for block in blocks(page, "sh"):
        shell(sooner(block.text) if page.name == "evaluate.md" else block.text, folder)
    for block in blocks(page, "python"):
        assert shell(f"python - <<'END'\n{block.text}END\n", folder)
    if page.name == "user-vectors.md":
        users = pl.read_parquet(folder / "users.parquet")
        assert users.columns == ["user_id", "embedding"]
        assert users["user_id"].is_sorted()


@pytest.mark.soak
def test_the_cron_line_prints_only_on_failure(folder: Path) -> None:
    command = cron_command(CRON, folder)
    assert shell(command, folder) == ""
    assert (folder / "features.parquet").exists()
    shutil.move(folder / "candidates.parquet", folder / "elsewhere.parquet")
    assert "error" in shell(command, folder)


@pytest.mark.soak
def test_the_makefile_rule_rebuilds_outdated_features(folder: Path) -> None:
    (rule,) = blocks(CRON, "make")
    (folder / "Makefile").write_text(rule.text)
    for expected in ("extembed run", "up to date"):
        assert expected in shell("make features.parquet", folder)


@pytest.mark.soak
def test_the_cron_line_of_verify_trains_only_on_whole_features(folder: Path) -> None:
    command = cron_command(ROOT / "docs" / "how-to" / "verify.md", folder)
    (folder / "Makefile").write_text("train:\n\t@touch trained\n")
    assert shell(command, folder) == ""
    (folder / "trained").unlink()
    shutil.move(folder / "candidates.parquet", folder / "elsewhere.parquet")  # a failed night: the old features stay
    shell(VERIFY, folder)
    assert "candidates.parquet: no such file" in shell(command, folder, code=3)
    assert not (folder / "trained").exists()
    (folder / "features.parquet").write_bytes((folder / "features.parquet").read_bytes()[:-1])
    assert "features.parquet: cannot be read" in shell(VERIFY, folder, code=1)
