"""A check tells the problems of a spec and those of its files together, as far as the spec can be understood."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import World, extembed, soak, vectors

BAD_SPEC = """
lagg = "1d"
[histories.liked]
where = "rating >= 4"
window = "a week"
[[aggregate]]
percentiles = [0]
[[aggregat]]
"""
OF_SPEC = ("`lagg`", "histories.liked.window", "aggregate.0.percentiles.0", "`aggregat`")


def torn(world: World) -> None:
    path = world.folder / "text.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def zero_vector(world: World) -> None:
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(np.zeros((35, 8)))})


def no_such_column(world: World) -> None:
    world.write("interactions", world.table("interactions").drop_columns(["rating"]))


FILES: dict[str, tuple[Callable[[World], None], str]] = {
    "torn": (torn, "text.parquet: cannot be read as Parquet"),
    "vectors": (zero_vector, "35 of 35 vectors"),
    "expression": (no_such_column, "the interactions have no column `rating`"),
}


@pytest.mark.parametrize("case", FILES)
def test_problems_of_the_spec_and_of_a_file_are_told_together(world: World, case: str) -> None:
    change, message = FILES[case]
    change(world)
    done = extembed("check", world.spec(BAD_SPEC)).failed(2, *OF_SPEC, message)
    assert done.out == ""
    assert all(line.startswith("extembed: error: ") for line in done.err.splitlines())


def test_a_spec_without_a_group_that_is_right(world: World) -> None:
    torn(world)
    spec = world.spec("[[aggregate]]\n")
    spec.write_text(spec.read_text().replace("[[aggregate]]", "[[agregate]]"))
    extembed("check", spec).failed(
        2, "`agregate` is not a known key; did you mean `aggregate`?", "text.parquet: cannot"
    )


def test_problems_of_a_spec_alone_are_told_once(world: World) -> None:
    done = extembed("check", world.spec(BAD_SPEC)).failed(2, *OF_SPEC)
    assert len(done.err.splitlines()) == len(OF_SPEC)


NAMES = """
[within]
by = "request"
columns = ["*"]
[histories.liked]
where = "rating >= 4"
[user_embeddings.taste]
from = {embedding = "txt", history = "likd"}
[[aggregate]]
histories = ["like"]
[[direct]]
user_embeddings = ["tast"]
[[dual]]
target = "ratng"
"""
OF_NAMES = (
    "aggregate.0.histories: nothing is named `like`; did you mean `liked`?",
    "direct.0.user_embeddings: nothing is named `tast`; did you mean `taste`?",
    "user_embeddings.taste.from.embedding: nothing is named `txt`; did you mean `text`?",
    "user_embeddings.taste.from.history: nothing is named `likd`; did you mean `liked`?",
)


@pytest.mark.parametrize(
    "of_values", ["", 'lag = 3\n[require]\nnon_null."x*" = 0.5\n'], ids=["names", "names and values"]
)
def test_names_values_and_files_are_told_together(world: World, of_values: str) -> None:
    """Pydantic looks up names only in a spec whose values have the right types."""
    torn(world)
    files = (FILES["torn"][1], "no column `ratng`; did you mean `rating`?", "within.by: the candidates have no column")
    done = extembed("check", world.spec(of_values + NAMES)).failed(2, *OF_NAMES, *files)
    assert len(done.err.splitlines()) == 7 + bool(of_values)
    assert ("lag: must be a duration" in done.err) == bool(of_values)


@pytest.mark.parametrize(
    "text",
    [
        '[[aggregate]]\nname = "a"\npercentiles = [0]\n[within]\nby = "user_id"\ncolumns = ["*cos_p50*"]\n',
        '[[dual]]\ntargets = "rating"\n[require]\nnon_null."*dual_score" = 0.5\n',
        soak('[[aggregate]]\n[[direct]]\nuser_embeddings = ["u"]\n[user_embeddings.u]\npath = 3\n'),
        soak('[[dual]]\nside = "al"\nall_vectors = "all.parquet"\nhistories = ["liked"]\n'),
    ],
)
def test_what_a_wrong_key_would_have_given_is_not_missed(world: World, text: str) -> None:
    """What is left of the spec lacks columns, tables or groups that the whole would have."""
    text = 'as_of = "2024-01-01"\n[histories.liked]\nwhere = "rating >= 4"\n' + text
    assert len(extembed("check", world.spec(text)).failed(2).err.splitlines()) == 1


def test_a_group_without_tables_leaves_the_files_to_be_checked(world: World) -> None:
    torn(world)
    lines = 'interactions = "interactions.parquet"\ncandidates = "text.parquet"\n[[aggregate]]\n'
    extembed("check", world.spec(lines)).failed(2, "[[aggregate]] needs an embedding table", FILES["torn"][1])


def test_a_spec_that_is_wrong_as_a_whole_is_told_alone(world: World) -> None:
    """What it reads is not known then, and messages about the files could be wrong."""
    torn(world)
    lines = extembed("check", world.spec("interactions = 3\n")).failed(2).err.splitlines()
    assert lines
    assert all("spec.toml" in line for line in lines)


def test_a_run_with_a_bad_spec_reads_no_file(world: World) -> None:
    torn(world)
    assert "text.parquet" not in extembed("run", world.spec(BAD_SPEC)).failed(2, *OF_SPEC).err
