"""An input gives the same rows from a list, a glob, a folder or partitions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, run_spec, small_world, soak
from polars.testing import assert_frame_equal

from extembed_cli.errors import ExtembedError, InputError
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

INPUTS = ("interactions", "candidates", "text")
GROUP = '[[aggregate]]\nhalf_lives = ["7d", "none"]\npercentiles = [50]\nthresholds = [0.2]\n'


def spec(world: World, rest: str = "", name: str = "spec.toml", **paths: Any) -> Path:
    """Write a spec with the given `interactions`, `candidates`, `text` and `output` paths; `rest` is more TOML."""
    text = paths.pop("text", "text.parquet")
    paths = {
        "interactions": "interactions.parquet",
        "candidates": "candidates.parquet",
        "output": "out.parquet",
        **paths,
    }
    top = "".join(f"{key} = {json.dumps(path)}\n" for key, path in paths.items())
    return world.spec(f"{top}[embeddings.text]\npath = {json.dumps(text)}\n{rest}{GROUP}", name)


def features(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.selectors.contains("__"))


def with_row_ids(world: World) -> World:
    """Add `row_id` to the candidates, which identifies a row."""
    world.write("candidates", world.table("candidates").append_column("row_id", pa.array(np.arange(300))))
    return world


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Provides the output of the plain files."""
    output = run_spec(spec(with_row_ids(small_world(tmp_path_factory.mktemp("plain")))))
    assert output["text__all__vector_count"].max() > 5
    return output


@pytest.fixture
def expected(world: World, plain: pl.DataFrame) -> pl.DataFrame:
    """Provides the expected output of `world`, after adding `row_id` to its candidates."""
    with_row_ids(world)
    return plain


# --- paths -------------------------------------------------------------------------------------------


