"""The pages of the documentation, and helpers to read and run their blocks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_SAVED = re.compile(r"[Ss]ave this as `([^`]+)`")


def name(page: Path) -> str:
    """Return the page as an id of a test."""
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    text: str
    saved_as: str | None
    """The file name under which the page tells the reader to save it"""


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a page in order: all, or those in one language."""
    text = page.read_text(encoding="utf-8")
    all_blocks, end = [], 0
    for match in _FENCE.finditer(text):
        saved = _SAVED.findall(text[end : match.start()])
        all_blocks.append(Block(match[1], match[2], saved[-1] if saved else None))
        end = match.end()
    return [block for block in all_blocks if language in {None, block.language}]


def prose(page: Path) -> str:
    """Return the page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a link may name after `#`: the headings as GitHub and the site write them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def shell(command: str, cwd: Path, *, code: int = 0) -> str:
    """Run a command as a reader would, and return its output on both streams."""
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=cwd,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}: {command}\n{done.stdout}"
    return done.stdout


def thin(path: Path, every: int) -> None:
    """Keep a sample of the users of a feature file, and its metadata: an evaluation of all users takes long."""
    table = pq.read_table(path)
    users = table["user_id"].to_numpy()
    pq.write_table(table.filter(pa.array(users % every == 0)), path)


def sooner(command: str) -> str:
    """Return the evaluation command of a page with fewer rankers and resamples."""
    assert "extembed evaluate" in command
    return command.replace("-o report", "-o report --seeds 1 --resamples 100 --workers 1")


def cron_command(page: Path, folder: Path) -> str:
    """Return the command of a page's cron line, with `folder` for the folder on the server."""
    (block,) = blocks(page, "cron")
    line = block.text.strip().splitlines()[-1]
    match = re.fullmatch(r"((?:[\d*/,-]+ +){4}[\d*/,-]+) +cd /srv/\w+ && (.+)", line)
    assert match, line
    command = match[2].replace(".venv/bin/extembed", "extembed")
    return f"cd {folder} && {re.sub(r'mail -s .+ [^ ]+@[^ ]+ <', 'cat <', command)}"


def without_measures(line: str) -> str:
    """Return a line of output without the parts that differ between runs: seconds and memory."""
    return re.sub(r"in [\d.]+ s;|at most [\d,]+ MiB", "_", line)


def shown_rows(text: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a table that a page shows as text, without cells that are cut short."""
    names, *rows = (re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines())
    for row in rows:
        cells = {name: cell for name, cell in zip(names, row, strict=True) if "…" not in cell}
        if cells:
            yield cells


def has_row(frame: pl.DataFrame, cells: dict[str, str]) -> bool:
    """Return whether a frame has a row with these values."""
    for column, cell in cells.items():
        values = frame[column]
        if values.dtype.is_float():
            frame = frame.filter((values - float(cell)).abs() < 1e-5)
        elif values.dtype == pl.Datetime:
            frame = frame.filter(values.dt.strftime("%Y-%m-%d %H:%M:%S UTC") == cell)
        else:
            frame = frame.filter(values.cast(pl.String) == cell)
    return len(frame) > 0


every_page = pytest.mark.parametrize("page", PAGES, ids=name)
