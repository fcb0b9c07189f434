"""Problems of a spec, its expressions or its output are reported together, by key, before anything is written."""

from __future__ import annotations

import json
import re

import pytest
from conftest import World
from helpers.refusals import INPUTS, USAGE, refused

GROUP = "[[aggregate]]\n"

# --- keys and values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ('weigt = "rating"\n', "weigt", "weight"),
        ('[columns]\nusr = "u"\n', "columns.usr", "user"),
        ('[columns.candidates]\ntme = "t"\n', "columns.candidates.tme", "time"),
        ('[embeddings.text]\npath = "text.parquet"\ncentre = true\n', "embeddings.text.centre", "center"),
        ('[embeddings.text]\npath = "text.parquet"\ncolumns.vect = "v"\n', "embeddings.text.columns.vect", ""),
        ('[histories.liked]\nwher = "rating"\n', "histories.liked.wher", "where"),
        (GROUP + 'half_life = "30d"\n', "aggregate.0.half_life", "half_lives"),
        ("[[agregate]]\n", "agregate", "aggregate"),
    ],
)
def test_an_unknown_key_suggests_a_known_one(world: World, text: str, key: str, near: str) -> None:
    hint = f"did you mean `{near}`?" if near else "known: item, embedding"
    refused(world, world.spec(text), USAGE, f"spec.toml: `{key}` is not a known key; {hint}")


def test_unknown_keys_are_reported_together(world: World) -> None:
    text = 'lagg = "1d"\n[histories.a]\nwhen = "rating"\n' + GROUP + "percentile = [0]\nthresholds = [0.333]\n"
    keys = ("`lagg`", "`histories.a.when`", "`aggregate.0.percentile`", "aggregate.0.thresholds.0: 0.333")
    refused(world, world.spec(text), USAGE, *keys, shell=True)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("weight = 3\n", ("`weight`: ", "must be text", "got 3")),
        ('lag = "1x"\n', ("lag: `1x` is not a duration", "s m h d w", "`30d`")),
        ("lag = 600\n", ('lag: must be a duration, such as "10m", got 600',)),
        ('as_of_step = "0d"\n', ("as_of_step: `0d` must be longer than 0",)),
        ('as_of = "yesterday"\n', ("as_of: `yesterday` is not an ISO 8601 time", "such as")),
        ('time_unit = "hours"\n', ("`time_unit`: ", "'s', 'ms', 'us' or 'ns'", "got 'hours'")),
        ("columns = 3\n", ("`columns`: ", "got 3")),
        ('[embeddings]\ntext = "text.parquet"\n[embeddings.text]\n', ("not valid TOML",)),
        (
            '[embeddings.text]\npath = "a"\ncenter = 1\n',
            ("`embeddings.text.center`: ", "true or false"),
        ),
        ('[embeddings.text]\npath = "a"\nbad_vectors = "skip"\n', ("bad_vectors`: ", "'error' or 'missing'", "'skip'")),
        ("[embeddings.text]\ncenter = true\n", ("`embeddings.text.path` is missing",)),
        ('[embeddings.a__b]\npath = "a"\n', ("embeddings.a__b: `a__b` is not a name", "letters, digits")),
        ("[histories.liked]\nmax_events = 0\n", ("`histories.liked.max_events`: ", "1", "got 0")),
        ('[histories.liked]\nwindow = "a week"\n', ("histories.liked.window: `a week` is not a duration",)),
        (GROUP + 'half_lives = ["30d", "1y"]\n', ("aggregate.0.half_lives.1: `1y` is not a duration",)),
        (GROUP + "half_lives = []\n", ("`aggregate.0.half_lives` needs at least one entry",)),
        (
            GROUP + "percentiles = [0]\n",
            ("aggregate.0.percentiles.0: must be a whole number from 1 to 99, such as 90, got 0",),
        ),
        (GROUP + "percentiles = [50, 100]\n", ("aggregate.0.percentiles.1: must be a whole number", "got 100")),
        (GROUP + "percentiles = [2.5]\n", ("aggregate.0.percentiles.0: must be a whole number", "got 2.5")),
        (GROUP + "thresholds = [0.3, 0.333]\n", ("aggregate.0.thresholds.1: 0.333 is not a multiple of 0.01",)),
        (GROUP + "thresholds = [1.5]\n", ("aggregate.0.thresholds.0: 1.5", "between -1 and 1")),
        (GROUP + "temperatures = [0.1]\n", ("aggregate.0.temperatures: needs a `target`",)),
        (GROUP + 'histories = ["likd"]\n', ("aggregate.0.histories: ", "`likd`", "did you mean")),
        (GROUP + 'histories = ["zz"]\n', ("aggregate.0.histories: ", "`zz`", "known: all, liked")),
        (GROUP + "histories = []\n", ("aggregate.0.histories: the list is empty", "leave the key out")),
        (GROUP + 'embeddings = ["txt"]\n', ("aggregate.0.embeddings: ", "`txt`", "did you mean `text`?")),
        ('[histories.all]\nwhere = "rating > 3"\n', ("histories.all: ", "every interaction", "use another name")),
    ],
)
def test_invalid_values_are_refused(world: World, text: str, parts: tuple[str, ...]) -> None:
    if "[histories" not in text:
        text = text.replace(GROUP, "[histories.liked]\n" + GROUP, 1)
    refused(world, world.spec(text), USAGE, "spec.toml", *parts)


