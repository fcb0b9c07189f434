"""The report page in a real browser: it draws its charts, requests nothing, and treats no text as markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import soak
from helpers.evaluation import make_features

from extembed_cli.evaluate import ranker
from extembed_cli.evaluate.columns import Roles
from extembed_cli.evaluate.evaluate import evaluate
from extembed_cli.evaluate.page import page
from extembed_cli.evaluate.settings import Settings
from extembed_cli.system.progress import Watch
from extembed_cli.system.resources import Resources

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")

UNPRINTABLE = "[\x1b\u202a-\u202e\u2066-\u2069]"
BROWSERS = re.compile(r"https?://[^/]*\.(google|gvt1|googleapis)\.com/")
"""Requests of the browser itself: time, dictionaries"""
HOSTILE = "<img src=x onerror='document.title=1'></script><script>document.title=1</script>\u202e\x1b[31m"
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provides the page of a report on a file with column names that contain markup."""
    folder = tmp_path_factory.mktemp("page")
    path = make_features(folder, seed=1, signal=1.5, users=80, each=50)
    table = pq.read_table(path)
    noise = pl.Series(np.random.default_rng(0).standard_normal(len(table))).to_arrow()
    pq.write_table(table.append_column(HOSTILE, noise).append_column("${x} $spec", noise), path)
    roles = Roles("label", baseline=("popularity", "*img*", "*spec*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker, "_ROUNDS", 20)
        report = evaluate(str(path), roles, Settings(seeds=(0,), resamples=100), Resources(1), Watch())
    page_path = folder / "report.html"
    page_path.write_text(page(report), encoding="utf-8")
    return page_path


@dataclass(frozen=True)
class Opened:
    """A page in the browser: its elements, console messages and requests."""

    dom: str
    console: list[str]
    requests: list[str]


class Tags(HTMLParser):
    """Collects the names of all elements."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)


def opened(path: Path, folder: Path, *flags: str) -> Opened:
    """Open a page in the browser and wait until its scripts have run."""
    assert CHROMIUM is not None
    log = folder / "net.json"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--no-first-run", "--disable-component-update", "--enable-logging=stderr", f"--log-net-log={log}",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom", *flags, path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    requests = re.findall(r'"url":"([a-z]+://[^"]*)"', log.read_text())
    return Opened(done.stdout, console, requests)


@needs_browser
@pytest.mark.parametrize(
    "flags", [(), soak(("--blink-settings=preferredColorScheme=0",)), soak(("--window-size=390,800",))]
)
def test_the_page_draws_all_charts_without_errors_or_requests(
    written: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    browser = opened(written, tmp_path, *flags)
    assert not browser.console
    assert browser.requests
    assert not [
        url for url in browser.requests if not url.startswith(("file://", "chrome")) and not BROWSERS.match(url)
    ]
    charts = re.findall(r'<div class="chart[^"]*" id="([a-z]+-\d+)"(.*?)</div>', browser.dom, re.DOTALL)
    names = {name.split("-")[0] for name, _ in charts}
    assert names == {"ladder", "gains", "features", "distributions", "lengths", "items"}
    for name, content in charts:
        assert "<svg" in content, name
        assert re.search(r'aria-roledescription="(point|rule mark|rect mark|bar|area|symbol|line)', content), name
    assert f'data-drawn="{len(charts)}"' in browser.dom


@pytest.mark.soak
@needs_browser
def test_the_policy_of_the_page_blocks_a_network_request(written: Path, tmp_path: Path) -> None:
    """This shows that the test above can fail: the browser blocks and reports an added request."""
    copy = tmp_path / "copy.html"
    copy.write_text(written.read_text().replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'))
    assert "Content Security Policy" in " ".join(opened(copy, tmp_path).console)


@pytest.mark.soak
@needs_browser
def test_column_names_are_shown_as_text(written: Path, tmp_path: Path) -> None:
    browser = opened(written, tmp_path)
    assert "are the embeddings worth it?</title>" in browser.dom
    tags = Tags()
    tags.feed(browser.dom)
    assert {"svg", "details"} <= tags.seen
    assert not {"img", "image"} & tags.seen
    assert escape("<img src=x", quote=False) in browser.dom
    assert "${x} $spec" in browser.dom


def test_no_text_from_the_data_is_in_a_script_or_tag(written: Path) -> None:
    text = written.read_text()
    assert HOSTILE not in text
    assert text.count("<script") == text.count("</script>") == 2
    specs = re.search(r"const specs = (.*);\n", text)
    assert specs is not None
    assert "<" not in specs[1]
    drawn = json.dumps(json.loads(specs[1]), ensure_ascii=False)
    assert json.dumps(SHOWN)[1:-1] in drawn
    assert not re.search(UNPRINTABLE, drawn)


def test_no_text_from_the_data_turns_or_colours_what_follows(written: Path) -> None:
    text = written.read_text()
    assert escape(SHOWN) in text
    assert not re.search(UNPRINTABLE, text[: text.index("<script")])


def test_every_chart_has_its_numbers_as_text(written: Path) -> None:
    text = written.read_text()
    sections = re.findall(r"<section><h2>.*?</section>", text, re.DOTALL)
    charts = [section for section in sections if 'class="chart"' in section]
    assert len(charts) == 6
    for section in charts:
        assert re.search(r'role="img" aria-label="[^"]{40,}"', section)
        assert "<table>" in section
        assert section.count("<tr>") >= 2


def test_the_page_needs_no_other_file(written: Path) -> None:
    text = written.read_text()
    head = text[: text.index("<script")]
    assert not re.search(r'(src|href)="(?!data:)', head)
    assert "default-src 'none'" in head
