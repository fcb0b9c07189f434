"""Every page: its links resolve, its blocks of code parse, the files it names exist, and the site builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import ROOT
from helpers.pages import PAGES, anchors, blocks, every_page, name, prose

from extembed_cli.spec.loading import build_spec

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"`([\w./-]+\.(?:py|toml|md|svg|json|html))(?:::(\w+))?`")
_ROOTS = [ROOT, ROOT / "extembed_cli", ROOT / "docs", ROOT / "scripts", ROOT / "benchmarks"]
_OF_THE_READER = {
    "spec.toml", "candidates.py", "config.json", "metrics.json", "training.html", "report.json", "report.html",
    "report/report.html", "shard.json", "_extembed_manifest.json", "features/_extembed_manifest.json",
    "features.parquet.run.json", "OUT.run.json",
}  # fmt: skip
BASE = {
    "interactions": "events.parquet",
    "candidates": "candidates.parquet",
    "embeddings": {"text": {"path": "item_text.parquet"}},
}


@every_page
def test_relative_links_and_their_anchors_resolve(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: {target.name} has {sorted(anchors(target))}"


@every_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    for path, function in _FILE.findall(prose(page)):
        if path in _OF_THE_READER or "NAME" in path:
            continue
        files = [root / path for root in _ROOTS if (root / path).exists()]
        if "/" not in path:
            files += (ROOT / "extembed_cli").rglob(path)
        assert files, f"{path} is not there any more"
        assert f"def {function}" in files[0].read_text(encoding="utf-8") or not function, function


@every_page
def test_no_page_names_a_folder_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|tmp|root|home)/", page.read_text(encoding="utf-8"))


@every_page
def test_toml_blocks_are_specs_or_parts_of_one(page: Path) -> None:
    for block in blocks(page, "toml"):
        data = tomllib.loads(block.text)
        build_spec(data if "interactions" in data else {**BASE, **data}, name(page))


@every_page
def test_json_and_python_blocks_parse(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "python":
            compile(block.text, name(page), "exec")


@every_page
def test_blocks_name_their_language(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= {"sh", "toml", "python", "json", "text", "cron", "make"}


def test_decisions_have_their_sections_and_are_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for page in folder.glob("0*.md"):
        headings = re.findall(r"^## (.+)$", prose(page), flags=re.MULTILINE)
        assert headings == ["Status", "Context", "Decision", "Measured", "Consequences"], page.name
        assert page.name in index


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            inside = page.relative_to(ROOT / "docs").with_suffix(".html")
            inside = inside.with_name("index.html") if inside.stem == "README" else inside
            assert (tmp_path / "site" / inside).exists(), inside
    assert "cdnjs" not in (tmp_path / "site" / "index.html").read_text(), "a page loads something from another host"
