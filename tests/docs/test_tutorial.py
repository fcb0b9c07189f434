"""The tutorial is correct: its steps run one after another, and print the output that it shows."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT
from helpers.pages import Block, blocks, cron_command, has_row, shell, shown_rows, sooner, thin, without_measures

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.soak
def test_every_step_of_the_tutorial_runs(tmp_path: Path) -> None:
    shop, printed, compared = tmp_path, "", 0
    for block in blocks(TUTORIAL):
        if block.language == "text":
            compared += compare(block, printed, shop)
        elif block.saved_as is not None:
            (shop / block.saved_as).write_text(block.text)
        elif block.language == "sh":
            judges = "extembed evaluate" in block.text
            if judges:
                thin(shop / "features.parquet", every=20)
            printed = shell(sooner(block.text) if judges else block.text, shop)
            shop = tmp_path / "shop"
        elif block.language == "python":
            printed = shell(f"python - <<'END'\n{block.text}END\n", shop)
    assert compared == 8
    assert (shop / "report" / "report.html").exists()
    (shop / "tonight_features.parquet").unlink()
    assert shell(cron_command(TUTORIAL, shop), shop) == ""
    assert (shop / "tonight_features.parquet").exists()


def compare(block: Block, printed: str, shop: Path) -> int:
    """Compare a block of output with the output of its step or with the file that it shows. Return 1, to count it."""
    text = block.text.strip()
    if text.startswith("step "):  # this run has fewer users than the tutorial
        steps = [line.split()[0] for line in text.splitlines()[:4]]
        assert steps == [line.split()[0] for line in printed.splitlines() if line.split()[0] in steps]
    elif "columns keep" in text:
        short = json.loads((shop / "report" / "report.json").read_text())["short_list"]
        assert printed == f"{len(short['columns'])} columns keep {short['kept']:.0%} of the gain\n"
    elif text.startswith(("user_id", "item_id")):
        file = "features" if "text__" in text else "interactions" if "event" in text else "item_text"
        frame = pl.read_parquet(shop / f"{file}.parquet")
        assert all(has_row(frame, row) for row in shown_rows(text))
    else:
        lines = {without_measures(line) for line in printed.splitlines()}
        assert {without_measures(line) for line in text.splitlines()} <= lines, printed
    return 1
