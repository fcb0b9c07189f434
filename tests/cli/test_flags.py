"""Flags, specs and overrides with the same meaning write the same bytes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from conftest import World, extembed
from helpers.commands import INPUTS, SPEC_OF_A_RUN, names
from polars.testing import assert_frame_equal

FLAGS_OF_A_RUN = [
    *("--history", "liked=rating >= 4", "--history", "disliked=rating <= 2"),
    *("--half-life", "7d", "--half-life", "none", "--percentile", "5", "--percentile", "90"),
    *("--threshold", "0.3", "--threshold", "-0.2", "--center", "--weight", "rating / 2.0"),
    *("--lag", "1h", "--window", "40d", "--max-events", "12"),
]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], ""),
        (FLAGS_OF_A_RUN, SPEC_OF_A_RUN),
        (["--as-of", "2023-12-20 06:00"], 'as_of = "2023-12-20 06:00"\n'),
        (["--window", "9d", "--max-events", "3"], '[histories.all]\nwindow = "9d"\nmax_events = 3\n'),
        (["--no-center", "--set", "lag=1d"], 'lag = "1d"\n'),
    ],
)
def test_flags_and_a_spec_write_the_same_bytes(world: World, flags: list[str], text: str) -> None:
    expected = world.run(text)
    output = world.folder / "flags.parquet"
    extembed("aggregate", *INPUTS, "-o", output.name, *flags, cwd=world.folder).ok()
    assert_frame_equal(pl.read_parquet(output), expected, check_exact=True)
    assert output.read_bytes() == (world.folder / "out.parquet").read_bytes()


def test_set_overrides_a_spec(world: World) -> None:
    changes = [
        'aggregate.0.half_lives=["7d", "none"]',
        "embeddings.text.center=true",
        "histories.liked.where=rating >= 4",
        'aggregate.1={name = "short", half_lives = ["1d"], percentiles = []}',
        "output=other.parquet",
    ]
    sets = [part for change in changes for part in ("--set", change)]
    extembed("run", world.spec(), *sets, cwd=world.folder).ok()
    expected = world.run(
        '[embeddings.text]\npath = "text.parquet"\ncenter = true\n[histories.liked]\nwhere = "rating >= 4"\n'
        '[[aggregate]]\nhalf_lives = ["7d", "none"]\n'
        '[[aggregate]]\nname = "short"\nhalf_lives = ["1d"]\npercentiles = []\n'
    )
    assert_frame_equal(pl.read_parquet(world.folder / "other.parquet"), expected, check_exact=True)


def test_flag_paths_start_at_the_working_directory_and_spec_paths_at_the_spec(world: World, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    spec = world.spec()
    expected = world.run()
    extembed("run", f"../{spec.name}", "-o", "mine.parquet", cwd=here).ok()
    flags = [f.replace("text=", "text=../") if "=" in f else f"../{f}" if "." in f else f for f in INPUTS]
    extembed("aggregate", *flags, "-o", "flags.parquet", cwd=here).ok()
    assert {n for n in names(here) if n.endswith(".parquet")} == {"mine.parquet", "flags.parquet"}
    for name in ("mine", "flags"):
        assert_frame_equal(pl.read_parquet(here / f"{name}.parquet"), expected, check_exact=True)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("item_text.parquet", ". Did you mean -e item_text=item_text.parquet?"),
        ("s3://b/item_text.parquet", ". Did you mean -e item_text=s3://b/item_text.parquet?"),
        ("text:item_text.parquet", ". Did you mean -e text=item_text.parquet?"),
        ("text=", ""),
    ],
)
def test_a_table_without_a_name_is_refused_with_a_likely_one(world: World, text: str, hint: str) -> None:
    flags = ["-i", "interactions.parquet", "-c", "candidates.parquet", "-e", text, "-o", "o.parquet"]
    done = extembed("aggregate", *flags, cwd=world.folder).failed(2)
    assert done.err == f"extembed: error: -e {text}: write NAME=PATH{hint}\n"


@pytest.mark.parametrize("text", ["0.9", "100", "p90"])
def test_a_wrong_percentile_is_told_with_a_right_one(world: World, text: str) -> None:
    done = extembed("aggregate", *INPUTS, "-o", "o.parquet", "--percentile", text, cwd=world.folder)
    done.failed(2, "--percentile", "must be a whole number from 1 to 99, such as 90", text)


def test_other_numbers_are_told_in_our_words(world: World) -> None:
    done = extembed("aggregate", *INPUTS, "-o", "o.parquet", "--top", "many", cwd=world.folder)
    done.failed(2, "Invalid value for '--top': must be a valid integer\n")