def split(world: World, name: str, *paths: str) -> None:
    """Split a table into files, in order."""
    table = world.table(name)
    step = -(-len(table) // len(paths))
    for number, path in enumerate(paths):
        world.write(path, table.slice(number * step, step))
    (world.folder / f"{name}.parquet").unlink()


def spark(world: World, name: str) -> str:
    split(world, name, f"{name}.out/part-00000-c000.snappy", f"{name}.out/part-00001-c000.snappy")
    folder = world.folder / f"{name}.out"
    world.write(f"{name}.out/part-00002-c000.snappy", pq.read_table(folder / "part-00000-c000.snappy.parquet")[:0])
    temporary = folder / "_temporary" / "0" / "task_1"
    temporary.mkdir(parents=True)
    for path in ("_SUCCESS", "._SUCCESS.crc", ".part-00000-c000.snappy.parquet.crc", "_metadata", "_started.parquet"):
        (folder / path).write_bytes(b"")
    (temporary / "part-00003.parquet").write_bytes(b"torn")
    return f"{name}.out"


def in_files(pattern: str | list[str], *files: str) -> Callable[[World, str], Any]:
    def lay(world: World, name: str) -> Any:
        split(world, name, *(file.replace("NAME", name) for file in files))
        return json.loads(json.dumps(pattern).replace("NAME", name))

    return lay


LAYOUTS: dict[str, Callable[[World, str], Any]] = {
    "list": in_files(["NAME-b.parquet", "x/NAME-a.parquet"], "NAME-b", "x/NAME-a"),
    "list_of_globs": in_files(["b/NAME*.parquet", "a/*"], "b/NAME-1", "b/NAME-2", "a/NAME"),
    "list_of_one": in_files(["NAME-1.parquet"], "NAME-1"),
    "glob": in_files("NAME-*.parquet", "NAME-1", "NAME-2", "NAME-3"),
    "glob_of_one_character": in_files("NAME-?[0-9].parquet", "NAME-01", "NAME-02"),
    "glob_of_folders": in_files("NAME-day*", "NAME-day1/p0", "NAME-day1/p1", "NAME-day2/p0"),
    "recursive_glob": in_files("NAME/**/*.parquet", "NAME/a/b/c", "NAME/a/d", "NAME/e"),
    "recursive_glob_of_all": in_files("NAME/**", "NAME/a/b/c", "NAME/a/d", "NAME/e"),
    "directory": in_files("NAME.d", "NAME.d/0", "NAME.d/1"),
    "directory_with_slash": in_files("NAME.d/", "NAME.d/0", "NAME.d/1"),
    "directory_that_ends_in_parquet": in_files("NAME.d.parquet", "NAME.d.parquet/0", "NAME.d.parquet/1"),
    "nested_directory": in_files("NAME.d", "NAME.d/a/0", "NAME.d/b/c/1"),
    "dots": in_files("./x/../x/NAME.parquet", "x/NAME"),
    "bracket_in_file": in_files("NAME[1].parquet", "NAME[1]"),
    "bracket_in_folder": in_files("x[1]/NAME.d", "x[1]/NAME.d/0", "x[1]/NAME.d/1"),
    "star_in_file": in_files("NAME*.parquet", "NAME*"),
    "space_and_percent": in_files("a b%20c/NAME é.parquet", "a b%20c/NAME é"),
    "hive": in_files("NAME.d", "NAME.d/day=1/0", "NAME.d/day=2/0", "NAME.d/day=2/1"),
    "hive_glob": in_files("NAME.d/day=*/*.parquet", "NAME.d/day=1/0", "NAME.d/day=2/0"),
    "hive_in_bracket": in_files("x [1]#/NAME.d", "x [1]#/NAME.d/day=1/0", "x [1]#/NAME.d/day=2/0"),
    "spark": spark,
    "spark_glob": lambda world, name: spark(world, name) + "/*",
    "spark_glob_of_parts": lambda world, name: spark(world, name) + "/part-*",
    "spark_recursive_glob": lambda world, name: spark(world, name) + "/**/*.parquet",
}


OFTEN = {"list", "glob", "directory", "hive", "hive_glob", "spark"}
CASES = [(name, layout) for name in INPUTS for layout in LAYOUTS]


@pytest.mark.parametrize(
    ("name", "layout"), [case if case[0] == "interactions" and case[1] in OFTEN else soak(*case) for case in CASES]
)
def test_every_layout_of_files_gives_the_same_features(
    world: World, expected: pl.DataFrame, layout: str, name: str
) -> None:
    output = run_spec(spec(world, **{name: LAYOUTS[layout](world, name)}))
    assert_frame_equal(output.drop("day", strict=False), expected, check_exact=True)


def test_a_folder_with_wildcards_in_its_name_holds_the_spec_and_a_glob(world: World, expected: pl.DataFrame) -> None:
    """The folder of the spec is not a pattern. Only the path in the spec is."""
    inner = World(world.folder / "run [v1]*")
    for name in INPUTS:
        inner.write(name, world.table(name))
    split(inner, "interactions", "log/0", "log/1")
    assert_frame_equal(run_spec(spec(inner, interactions="log/*.parquet")), expected)


def test_paths_of_a_spec_start_at_its_folder(
    world: World, expected: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    (world.folder / "specs").mkdir()
    path = spec(
        world,
        name="specs/a.toml",
        interactions="../interactions.parquet",
        candidates=str(world.folder / "candidates.parquet"),
        text="../tex*.parquet",
        output="outputs/out.parquet",
    )
    monkeypatch.chdir(elsewhere)
    assert_frame_equal(run_spec(Path("../specs/a.toml")), expected, check_exact=True)
    assert path.with_name("outputs").joinpath("out.parquet").exists()
    assert list(elsewhere.iterdir()) == []


def hive(world: World, name: str, column: str, folders: dict[Any, str], keep: bool = False) -> pa.Table:
    """Partition a table by a column into folders (with `keep` the files have it, too). Return the rows in order."""
    table = world.table(name)
    parts = []
    for value, folder in sorted(folders.items(), key=lambda item: item[1]):
        mine = table.filter(pa.array([v == value for v in table[column].to_pylist()]))
        parts.append(mine)
        world.write(f"{name}.d/{folder}/part", mine if keep else mine.drop_columns([column]))
    return pa.concat_tables(parts)


@pytest.mark.parametrize("path", ["interactions.d", "interactions.d/*/*.parquet", "interactions.d/**/*.parquet"])
@pytest.mark.parametrize("keep", [False, True], ids=["folders", "folders_and_files"])
@pytest.mark.few(3)
def test_where_reads_a_partition_column_of_numbers(world: World, expected: pl.DataFrame, path: str, keep: bool) -> None:
    where = '[histories.liked]\nwhere = "rating >= 4"\n'
    plain = run_spec(spec(world, where))
    hive(world, "interactions", "rating", {n: f"rating={n}" for n in range(1, 6)}, keep)
    (world.folder / "interactions.parquet").unlink()
    assert_frame_equal(run_spec(spec(world, where, interactions=path)), plain, check_exact=True)


@pytest.mark.parametrize("where", ["kind = 'a b/c'", "kind <> 'x'", "kind IS NOT NULL", "kind IN ('x', '1')"])
@pytest.mark.few(2)
def test_where_reads_a_partition_column_of_text(world: World, expected: pl.DataFrame, where: str) -> None:
    """Folder names have the escapes of Spark and Hive, and their name for null."""
    names = ["a b/c", "x", "1", None]
    table = world.table("interactions")
    kinds = pa.array([names[n % 4] for n in range(len(table))])
    world.write("interactions", table.append_column("kind", kinds))
    text = f'[histories.some]\nwhere = "{where}"\n'
    plain = run_spec(spec(world, text))
    folders = {"a b/c": "kind=a%20b%2Fc", "x": "kind=x", "1": "kind=1", None: "kind=__HIVE_DEFAULT_PARTITION__"}
    hive(world, "interactions", "kind", folders)
    assert_frame_equal(run_spec(spec(world, text, interactions="interactions.d")), plain, check_exact=True)


def test_partition_columns_of_candidates_pass_through(world: World, expected: pl.DataFrame) -> None:
    rows = hive(world, "candidates", "label", {0: "label=0", 1: "label=1"})
    output = run_spec(spec(world, candidates="candidates.d"))
    assert output["label"].to_list() == rows["label"].to_pylist()
    assert output["row_id"].to_list() == rows["row_id"].to_pylist()
    assert_frame_equal(output.sort("row_id"), expected, check_column_order=False, check_dtypes=False, check_exact=True)


def test_a_partition_column_can_be_a_key(world: World, expected: pl.DataFrame) -> None:
    hive(world, "interactions", "user_id", {n: f"user_id={n}" for n in range(30)})
    assert_frame_equal(run_spec(spec(world, interactions="interactions.d")), expected, check_exact=True)


def test_nested_partitions(world: World, expected: pl.DataFrame) -> None:
    table = world.table("interactions")
    years = pa.array(2020 + np.arange(len(table)) % 2)
    world.write("interactions", table.append_column("year", years))
    text = '[histories.some]\nwhere = "year = 2021 AND rating > 2"\n'
    plain = run_spec(spec(world, text))
    for year in (2020, 2021):
        inner = World(world.folder / f"log/year={year}")
        inner.write("interactions", world.table("interactions").filter(pa.compute.equal(years, year)))
        inner.write("interactions", inner.table("interactions").drop_columns(["year"]))
        hive(inner, "interactions", "rating", {n: f"rating={n}" for n in range(1, 6)})
        (inner.folder / "interactions.parquet").unlink()
    assert_frame_equal(run_spec(spec(world, text, interactions="log")), plain, check_exact=True)


def test_an_output_directory_can_be_an_input(world: World, expected: pl.DataFrame) -> None:
    """The run reads the parts in its manifest and ignores other files."""
    run_job(load_spec(spec(world, output="features")), RunOptions(workers=1), Watch())
    (world.folder / "features/part-00009-stale.parquet").write_bytes(b"torn")
    world.write("features/part-00010-older", world.table("candidates"))
    path = spec(world, candidates="features")
    path.write_text(path.read_text().replace("[[aggregate]]", '[[aggregate]]\nname = "again"'))
    output = run_spec(path)
    assert_frame_equal(output[:, : expected.width], expected, check_exact=True)
    again = output[:, expected.width :]
    assert_frame_equal(again.rename(lambda name: name.replace("again_", "")), features(expected)[:, -again.width :])
    assert again.width > 5


def test_files_may_order_their_columns_differently_and_have_more(world: World, expected: pl.DataFrame) -> None:
    for name in INPUTS:
        table = world.table(name)
        more = table.append_column("extra", pa.array([{"a": 1}] * len(table)))
        world.write(f"{name}.d/0", table.slice(0, 10))
        world.write(f"{name}.d/1", more.select(more.column_names[::-1]).slice(10, 15))
        world.write(f"{name}.d/2", table.append_column("other", pa.nulls(len(table), pa.string())).slice(25))
    output = run_spec(spec(world, **{name: f"{name}.d" for name in INPUTS}))
    assert_frame_equal(output.drop("extra", "other"), expected, check_exact=True)
    assert output.columns[: len(world.table("candidates").column_names)] == world.table("candidates").column_names
    assert output["extra"].is_null().to_list() == [not 10 <= n < 25 for n in range(300)]
    assert output["extra"][12] == {"a": 1}


@pytest.mark.parametrize("name", ["interactions", "text"])
def test_unread_columns_may_differ_between_files(world: World, expected: pl.DataFrame, name: str) -> None:
    table = world.table(name)
    world.write(f"{name}.d/0", table.append_column("extra", pa.array(["a"] * len(table))).slice(0, 20))
    world.write(f"{name}.d/1", table.append_column("extra", pa.array([[1]] * len(table))).slice(20))
    assert_frame_equal(run_spec(spec(world, **{name: f"{name}.d"})), expected, check_exact=True)


@pytest.mark.parametrize("name", ["label", "item_id"])
def test_candidate_files_with_incompatible_columns_are_refused(world: World, name: str) -> None:
    """Signed integers in one file and integers above 2^63 in another have no common type."""
    table = world.table("candidates")
    large = pa.array([2**63 + n for n in range(len(table))], pa.uint64())
    world.write("candidates.d/0", table)
    world.write("candidates.d/1", table.set_column(table.column_names.index(name), name, large))
    with pytest.raises(ExtembedError, match=name):
        run_spec(spec(world, candidates="candidates.d"))
    assert not (world.folder / "out.parquet").exists()


# --- one file under several names, and files that are not a heap --------------------------------------


@pytest.mark.parametrize("kind", ["list", "glob", "link", "hard link", "folder"])
def test_a_file_that_is_named_twice_counts_once(world: World, expected: pl.DataFrame, kind: str) -> None:
    log = world.folder / "interactions.parquet"
    names: dict[str, Any] = {
        "list": ["interactions.parquet", "./interactions.parquet"],
        "glob": ["interactions.parquet", "[i]nteractions.parquet", "interaction*.parquet"],
        "link": ["interactions.parquet", "linked.parquet"],
        "hard link": ["linked.parquet", "interactions.parquet"],
        "folder": ["logs", "logs/interactions.parquet"],
    }
    if kind == "link":
        (world.folder / "linked.parquet").symlink_to(log)
    elif kind == "hard link":
        (world.folder / "linked.parquet").hardlink_to(log)
    elif kind == "folder":
        (world.folder / "logs").mkdir()
        log.rename(world.folder / "logs" / "interactions.parquet")
    assert_frame_equal(run_spec(spec(world, interactions=names[kind])), expected, check_exact=True)


@pytest.mark.parametrize(
    ("log", "content", "name"),
    [
        ("_delta_log/0.json", b"{}", "Delta Lake"),
        ("metadata/v1.metadata.json", b'{\n  "format-version" : 2}', "Iceberg"),
        ("metadata/v1.gz.metadata.json", gzip.compress(b'{"format-version":2}', mtime=0), "Iceberg"),
        (".hoodie/x", b"", "Hudi"),
    ],
    ids=["delta", "iceberg", "iceberg.gz", "hudi"],
)
@pytest.mark.parametrize("path", ["table/*.parquet", "table/year=2024/a.parquet", "table/year=2024", "table/**"])
def test_a_table_format_is_not_read_as_a_heap_of_files(
    world: World, log: str, content: bytes, name: str, path: str
) -> None:
    """Some of its files may have been removed from the table."""
    table = world.folder / "table"
    for file in (table / "year=2024" / "a.parquet", table / "b.parquet"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((world.folder / "interactions.parquet").read_bytes())
    (table / log).parent.mkdir()
    (table / log).write_bytes(content)
    with pytest.raises(InputError, match=f"table: is a table of {name}"):
        run_spec(spec(world, interactions=path))


def test_other_metadata_beside_the_data_is_no_table_format(world: World) -> None:
    about = world.folder / "metadata" / "experiment.metadata.json"
    about.parent.mkdir()
    about.write_text('{"owner": "search"}', encoding="utf-8")
    assert len(run_spec(spec(world))) == world.table("candidates").num_rows
