"""`extembed explain`: text for people, JSON for programs, and its refusals."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from conftest import EXTEMBED, ROOT, World, extembed, soak, timestamps, vectors
from helpers.commands import only_json
from helpers.refusals import contents, replace

START = 1_767_225_600_000_000  # 2026-01-01
DAY = 86_400_000_000


@pytest.fixture
def shop(tmp_path: Path) -> World:
    """Provides five events of a user, with ids that would clear a terminal, and two candidates."""
    world = World(tmp_path)
    world.write(
        "interactions",
        {
            "user_id": ["ann"] * 5,
            "item_id": ["a", "b", "\x1b[2J", "d", "e"],
            "timestamp": timestamps(START + np.array([0, 2, 4, 6, 30]) * DAY),
            "rating": pa.array([5.0, 4.0, None, 1.0, 5.0]),
        },
    )
    world.write(
        "candidates",
        {"user_id": ["ann", "\x07bob"], "item_id": ["b", "b"], "timestamp": timestamps([START + 8 * DAY] * 2)},
    )
    text = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]
    world.write("text", {"item_id": ["a", "b", "\x1b[2J", "d"], "embedding": vectors(text)})
    return world


def spec(world: World, top: str = "") -> Path:
    group = '[[aggregate]]\nhistories = ["all"]\nhalf_lives = ["2d"]\npercentiles = [50]\ntarget = "rating"\n'
    return world.spec(top + group + '[[dual]]\nhistories = ["all"]\ntarget = "rating"\nresidual = "user"\n')


COLUMNS = ("--columns", "text__all__cos_m*", "--columns", "all__decayed*")
SHOWN = """row 0: user ann, item b, at 2026-01-09 00:00:00 UTC

history all of user ann: 4 of 5 interactions visible
  hidden: 1 at or after the candidate's time
event  time (UTC)             age  item  w 2d  cos text
    1  2026-01-07 00:00:00  2.0 d  d        1      -0.6
    3  2026-01-03 00:00:00  6.0 d  b     0.25         1
… and 2 more events (--limit; --json has all)