@pytest.mark.parametrize(
    ("text", "key", "kind"),
    [
        ("interactions = 3\n", "interactions", "a list"),
        ("histories = 3\n", "histories", "a table"),
        ("columns = 3\n", "columns", "a table"),
        ("aggregate = 3\n", "aggregate", "a list"),
        ("aggregate = [3]\n", "aggregate.0", "a table"),
        ("embeddings = {}\n", "embeddings", "is missing"),
        ("embeddings.text = 3\n", "embeddings.text", "a table"),
        ("embeddings.text.path = 3\n", "embeddings.text.path", "a list"),
        ('aggregate = [{half_lives = "7d"}]\n', "aggregate.0.half_lives", "a list"),
        ('aggregate = [{half_lives = ["7"]}]\n', "aggregate.0.half_lives.0", "a duration"),
    ],
)
def test_a_value_of_a_wrong_kind_is_reported_once_in_toml_terms(world: World, text: str, key: str, kind: str) -> None:
    lines = {
        "interactions": 'interactions = "interactions.parquet"\n',
        "candidates": 'candidates = "candidates.parquet"\n',
        "output": 'output = "out.parquet"\n',
        "embeddings": 'embeddings.text.path = "text.parquet"\n',
        "aggregate": "aggregate = [{}]\n",
    }
    lines[re.match(r"\w+", text)[0]] = text
    spec = world.folder / "spec.toml"
    spec.write_text("".join(lines.values()))
    message = refused(world, spec, USAGE, key, kind)
    assert not re.search("tuple|dictionary|instance", message)
    assert len(message.splitlines()) == 1


def test_unknown_names_are_reported_together(world: World) -> None:
    text = '[histories.liked]\n[[aggregate]]\nembeddings = ["txt"]\nhistories = ["likd", "all"]\n'
    refused(world, world.spec(text + '[[aggregate]]\nhistories = ["lked"]\n'), USAGE, "`txt`", "`likd`", "`lked`")


def test_a_spec_with_nothing_to_compute_is_refused(world: World) -> None:
    spec = world.spec()
    spec.write_text(spec.read_text().partition("[[aggregate]]")[0])
    refused(world, spec, USAGE, "spec.toml: nothing to compute", "[[aggregate]]")


@pytest.mark.parametrize("key", ["interactions", "candidates", "embeddings"])
def test_a_spec_without_an_input_is_refused(world: World, key: str) -> None:
    spec = world.spec()
    line = f"{key} = .*\n" if key != "embeddings" else "\\[embeddings.text\\]\npath.*\n"
    spec.write_text(re.sub(line, "", spec.read_text()))
    refused(world, spec, USAGE, f"spec.toml: `{key}` is missing")


@pytest.mark.parametrize("text", ['lag = "1d', "lag 1d", "= 3", "lag.a = 1\nlag = 2"])
def test_a_file_that_is_not_toml_is_refused(world: World, text: str) -> None:
    refused(world, world.spec(f"{text}\n"), USAGE, "spec.toml: not valid TOML: ", "line ")


