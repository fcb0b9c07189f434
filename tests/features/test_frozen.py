"""`extembed center`: with sums that stay, items that come later change no byte of a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, small_world, vectors
from helpers.outputs import ran, same
from helpers.refusals import DATA, UNREADABLE, USAGE, contents, refused

from extembed_cli.jobs.layout import Layout

GROUPS = """[[aggregate]]
[[dual]]
unobserved_weight = 0.3
bias = true
[[dual]]
name = "raw"
center = false
unobserved_weight = 0.2
[[dual]]
side = "all"
unobserved_weight = 0.1
"""
PLAIN = f'[embeddings.text]\npath = "text.parquet"\ncenter = true\n{GROUPS}'
FROZEN = f'[embeddings.text]\npath = "text.parquet"\ncenter = "mean.parquet"\ngramian = "gramian.parquet"\n{GROUPS}'


def freeze(world: World) -> None:
    files = ("-o", world.folder / "mean.parquet", "--gramian", world.folder / "gramian.parquet")
    extembed("center", world.folder / "text.parquet", *files).ok()


def grow(world: World) -> None:
    """Add items that no event and no candidate has."""
    table, rng = world.table("text"), np.random.default_rng(8)
    ids = pa.array(np.arange(100, 160), table["item_id"].type)
    more = pa.table({"item_id": ids, "embedding": vectors(rng.standard_normal((60, 8)) + 1)})
    world.write("text", pa.concat_tables([table, more.cast(table.schema)]))


def test_frozen_sums_of_the_same_table_change_no_byte(world: World) -> None:
    plain = run_spec(world.spec(PLAIN))
    freeze(world)
    assert run_spec(world.spec(FROZEN)).equals(plain, null_equal=True)


@pytest.mark.parametrize("table", ["", "normalize = false\n"])
def test_later_items_change_no_byte(world: World, table: str) -> None:
    freeze(world)
    spec = world.spec(FROZEN.replace("center =", f"{table}center =", 1))
    before = run_spec(spec)
    grow(world)
    assert run_spec(spec).equals(before, null_equal=True)
    moved = run_spec(world.spec(PLAIN.replace("center =", f"{table}center =", 1)))
    for name in ("text__all__cos_mean__hl30d", "text__all__dual_score", "text__all__dual_raw_score"):
        assert not moved[name].equals(before[name], null_equal=True)


@pytest.mark.soak
def test_frozen_sums_have_the_same_bytes_in_any_layout(world: World, tmp_path: Path) -> None:
    freeze(world)
    spec = world.spec(FROZEN)
    same(ran(spec, 1, Layout()), ran(spec, 2, Layout(shards=3, rows=100, mapped=True)))
    run_spec(spec)
    expected = world.output()
    for _ in range(2):
        extembed("run", spec, "--cache", tmp_path / "cache").ok()
        assert world.output().equals(expected, null_equal=True)


def test_the_mean_is_that_of_a_loop(world: World) -> None:
    freeze(world)
    rows = np.array(world.table("text")["embedding"].to_pylist())
    mean = world.table("mean").to_pydict()
    assert mean["vectors"] == [35]
    np.testing.assert_allclose(mean["mean"][0], rows.mean(axis=0), atol=1e-7)
    for row in world.table("gramian").to_pylist():
        x = rows - mean["mean"][0] if row["centered"] else rows
        x = x / np.linalg.norm(x, axis=1, keepdims=True) if row["normalized"] else x
        x = np.column_stack([x, np.ones(35)])
        np.testing.assert_allclose(np.reshape(row["gramian"], (9, 9)), x.T @ x, atol=1e-5)


def test_the_same_table_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    freeze(world)
    before = contents(world.folder)
    freeze(world)
    assert contents(world.folder) == before
    other = small_world(tmp_path / "other")
    table = other.table("text")
    other.write("text", table.take(pa.array(np.random.default_rng(1).permutation(35))))
    freeze(other)
    assert other.table("mean").equals(world.table("mean"))


def test_report_and_metadata_have_the_digests(world: World) -> None:
    freeze(world)
    report = extembed("run", world.spec(FROZEN), "--json").ok().json
    frozen = report["digests"]["frozen"]["text"]
    about = json.loads((pq.read_schema(world.folder / "out.parquet").metadata or {})[b"extembed"])
    assert about["inputs"]["frozen"]["text"] == frozen
    assert about["spec"]["embeddings"]["text"]["center"] == "frozen"
    assert len(frozen["center"]) == len(frozen["gramian"]) == 64
    assert str(world.folder) not in json.dumps(about)


def test_a_table_that_grew_raises_a_warning_where_it_moves_features(world: World) -> None:
    run_spec(world.spec(PLAIN))
    assert "has changed" not in extembed("run", world.spec(PLAIN)).ok().err
    freeze(world)
    run_spec(world.spec(FROZEN))
    grow(world)
    assert "has changed" not in extembed("run", world.spec(FROZEN)).ok().err
    (world.folder / "out.parquet.run.json").unlink()
    assert "has changed" not in extembed("run", world.spec(PLAIN)).ok().err
    world.write("text", world.table("text").slice(0, 90))
    grown = extembed("run", world.spec(PLAIN), "-q").ok().err
    assert "embeddings text: has changed since the last run of " in grown
    assert "(95 rows then, 90 now), which moves the features of all rows by `center` and `unobserved_weight`" in grown
    world.write("text", world.table("text").slice(0, 80))
    only_cosines = '[embeddings.text]\npath = "text.parquet"\n[[aggregate]]\n'
    assert "has changed" not in extembed("run", world.spec(only_cosines)).ok().err


@pytest.mark.parametrize(
    ("change", "code", "parts"),
    [
        ("gone", UNREADABLE, ("embeddings text center: ", "mean.parquet: ", "o such file", "`extembed center`")),
        ("torn", UNREADABLE, ("embeddings text center: ", "cannot be read as Parquet")),
        ("other length", UNREADABLE, ("is a mean of 3 dimensions, the table has 8",)),
        ("another table", UNREADABLE, ("mean.parquet: has no column `vectors`",)),
        ("not finite", UNREADABLE, ("its column `mean` is not finite",)),
        ("text", UNREADABLE, ("its column `mean` has no lists of float64",)),
    ],
)
def test_a_file_that_is_no_mean_is_refused(world: World, change: str, code: int, parts: tuple[str, ...]) -> None:
    freeze(world)
    path = world.folder / "mean.parquet"
    if change == "gone":
        path.unlink()
    elif change == "torn":
        path.write_bytes(path.read_bytes()[:-20])
    elif change == "another table":
        world.write("mean", world.table("text"))
    else:
        rows = {"other length": [0.0] * 3, "not finite": [np.nan] * 8}.get(change, [0.0] * 8)
        column = pa.array(["x"]) if change == "text" else vectors(np.array([rows]), dtype="float64")
        world.write("mean", {"vectors": [1], "mean": column})
    refused(world, world.spec(FROZEN), code, *parts)
    extembed("check", world.spec(FROZEN)).failed(code, *parts)


def test_a_gramian_of_other_vectors_is_refused(world: World) -> None:
    freeze(world)
    world.write("gramian", world.table("gramian").slice(0, 1))
    refused(world, world.spec(FROZEN), UNREADABLE, "has no Gramian of vectors that are normalised, centred")


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (("text.parquet", "-o", "mean.csv"), USAGE, "end in .parquet"),
        (("text.parquet", "-o", "m.parquet", "--gramian", "m.parquet"), USAGE, "one for each"),
        (("text.parquet", "-o", "text.parquet"), USAGE, "would overwrite an input"),
        (("none.parquet", "-o", "m.parquet"), UNREADABLE, "none.parquet: no such file"),
        (("interactions.parquet", "-o", "m.parquet"), DATA, "no column `embedding`"),
        (("text.parquet", "-o", "m.parquet", "--duplicates", "first"), USAGE, "duplicates"),
    ],
)
def test_wrong_calls_are_refused(world: World, args: tuple[str, ...], code: int, part: str) -> None:
    before = contents(world.folder)
    extembed("center", *args, cwd=world.folder).failed(code, part)
    assert contents(world.folder) == before


def test_other_names_and_bad_vectors(world: World) -> None:
    rows = np.array(world.table("text")["embedding"].to_pylist())
    rows[3] = 0
    world.write("named", {"doc": np.arange(35), "vec": vectors(rows)})
    args = ("center", "named.parquet", "-o", "m.parquet", "--item", "doc", "--embedding", "vec")
    extembed(*args, cwd=world.folder).failed(DATA, "Give --bad-vectors missing")
    report = extembed(*args, "--bad-vectors", "missing", "--json", cwd=world.folder).ok().json
    assert report["vectors"] == 34
    assert world.table("m")["vectors"].to_pylist() == [34]


def renamed_id(world: World) -> None:
    world.write("text", world.table("text").rename_columns(["sku", "embedding"]))


def zero_vectors(world: World) -> None:
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(np.zeros((35, 8)))})


def equal_ids(world: World) -> None:
    world.write("text", {"item_id": np.zeros(35, int), "embedding": world.table("text")["embedding"]})


@pytest.mark.parametrize(
    ("change", "advice", "flags"),
    [
        (renamed_id, "; if it has another name, give --item NAME", ("--item", "sku")),
        (equal_ids, "or give --duplicates last", ("--duplicates", "last")),
        (zero_vectors, "Give --bad-vectors missing to", ("--bad-vectors", "missing")),
    ],
)
def test_advice_names_flags_of_the_command(
    world: World, change: Callable[[World], None], advice: str, flags: tuple[str, ...]
) -> None:
    change(world)
    command = ("center", world.folder / "text.parquet", "-o", world.folder / "mean.parquet")
    assert "--set" not in extembed(*command).failed(DATA, advice).err
    extembed(*command, *flags).ok()


def test_another_table_than_that_of_vectors_is_told_with_the_flag(world: World) -> None:
    command = ("center", world.folder / "interactions.parquet", "-o", world.folder / "mean.parquet")
    extembed(*command).failed(DATA, "no column `embedding`", "give --embedding NAME")
