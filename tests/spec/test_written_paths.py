"""`~`, `${VAR}`, `file://` and `-` in paths of specs and flags."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from conftest import World, extembed
from helpers.refusals import USAGE, contents


@pytest.fixture(autouse=True)
def _home(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(world.folder))
    monkeypatch.setenv("DATA_DIR", str(world.folder))
    monkeypatch.delenv("NOT_SET", raising=False)


WAYS = ["~/{}", "${{DATA_DIR}}/{}", "file://{folder}/{}", "file://localhost{folder}/{}"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.few(2)
def test_all_paths_of_specs_and_flags(world: World, tmp_path: Path, way: str) -> None:
    expected = world.run()
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def at(name: str) -> str:
        return way.format(name, folder=world.folder)

    inputs = f'interactions = "{at("interactions.parquet")}"\ncandidates = ["{at("candidates.parquet")}"]\n'
    table = f'[embeddings.text]\npath = "{at("te*.parquet")}"\n[[aggregate]]\nhalf_lives = ["30d"]\n'
    spec = folder / "spec.toml"
    spec.write_text(f'{inputs}output = "{at("by_spec.parquet")}"\n{table}')
    extembed("run", spec, "--cache", at("cache"), "--scratch", at("scratch"), cwd=folder).ok()
    assert world.output("by_spec.parquet").equals(expected, null_equal=True)
    flags = ("-i", at("interactions.parquet"), "-c", at("candidates.parquet"), "-e", f"text={at('text.parquet')}")
    extembed("aggregate", *flags, "-o", at("by_flags.parquet"), "--half-life", "30d", cwd=folder).ok()
    assert world.output("by_flags.parquet").select(expected.columns).equals(expected, null_equal=True)
    extembed("run", spec, "-o", at("by_override.parquet"), "--set", f"candidates={at('candidates.parquet')}").ok()
    extembed("check", way.format(spec.relative_to(world.folder), folder=world.folder)).ok()
    extembed("sample", at("shop")).ok()
    assert (world.folder / "shop" / "spec.toml").exists()
    assert (world.folder / "cache").is_dir()
    assert {path.name for path in folder.iterdir()} == {"spec.toml"}


def test_a_path_that_exists_as_written_wins(world: World) -> None:
    strange = world.folder / "${NOT_SET}"
    strange.mkdir()
    (world.folder / "interactions.parquet").rename(strange / "interactions.parquet")
    text = (
        'interactions = "${NOT_SET}/interactions.parquet"\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n'
    )
    extembed("run", world.spec(f'{text}[embeddings.text]\npath = "text.parquet"\n')).ok()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("${NOT_SET}/e.parquet", "the environment variable `NOT_SET` is not set"),
        ("~no-such-user/e.parquet", "no home folder of that user is known"),
        ("file://server/e.parquet", "`server` is another machine"),
        ("", "a path is empty"),
        ("${EMPTY}/e.parquet", "the environment variable `EMPTY` is not set, or empty"),
    ],
)
def test_what_cannot_be_resolved_is_refused(
    world: World, path: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY", "")
    spec = world.spec()
    before = contents(world.folder)
    for flags in (["--set", f"interactions={path}"], ["-o", path], ["--scratch", path], ["--cache", path]):
        extembed("run", spec, *flags).failed(USAGE, part)
    assert contents(world.folder) == before


def test_a_file_url_keeps_what_follows_a_question_mark_or_a_hash(world: World) -> None:
    expected = world.run()
    for name in ("e#1.parquet", "e?version=1.parquet"):
        (world.folder / "interactions.parquet").rename(world.folder / name)
        extembed("run", world.folder / "spec.toml", "--set", f"interactions=file://{world.folder}/{name}").ok()
        assert world.output().equals(expected, null_equal=True)
        (world.folder / name).rename(world.folder / "interactions.parquet")


def test_a_spec_from_the_standard_input(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from extembed_cli.spec import loading

    expected = world.run()
    for command in (["check", "-"], ["run", "-", "-o", "stdin.parquet"]):
        loading._standard_input.cache_clear()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(world.spec().read_bytes())))
        extembed(*command, cwd=world.folder).ok()
    assert world.output("stdin.parquet").equals(expected, null_equal=True)


def test_a_byte_order_mark_and_carriage_returns(world: World) -> None:
    spec = world.spec()
    spec.write_bytes(b"\xef\xbb\xbf" + spec.read_bytes().replace(b"\n", b"\r\n"))
    extembed("run", spec).ok()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_spec_of_another_encoding_is_told_in_plain_words(world: World, encoding: str) -> None:
    spec = world.spec()
    spec.write_bytes(("# größe\n" + spec.read_text()).encode(encoding))
    extembed("run", spec).failed(USAGE, "spec.toml: is not UTF-8 text; save it as UTF-8")


@pytest.mark.parametrize("opened", ["[", "{a = "])
def test_a_spec_that_is_nested_too_deeply(world: World, opened: str) -> None:
    closed = {"[": "]", "{a = ": "}"}[opened]
    spec = world.spec()
    spec.write_text(spec.read_text().replace('["30d"]', opened * 3000 + closed * 3000))
    extembed("run", spec).failed(USAGE, "spec.toml: its lists or tables are nested too deeply")
    deep = f"aggregate.0.half_lives={opened * 3000}{closed * 3000}"
    extembed("run", world.spec(), "--set", deep).failed(USAGE, "half_lives")
