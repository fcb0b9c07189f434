"""The recipes for rankers run on the features of the sample, each where its library is installed."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.pages import blocks, shell, thin

PAGE = ROOT / "docs" / "how-to" / "rankers.md"
LIBRARIES = {"lightgbm": "lightgbm", "xgboost": "xgboost-cpu", "catboost": "catboost"}
"""The package to install, by module"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides a folder after the commands of the page, with the features of a sample of the users."""
    folder: Path = tmp_path_factory.mktemp("rankers")
    for block in blocks(PAGE, "sh"):
        shell(block.text, folder)
    thin(folder / "features.parquet", every=10)
    return folder


def recipes(library: str) -> list[str]:
    return [block.text for block in blocks(PAGE, "python") if f"import {library}\n" in block.text]


@pytest.mark.soak
@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_the_recipes_run(folder: Path, library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install {LIBRARIES[library]}")
    for recipe in recipes(library):
        printed = shell(f"OMP_NUM_THREADS=1 python - <<'END'\n{recipe}END\n", folder)
        assert re.fullmatch(r"AUC 0\.[678]\d\d\n|\(\d{4}, 17\d\)\n", printed), printed


def test_each_recipe_has_ten_lines_at_most() -> None:
    assert len(blocks(PAGE, "python")) == sum(len(recipes(library)) for library in LIBRARIES) == 4
    for block in blocks(PAGE, "python"):
        assert len([line for line in block.text.splitlines() if line]) <= 10
