"""Bad inputs are refused with clear messages, all problems together, and the folder stays unchanged."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, vectors
from helpers.refusals import DATA, INPUTS, UNREADABLE, USAGE, contents, refused, replace

BROKEN = '[embeddings.text]\npath = "text.parquet"\n'


def top(interactions: str) -> str:
    return f'interactions = {interactions}\ncandidates = "candidates.parquet"\noutput = "out.parquet"\n{BROKEN}'


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        ('"events.parquet"', ("interactions: ", "events.parquet: no such file")),
        ('"empty"', ("interactions: ", "/empty: no Parquet files", ".parquet")),
        ('"day-*.parquet"', ("interactions: ", "day-*.parquet: the pattern matches no file")),
        ("[]", ("interactions: ", "empty", "name at least one")),
        ('["interactions.parquet", "more.parquet"]', ("more.parquet: no such file",)),
    ],
)
def test_paths_without_files_are_refused(world: World, paths: str, parts: tuple[str, ...]) -> None:
    (world.folder / "empty").mkdir()
    (world.folder / "empty" / "notes.csv").write_text("a,b\n")
    refused(world, world.spec(top(paths)), UNREADABLE, *parts)


@pytest.mark.parametrize("name", INPUTS)
def test_a_pipe_is_refused(world: World, name: str) -> None:
    """It would wait for somebody to write, and can be read only once."""
    path = world.folder / f"{name}.parquet"
    path.unlink()
    os.mkfifo(path)
    for done in (extembed("run", world.spec()), extembed("check", world.spec())):
        done.failed(UNREADABLE, f"{name}.parquet: is not a file; save it as one, which is read more than once")


def test_a_pipe_for_a_mean_is_refused(world: World) -> None:
    os.mkfifo(world.folder / "mean")
    spec = world.spec('[embeddings.text]\npath = "text.parquet"\ncenter = "mean"\n')
    extembed("run", spec).failed(UNREADABLE, "mean: is not a file")


def test_missing_files_of_all_inputs_are_reported_together(world: World) -> None:
    for name in INPUTS:
        (world.folder / f"{name}.parquet").unlink()
    refused(world, world.spec(), UNREADABLE, *(f"{name}.parquet: no such file" for name in INPUTS), shell=True)


def test_missing_files_of_one_list_are_reported_together(world: World) -> None:
    spec = world.spec(top('["one.parquet", "interactions.parquet", "two.parquet", "day-*.parquet"]'))
    refused(world, spec, UNREADABLE, "one.parquet: no such", "two.parquet: no such", "day-*.parquet: the pattern")


def damaged(path: Path, damage: str) -> bytes:
    """Return the bytes of a file with the given damage."""
    content = path.read_bytes()
    rng = np.random.default_rng(list(damage.encode()))
    if damage.startswith("cut"):
        return content[: rng.integers(1, len(content))]
    if damage == "flipped":
        chunk = pq.read_metadata(path).row_group(0).column(1)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        at = start + chunk.total_compressed_size - 3  # page headers have no checksum
        return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
    return {"empty": b"", "text": b"user_id,item_id\n1,2\n", "magic": b"PAR1" * 3}[damage]


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("damage", [*(f"cut {n}" for n in range(10)), "flipped", "empty", "text", "magic"])
@pytest.mark.few(14)
def test_a_corrupt_file_is_named(world: World, name: str, damage: str) -> None:
    path = world.write(name, world.table(name), write_page_checksum=True, compression="none")
    path.write_bytes(damaged(path, damage))
    told = {"empty": "is empty", "text": "is CSV, not Parquet"}.get(damage, "cannot be read as Parquet")
    refused(world, world.spec(), UNREADABLE, f"{name}.parquet: {told}")


def test_damage_in_a_column_that_only_passes_through_is_reported(world: World) -> None:
    """The run reads this column only when the output is half written."""
    path = world.write("candidates", world.table("candidates").select([0, 3, 1, 2]), write_page_checksum=True)
    path.write_bytes(damaged(path, "flipped"))
    refused(world, world.spec(), UNREADABLE, "candidates.parquet: cannot be read", shell=True)


@pytest.mark.parametrize("damage", ["cut 1", "empty", "text", "flipped"])
def test_corrupt_files_of_several_inputs_are_reported_together(world: World, damage: str) -> None:
    for name in INPUTS:
        path = world.write(name, world.table(name), write_page_checksum=True, compression="none")
        path.write_bytes(damaged(path, damage))
    # Vectors are read only after ids and times have passed.
    named = INPUTS if damage != "flipped" else INPUTS[:2]
    told = {"empty": "is empty", "text": "is CSV"}.get(damage, "cannot be read")
    refused(world, world.spec(), UNREADABLE, *(f"{name}.parquet: {told}" for name in named))


def test_corrupt_files_of_one_input_are_reported_together(world: World) -> None:
    for n in range(3):
        world.write(f"log/{n}", world.table("interactions"))
    for n in (0, 2):
        (world.folder / f"log/{n}.parquet").write_bytes(b"PAR1")
    message = refused(world, world.spec(top('"log"')), UNREADABLE, "0.parquet: cannot", "2.parquet: cannot", shell=True)
    assert "1.parquet" not in message


@pytest.mark.parametrize(
    ("name", "column", "written", "fix"),
    [
        (
            "interactions",
            "user_id",
            "usr_id",
            "set columns.interactions.user in the spec (--set columns.interactions.user=NAME)",
        ),
        ("interactions", "item_id", "itemid", "set columns.interactions.item "),
        ("interactions", "timestamp", "time_stamp", "set columns.interactions.time "),
        ("candidates", "user_id", "USER_ID", "set columns.candidates.user "),
        ("candidates", "timestamp", "timestmp", "one as-of time for all (as_of, --as-of)"),
        ("text", "item_id", "item", "set embeddings.text.columns.item "),
        ("text", "embedding", "embeddings", "set embeddings.text.columns.embedding "),
    ],
)
def test_a_missing_column_suggests_a_similar_name(world: World, name: str, column: str, written: str, fix: str) -> None:
    table = world.table(name)
    world.write(name, table.rename_columns([written if c == column else c for c in table.column_names]))
    message = f"{name}.parquet: no column `{column}`; did you mean `{written}`?"
    refused(world, world.spec(), DATA, message, fix)


def test_the_advice_on_a_name_mends_one_input_alone(world: World) -> None:
    """The log says `userId`, everything else `user_id`."""
    log = world.table("interactions")
    world.write("interactions", log.rename_columns(["userId", *log.column_names[1:]]))
    message = extembed("check", world.spec()).failed(DATA, "no column `user_id`; did you mean `userId`?").err
    (key,) = re.findall(r"--set (\S+)=NAME", message)
    extembed("check", world.spec(), "--set", f"{key}=userId").ok()


def test_missing_columns_of_all_inputs_are_reported_together(world: World) -> None:
    for name in INPUTS:
        world.write(name, {"a": [1], "b": [2]})
    messages = [f"{name}.parquet: no column `{c}`; known: a, b" for name in INPUTS[:2] for c in ("user_id", "item_id")]
    refused(world, world.spec(), DATA, *messages, "text.parquet: no column `embedding`; known: a, b", shell=True)


@pytest.mark.parametrize(
    ("name", "column"),
    [("interactions", "user_id"), ("candidates", "item_id"), ("text", "item_id")],
)
def test_ids_of_a_wrong_type_are_refused(world: World, name: str, column: str) -> None:
    replace(world, name, column, world.table(name)[column].cast(pa.timestamp("us")).combine_chunks())
    refused(
        world, world.spec(), DATA, f"{name}.parquet: column `{column}` is timestamp", "must be integers, text", "Cast"
    )


@pytest.mark.parametrize(
    ("name", "column"),
    [("interactions", "user_id"), ("candidates", "user_id"), ("candidates", "item_id"), ("text", "item_id")],
)
def test_text_ids_in_one_input_and_integers_in_another_are_refused(world: World, name: str, column: str) -> None:
    replace(world, name, column, world.table(name)[column].cast(pa.string()).combine_chunks())
    parts = ("text in", "integer in", f"{name}.parquet", f"column `{column}`", "would never match", "Cast one side")
    refused(world, world.spec(), DATA, *parts)


def test_user_and_item_ids_are_reported_together(world: World) -> None:
    for column in ("user_id", "item_id"):
        replace(world, "candidates", column, world.table("candidates")[column].cast(pa.string()).combine_chunks())
    refused(world, world.spec(), DATA, "user ids are integer", "item ids are integer", shell=True)


@pytest.mark.parametrize("name", ["interactions", "candidates"])
@pytest.mark.parametrize(
    ("kind", "fix"),
    [(pa.duration("us"), "must be timestamps, dates"), (pa.int64(), "time_unit ="), (pa.float64(), "time_unit =")],
)
def test_times_of_a_wrong_type_are_refused(world: World, name: str, kind: pa.DataType, fix: str) -> None:
    times = world.table(name)["timestamp"].cast(pa.int64()).combine_chunks().cast(kind)
    replace(world, name, "timestamp", times)
    refused(world, world.spec(), DATA, f"{name}.parquet: column `timestamp` is {kind}", fix)


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_a_time_unit_that_leads_beyond_the_year_9999_is_refused(world: World, unit: str) -> None:
    for name in INPUTS[:2]:
        replace(world, name, "timestamp", world.table(name)["timestamp"].cast(pa.int64()).combine_chunks())
    parts = ("outside the years 1 to 9999", f"counted in {unit}", "time_unit")
    columns = [f"{name}.parquet: column `timestamp`" for name in INPUTS[:2]]
    refused(world, world.spec(f'time_unit = "{unit}"\n'), DATA, *columns, *parts)


def test_a_column_that_occurs_twice_is_refused(world: World) -> None:
    for name, column in (("candidates", "label"), ("interactions", "user_id")):
        table = world.table(name)
        world.write(name, table.append_column(column, table[column]))
    messages = [
        f"{n}.parquet: column `{c}` occurs twice" for n, c in (("candidates", "label"), ("interactions", "user_id"))
    ]
    refused(world, world.spec(), DATA, *messages, "rename")


def test_candidates_with_a_feature_column_are_refused(world: World) -> None:
    table = world.table("candidates")
    world.write("candidates", table.append_column("all__count", table["label"]))
    refused(world, world.spec(), DATA, "candidates.parquet", "`all__count`", "Drop it", "`name`")


@pytest.mark.parametrize("embedding", [[True, False], [1.5, 2.5], [["a"], ["b"]], [[[1.0]], [[2.0]]]])
def test_vectors_of_a_wrong_type_are_refused(world: World, embedding: list[object]) -> None:
    world.write("text", {"item_id": [1, 2], "embedding": embedding})
    refused(world, world.spec(), DATA, "text.parquet: column `embedding` is ", "vectors must be lists")


def test_vectors_of_two_lengths_in_a_file_are_refused(world: World) -> None:
    rows: list[list[float]] = [[float(n), 1.0] for n in range(35)]
    rows[17] = [1.0, 2.0, 3.0]
    replace(world, "text", "embedding", rows)
    parts = ("text.parquet: column `embedding`", "different lengths: 2 before, 3 in row 17", "one length")
    refused(world, world.spec(), DATA, *parts)


@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_vectors_of_two_lengths_across_files_are_refused(world: World, kind: str) -> None:
    for n, length in enumerate((8, 5)):
        world.write(f"parts/{n}", {"item_id": [n], "embedding": vectors(np.ones((1, length)), kind)})
    spec = world.spec('[embeddings.text]\npath = "parts"\n')
    refused(world, spec, DATA, "parts/1.parquet", "different lengths: 8", "5", "one length")


def test_an_item_that_occurs_twice_is_refused(world: World) -> None:
    replace(world, "text", "item_id", [*range(32), 5, 5, 7])
    parts = ("text.parquet", "5 of 35 rows", "item_id 5 3 times, 7 2 times", 'duplicates = "last"', "[embeddings.text]")
    refused(world, world.spec(), DATA, *parts, shell=True)


@pytest.mark.parametrize(
    ("group", "bad"),
    [
        *[("[[aggregate]]", bad) for bad in (np.nan, np.inf, -np.inf, 0.0)],
        ("[[dual]]", 0.0),
        ('[[dual]]\nside = "all"', np.nan),
    ],
)
def test_vectors_without_a_direction_are_refused(world: World, group: str, bad: float) -> None:
    rows = np.ones((35, 8))
    rows[3, 4], rows[30] = bad, bad
    rows[3] *= bad != 0
    replace(world, "text", "embedding", vectors(rows))
    parts = ("text.parquet", "2 of 35 vectors are zero or not finite", "item_id 3, 30", 'bad_vectors = "missing"')
    refused(world, world.spec(f"{group}\n"), DATA, *parts, "[embeddings.text]")


def test_problems_of_two_embedding_tables_are_reported_together(world: World) -> None:
    world.write("zero", {"item_id": np.arange(35), "embedding": vectors(np.zeros((35, 4)))})
    tables = "".join(f'[embeddings.{name}]\npath = "zero.parquet"\n' for name in ("text", "image"))
    refused(world, world.spec(tables), DATA, "under [embeddings.text]", "under [embeddings.image]")


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf, 2e30, 1e-201])
def test_unusable_weights_are_refused(world: World, bad: float) -> None:
    weights = np.ones(600)
    weights[[7, 99]] = bad
    replace(world, "interactions", "rating", weights)
    parts = (
        "interactions.parquet",
        "weight = 'rating'",
        "2 weights",
        f"row 7: {bad}",
        f"row 99: {bad}",
        "0 leaves an event out",
    )
    refused(world, world.spec('weight = "rating"\n'), DATA, *parts)


def torn(world: World) -> None:
    (world.folder / "text.parquet").write_bytes(b"PAR1")


def zero(world: World) -> None:
    replace(world, "text", "embedding", vectors(np.zeros((35, 8))))


def missing(world: World) -> None:
    (world.folder / "spec.toml").unlink()


@pytest.mark.parametrize(("damage", "code"), [(torn, UNREADABLE), (zero, DATA), (missing, USAGE)])
def test_check_reports_the_same_error_as_run(world: World, damage: Callable[[World], None], code: int) -> None:
    spec = world.spec()
    damage(world)
    before = contents(world.folder)
    done = extembed("check", spec).failed(code)
    assert done.out == ""
    assert contents(world.folder) == before
    assert extembed("run", spec).failed(code).err == done.err