def test_a_file_that_is_not_text_is_refused(world: World) -> None:
    spec = world.spec()
    spec.write_bytes(b"\xff\xfe" + spec.read_bytes())
    refused(world, spec, USAGE, "spec.toml: is not UTF-8 text")


def test_features_in_the_place_of_a_spec_are_recognised(world: World) -> None:
    refused(world, world.folder / "candidates.parquet", USAGE, "candidates.parquet: is Parquet; name a spec")


def test_a_missing_spec_file_is_reported(world: World) -> None:
    parts = ("missing.toml: no such spec file", "`extembed sample DIR`")
    refused(world, world.folder / "missing.toml", USAGE, *parts, shell=True)


# --- expressions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ratin >= 4", ("no column `ratin`", "did you mean `rating`?")),
        ("ratin", ("`ratin`", "did you mean `rating`?")),
        ('user_id = "like"', ("no column `like`; text is in single quotes: 'like'",)),
        ("rating > AVG(rating)", ("not row-wise", "aggregates and windows", "Compute such a column before")),
        ("SUM(rating) OVER (PARTITION BY user_id) > 3", ("not row-wise", "the future")),
        ("LAG(rating) > 3", ("rating",)),
        ("rating >= 'four'", ("does not fit the columns",)),
        ("rating >=", ("neither a column nor a row-wise SQL expression",)),
        ("", ("neither a column nor a row-wise SQL expression",)),
    ],
)
@pytest.mark.parametrize("key", ["weight", "histories.liked.where"])
def test_invalid_expressions_are_refused(world: World, key: str, text: str, parts: tuple[str, ...]) -> None:
    before, mark, last = key.rpartition(".")
    spec = world.spec(f"[{before}]\n{last} = {json.dumps(text)}\n" if mark else f"{key} = {json.dumps(text)}\n")
    refused(world, spec, USAGE, f"{key} = {text!r}: ", *parts)


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("timestamp", ("is Datetime", "neither true nor false")),
        ("rating", ("is Int64", "such as `rating = 1`")),
        ("rating + 0.5", ("is Float64", "such as `rating + 0.5 > 0`")),
        ("CASE WHEN rating > 3 THEN 'a' END", ("is String", "neither true nor false")),
    ],
)
def test_a_where_that_is_not_boolean_is_refused(world: World, where: str, parts: tuple[str, ...]) -> None:
    spec = world.spec(f'[histories.liked]\nwhere = "{where}"\n')
    refused(world, spec, USAGE, f"histories.liked.where = {where!r}: ", *parts)


def test_invalid_expressions_are_reported_together(world: World) -> None:
    spec = world.spec('weight = "wait"\n[histories.a]\nwhere = "ratng > 1"\n[histories.b]\nwhere = "rating +"\n')
    refused(world, spec, USAGE, "weight = ", "histories.a.where = ", "histories.b.where = ", shell=True)


# --- the output --------------------------------------------------------------------------------------


def test_an_output_file_that_is_a_directory_is_refused(world: World) -> None:
    (world.folder / "features.parquet").mkdir()
    spec = world.spec()
    spec.write_text(spec.read_text().replace("out.parquet", "features.parquet"))
    refused(world, spec, USAGE, "features.parquet: is a directory", "one file")


def test_an_output_directory_with_other_files_is_refused(world: World) -> None:
    (world.folder / "features").mkdir()
    (world.folder / "features" / "thesis.txt").write_text("the only copy")
    spec = world.spec()
    spec.write_text(spec.read_text().replace("out.parquet", "features"))
    refused(world, spec, USAGE, "features: this directory holds something else", "name a new one", shell=True)


@pytest.mark.parametrize("name", INPUTS)
def test_an_output_that_is_an_input_is_refused(world: World, name: str) -> None:
    """A run would replace the user's data with its features."""
    spec = world.spec()
    spec.write_text(spec.read_text().replace("out.parquet", f"{name}.parquet"))
    refused(world, spec, USAGE, f"{name}.parquet: the output would overwrite", name, "name another")


def test_a_spec_without_an_output_is_refused(world: World) -> None:
    spec = world.spec()
    spec.write_text(re.sub("output.*\n", "", spec.read_text()))
    refused(world, spec, USAGE, "no output", "`output`", "-o OUT")
