"""The README is correct: its commands run in a shell, and print the output that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT
from helpers.pages import README, blocks, has_row, shell, shown_rows, sooner, thin, without_measures

from extembed_cli.evaluate.columns import Roles, open_features
from extembed_cli.evaluate.controls import own_history


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides the sample folder after the first commands of the README; their output is in `printed` beside it."""
    folder: Path = tmp_path_factory.mktemp("readme")
    first = next(block.text for block in blocks(README, "sh") if "extembed sample" in block.text)
    (folder / "printed").write_text(shell(first, folder))
    return folder / "shop"


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"\bmake (\w+)", "".join(block.text for block in blocks(README, "sh")))
    assert {"features", "test"} <= set(targets)
    for target in [*targets, "site"]:
        shell(f"make --dry-run {target}", ROOT)


def test_the_first_command_prints_what_the_readme_shows(shop: Path) -> None:
    shown = next(block.text for block in blocks(README, "text") if "own history" in block.text)
    printed = [without_measures(line) for line in (shop.parent / "printed").read_text().splitlines()]
    assert without_measures(shown.strip()) in printed


def test_rows_that_the_readme_shows_are_rows_of_the_file(shop: Path) -> None:
    shown = next(block.text for block in blocks(README, "text") if "item-1919" in block.text)
    features = pl.read_parquet(shop / "features.parquet")
    rows = list(shown_rows(shown))
    assert len(rows) == 3
    for row in rows:
        assert has_row(features, row), row
        assert not has_row(features, {**row, "liked__count": "9999"})


def test_the_sample_raises_no_leak_warning(shop: Path) -> None:
    """Its log repeats items, so some candidates are in their own history: far fewer than there are positives."""
    file = open_features(str(shop / "features.parquet"), Roles("label"))
    (control,) = own_history(file, pl.read_parquet(shop / "features.parquet")["label"].mean())
    assert control.passed
    assert control.value > 0.1


@pytest.mark.soak
def test_the_other_commands_of_the_readme_run(shop: Path) -> None:
    commands = [block.text for block in blocks(README, "sh") if "extembed" in block.text]
    assert len(commands) == 3
    shell(commands[1], shop)
    assert "text__liked__cos_to_mean__hl1d" in pl.read_parquet_schema(shop / "other.parquet")
    thin(shop / "features.parquet", every=30)
    printed = shell(sooner(commands[2]), shop)
    assert "aggregate" in printed
    assert "warning" not in printed
    assert (shop / "report" / "report.html").exists()