column                          value  how
all__decayed_count__hl2d       0.9375  Σ w of the relative weights, times the largest weight at the as-of time; Σ w = \
1.875, largest weight at the as-of time = 0.5
text__all__cos_min               -0.6  the cosine of event 1 (item 'd', 2026-01-07 00:00:00), the smallest of 4
text__all__cos_max                  1  the cosine of event 3 (item 'b', 2026-01-03 00:00:00), the largest of 4
text__all__cos_mean__hl2d  0.06666665  Σ w c / Σ w; Σ w c = 0.125, Σ w = 1.875
"""


def test_text_shows_events_hidden_ones_and_values(shop: World) -> None:
    """The newest event is shown, and the older one that a value is of."""
    before = contents(shop.folder) | {"spec.toml": spec(shop).read_bytes()}
    shown = extembed("explain", spec(shop), "--row", "0", "--limit", "1", *COLUMNS).ok()
    assert (shown.out, shown.err) == (SHOWN, "")
    assert contents(shop.folder) == before
    all_events = extembed("explain", spec(shop), "--row", "0", *COLUMNS).ok().out
    assert "more event" not in all_events
    none = extembed("explain", spec(shop), "--row", "0", "--limit", "0", "--columns", "all__c*").ok().out
    assert "… and 4 more events" in none


def test_targets_parts_and_control_characters_are_shown(shop: World) -> None:
    out = extembed("explain", spec(shop), "--row", "0").ok().out
    assert "  y2 = (rating) − mean of earlier events of its user (with 5 prior events)\n" in out
    assert "  part1 = its part of text__all__dual_score\n" in out
    assert "    2  2026-01-05 00:00:00  4.0 d  \\x1b[2J    0.5       0.8        null  null     null\n" in out
    unknown = extembed("explain", spec(shop), "--row", "1").ok().out
    assert "user '\\x07bob' has no row in the interactions\n" in unknown
    assert "\x1b" not in out and "\x07" not in unknown


def test_times_of_a_candidate_are_shown_where_they_differ(shop: World) -> None:
    arguments = ("--user", "ann", "--item", "b", "--at", "2026-01-08T05:00:00+02:00", "--columns", "all__count")
    out = extembed("explain", spec(shop, 'as_of_step = "1d"\nlag = "1h"\n'), *arguments).ok().out
    assert out.startswith(
        "candidate: user ann, item b, at 2026-01-08 03:00:00 UTC\n"
        "as-of time 2026-01-08 00:00:00 (as_of_step)\n"
        "sees events before 2026-01-07 23:00:00 (lag)\n\n"
    )


@pytest.mark.parametrize("arguments", [["--row", "0"], soak(["--row", "1"])])
def test_json_has_the_published_schema(shop: World, arguments: list[str]) -> None:
    shown = extembed("explain", spec(shop, 'weight = "rating"\n'), *arguments, "--json", "--limit", "0").ok()
    written = only_json(shown.out)
    schema = json.loads((ROOT / "docs" / "reference" / "explain.schema.json").read_text())
    jsonschema.validate(written, schema)
    assert shown.err == ""
    if arguments[1] == "0":
        assert [event["partner"] for event in written["histories"][0]["events"]] == ["d", "b", "a"]
        assert written["histories"][0]["hidden"][0] == {"reason": "null weight", "events": 1}
    del written["candidate"]["as_of"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written, schema)


def test_set_changes_the_spec(shop: World) -> None:
    out = extembed("explain", spec(shop), "--row", "0", "--set", "histories.all.window=3d", "--columns", "all__count")
    assert "  hidden: 3 older than window = 3d\n" in out.ok().out


def test_a_terminal_gets_a_table_that_wraps(shop: World) -> None:
    ours, theirs = pty.openpty()
    arguments = ["explain", str(spec(shop)), "--row", "0", "--columns", "text__all__cos_p50*"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    with subprocess.Popen([*EXTEMBED, *arguments], stdout=theirs, stderr=subprocess.PIPE, env=environment) as run:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:  # Linux raises it when the other end is closed
            pass
        os.close(ours)
        assert run.wait() == 0
    lines = shown.decode().splitlines()
    table = lines[lines.index("") :][1:]
    table = table[table.index("") + 1 :]
    assert len(table) > 3 and max(map(len, table)) <= 80
    assert " ".join(" ".join(line[32:].split()) for line in table[1:]).startswith("the cosine of event 1 (item 'd',")


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["which candidate? --row N, or --user U --item I --at T"]),
        (["--row", "2"], ["--row 2: the candidates have 2 rows, numbered from 0 to 1"]),
        (["--row", "-1"], ["--row", "greater than or equal to 0"]),
        (["--row", "0", "--at", "2026-01-01"], ["--row and --at: each names a candidate; give one of them"]),
        (["--user", "ann"], ["--item is missing"]),
        (["--item", "b", "--at", "2026-01-01"], ["--user is missing"]),
        (["--at", "2026-01-01"], ["--user and --item are missing"]),
        (["--user", "ann", "--item", "b"], ["--at is missing: the time of the candidate, such as `--at 2026-01-31T"]),
        (["--user", "ann", "--item", "b", "--at", "noon"], ["--at 'noon': not an ISO 8601 time, such as"]),
        (
            ["--user", "ann", "--item", "b", "--at", "0001-01-01T00:00+14:00"],
            ["--at 0001-01-01T00:00+14:00: is outside the years 1 to 9999 in UTC"],
        ),
        (["--user", "\udcff", "--item", "b", "--at", "2026-01-01"], ["--user '\\udcff': the ids of", "text in UTF-8"]),
        (["--row", "0", "--columns", "text__all__cos_maxx"], ["matches no column; did you mean `text__all__cos_max`?"]),
        (["--row", "0", "--columns", "image*"], ["--columns image*: matches no column; `extembed columns` lists"]),
        (["--row", "0", "--limit", "-1"], ["--limit", "greater than or equal to 0"]),
        (["--row", "0", "--memory", "1MB"], []),
        (["--row", "0", "--set", "lag=1"], ["lag: must be a duration, such as"]),
    ],
)
def test_usage_errors_say_how_to_fix_them(shop: World, arguments: list[str], parts: list[str]) -> None:
    code = 5 if "--memory" in arguments else 2
    done = extembed("explain", spec(shop), *arguments).failed(code, *parts or ["Raise --memory"])
    assert done.out == ""


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("integer", "ann", "--user 'ann': the ids of the interactions are integers"),
        ("integer", str(10**38), "the ids of the interactions are integers"),
        ("integer", "9" * 5000, "the ids of the interactions are integers"),
        ("binary", "xyz", "--user 'xyz': the ids of the interactions are binary: write them in hex, such as `0fa3`"),
    ],
)
def test_an_id_of_another_kind_is_refused(world: World, kind: str, text: str, message: str) -> None:
    if kind == "binary":
        for name in ("interactions", "candidates"):
            replace(world, name, "user_id", [bytes([n]) for n in world.table(name)["user_id"].to_pylist()])
    arguments = ("--user", text, "--item", "1", "--at", "2026-01-01")
    extembed("explain", world.spec(), *arguments).failed(2, message)


@pytest.mark.parametrize(
    ("name", "damage", "code", "part"),
    [
        ("interactions", "torn", 3, "interactions.parquet: cannot be read as Parquet"),
        ("candidates", "torn", 3, "candidates.parquet: cannot be read as Parquet"),
        ("text", "torn", 3, "text.parquet: cannot be read as Parquet"),
        ("interactions", "missing", 3, "interactions.parquet: no such file"),
        ("candidates", "empty", 2, "--row 0: the candidates have 0 rows"),
        ("interactions", "column", 1, "no column `user_id`"),
        ("interactions", "weight", 1, "weights are negative"),
    ],
)
def test_bad_inputs_are_refused(shop: World, name: str, damage: str, code: int, part: str) -> None:
    path = shop.folder / f"{name}.parquet"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "missing":
        path.unlink()
    elif damage == "empty":
        shop.write(name, shop.table(name).slice(0, 0))
    elif damage == "column":
        shop.write(name, shop.table(name).rename_columns(["who", "item_id", "timestamp", "rating"]))
    top = 'weight = "rating - 3"\n' if damage == "weight" else ""
    extembed("explain", spec(shop, top), "--row", "0").failed(code, part)


def test_a_spec_without_candidates_needs_one(world: World) -> None:
    only_vectors = 'interactions = "interactions.parquet"\n[embeddings.text]\npath = "text.parquet"\n[[dual]]\n'
    path = world.spec(only_vectors + 'user_vectors = "users.parquet"\n')
    extembed("explain", path, "--row", "0").failed(2, "--row: the spec has no `candidates`; give one with --user")
    found = extembed("explain", path, "--user", "3", "--item", "7", "--at", "2024-01-01", "--json").ok().json
    assert [column["name"] for column in found["columns"]] == ["text__all__dual_score"]
    assert not (world.folder / "users.parquet").exists()
