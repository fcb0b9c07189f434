"""Tables of Delta Lake and Iceberg are read at one version, without the files that were removed from them."""

from __future__ import annotations

import builtins
import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import World, extembed, run_spec, soak
from data.test_paths import spec
from helpers.refusals import UNREADABLE, USAGE, refused

deltalake = pytest.importorskip("deltalake")
catalogs = pytest.importorskip("pyiceberg.catalog.sql")


def delta(world: World, name: str = "interactions", **options: Any) -> Path:
    """Write a table whose first version has other rows, and whose second is the input of the world."""
    folder, table = world.folder / "lake", world.table(name)
    deltalake.write_deltalake(str(folder), pa.concat_tables([table, table, table]), **options)
    deltalake.write_deltalake(str(folder), table, mode="overwrite", **options)
    return folder


def iceberg(world: World, name: str = "interactions") -> tuple[Path, Any]:
    """Write a table that was appended to, and whose other rows were deleted."""
    catalog = catalogs.SqlCatalog("c", uri=f"sqlite:///{world.folder}/c.db", warehouse=f"file://{world.folder}/house")
    catalog.create_namespace("shop")
    table = world.table(name)
    lake = catalog.create_table(f"shop.{name}", schema=table.schema)
    lake.append(table)
    lake.append(table.set_column(1, "item_id", pa.array([99] * table.num_rows)))
    lake.delete("item_id = 99")
    return world.folder / "house" / "shop" / name, lake


NO_ROWS = "this version of the table has no rows"
CASES = [*(("delta", name) for name in ("interactions", "candidates", "text")), ("iceberg", "interactions")]


@pytest.mark.parametrize(("kind", "name"), [*CASES, soak("iceberg", "candidates")])
def test_removed_files_do_not_count(world: World, kind: str, name: str) -> None:
    expected = run_spec(spec(world))
    folder = delta(world, name) if kind == "delta" else iceberg(world, name)[0]
    assert sum(pq.read_metadata(path).num_rows for path in folder.rglob("*.parquet")) > world.table(name).num_rows
    output = run_spec(spec(world, **{name: str(folder)}))
    keys = ["user_id", "item_id", "timestamp", "label"]
    assert output.sort(keys).select(expected.columns).equals(expected.sort(keys), null_equal=True)


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_link_to_a_file_of_a_table_is_refused(world: World, kind: str) -> None:
    """Some files of a table were removed from it, and a link hides which."""
    folder = delta(world) if kind == "delta" else iceberg(world)[0]
    link = world.folder / "link.parquet"
    link.symlink_to(next(folder.rglob("*.parquet")))
    refused(world, spec(world, interactions="link.parquet"), UNREADABLE, "is a table of", "Name this folder")


def test_a_large_log_of_iceberg_is_recognised(world: World) -> None:
    """The key by which it is recognised comes last."""
    folder, _ = iceberg(world)
    for log in folder.glob("metadata/*.metadata.json"):
        about = json.loads(log.read_text())
        log.write_text(json.dumps({"properties": {"note": "x" * 100_000}, **about}))
    expected = run_spec(spec(world))
    assert len(run_spec(spec(world, interactions=str(folder)))) == len(expected)
    data = next(folder.rglob("*.parquet")).parent
    refused(world, spec(world, interactions=str(data)), UNREADABLE, "is a table of Iceberg")


def test_an_earlier_version_of_delta(world: World) -> None:
    folder = delta(world)
    versions = {}
    for path in ("lake?version=0", "lake?version=1", "lake"):
        report = extembed("run", spec(world, interactions=path), "--json").ok().json
        versions[path] = report["inputs"]["interactions"]["rows"]
    assert versions == {"lake?version=0": 1800, "lake?version=1": 600, "lake": 600}
    later = datetime.now(UTC).isoformat()
    time.sleep(0.02)
    deltalake.write_deltalake(str(folder), world.table("interactions").slice(0, 10), mode="overwrite")
    report = extembed("run", spec(world, interactions=f"lake?as_of={later}"), "--json").ok().json
    assert report["inputs"]["interactions"]["rows"] == 600


def test_an_earlier_snapshot_of_iceberg(world: World) -> None:
    folder, lake = iceberg(world)
    path = folder.relative_to(world.folder)
    first, second, _ = lake.snapshots()
    rows = {}
    for option in (f"version={first.snapshot_id}", f"as_of={datetime.fromtimestamp(second.timestamp_ms / 1e3, UTC)}"):
        report = extembed("run", spec(world, interactions=f"{path}?{option}"), "--json").ok().json
        rows[option.split("=")[0]] = report["inputs"]["interactions"]["rows"]
    assert rows == {"version": 600, "as_of": 1200}


def test_snapshots_that_are_not_there_or_empty_are_refused(world: World) -> None:
    folder, lake = iceberg(world)
    part = f"{folder}: has no snapshot 7; its newest is {lake.current_snapshot().snapshot_id}"
    refused(world, spec(world, interactions=f"{folder}?version=7"), UNREADABLE, part)
    lake.delete("item_id >= 0")
    refused(world, spec(world, interactions=str(folder)), UNREADABLE, NO_ROWS)


def test_the_hint_names_one_version_of_iceberg(world: World) -> None:
    """A hint of version 1 is not one of version 10."""
    folder, _ = iceberg(world)
    logs = sorted((folder / "metadata").glob("*.metadata.json"))  # without rows, then one for each change
    for number, log in {1: logs[1], 10: logs[2]}.items():
        shutil.copy(log, folder / "metadata" / f"v{number}.metadata.json")
    rows = {}
    for hint in ("1", "10"):
        (folder / "metadata" / "version-hint.text").write_text(hint)
        report = extembed("run", spec(world, interactions=str(folder)), "--json").ok().json
        rows[hint] = report["inputs"]["interactions"]["rows"]
    assert rows == {"1": 600, "10": 1200}


def test_an_empty_delta_table_is_refused(world: World) -> None:
    folder = delta(world)
    deltalake.DeltaTable(str(folder)).delete()
    refused(world, spec(world, interactions=str(folder)), UNREADABLE, NO_ROWS)


@pytest.mark.parametrize(("kind", "word"), [("delta", "version"), ("iceberg", "snapshot")])
def test_a_time_before_the_first_version_is_refused(world: World, kind: str, word: str) -> None:
    folder = delta(world) if kind == "delta" else iceberg(world)[0]
    path = folder.relative_to(world.folder)
    first = f"{datetime.now(UTC).year}-"
    for as_of in ("2000-01-31", "1969-12-31T23:59:59"):
        part = f"{folder}: has no {word} as of {as_of}; its first is of {first}"
        refused(world, spec(world, interactions=f"{path}?as_of={as_of}"), UNREADABLE, part)


def test_partition_values_have_the_types_of_the_table(world: World) -> None:
    """`01` is text in the table, so it is not the number 1."""
    table = world.table("candidates")
    months = pa.array([f"{label + 1:02d}" for label in table["label"].to_pylist()])
    world.write("candidates", table.append_column("month", months))
    delta(world, "candidates", partition_by=["month", "label"])
    run_spec(spec(world, candidates="lake"))
    schema = pq.read_schema(world.folder / "out.parquet")
    assert schema.field("month").type == pa.string()
    assert schema.field("label").type == pa.int64()
    rows = pq.read_table(world.folder / "out.parquet", columns=["month", "label"]).to_pylist()
    assert all(row["month"] == f"{row['label'] + 1:02d}" for row in rows)


@pytest.mark.parametrize(
    ("path", "code", "part"),
    [
        ("lake?version=7", UNREADABLE, "lake: cannot be read as a Delta Lake table: "),
        ("lake?version=x", USAGE, "`x` is not the number of a version"),
        ("lake?as_of=yesterday", USAGE, "`yesterday` is not an ISO 8601 time"),
        ("interactions.parquet?version=1", USAGE, "is no table of Delta Lake or Iceberg, so it has no versions"),
        ("lake/*.parquet", UNREADABLE, "lake: is a table of Delta Lake, whose log says which files count"),
    ],
)
def test_wrong_versions_are_refused(world: World, path: str, code: int, part: str) -> None:
    delta(world)
    refused(world, spec(world, interactions=path), code, part)


def test_a_torn_log_is_refused(world: World) -> None:
    folder = delta(world)
    log = folder / "_delta_log" / "00000000000000000001.json"
    log.write_bytes(log.read_bytes()[:100])
    refused(world, spec(world, interactions="lake"), UNREADABLE, "lake: cannot be read as a Delta Lake table")


def test_a_missing_data_file_is_named(world: World) -> None:
    folder = delta(world)
    live = deltalake.DeltaTable(str(folder)).file_uris()[0]
    Path(live).unlink()
    refused(world, spec(world, interactions="lake"), UNREADABLE, Path(live).name)


def edit_log(folder: Path, change: Any) -> None:
    """Change the actions of the last version of a table."""
    log = sorted((folder / "_delta_log").glob("*.json"))[-1]
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    change(actions)
    log.write_text("\n".join(map(json.dumps, actions)))


def test_deletion_vectors_are_refused(world: World) -> None:
    folder = delta(world)

    def delete(actions: list[dict[str, Any]]) -> None:
        features = ["deletionVectors", "timestampNtz"]
        versions = {"minReaderVersion": 3, "minWriterVersion": 7}
        actions.append({"protocol": {**versions, "readerFeatures": features, "writerFeatures": features}})
        vector = {"storageType": "i", "pathOrInlineDv": "x" * 40, "sizeInBytes": 36, "cardinality": 2}
        next(a for a in actions if "add" in a)["add"]["deletionVector"] = vector

    edit_log(folder, delete)
    refused(world, spec(world, interactions="lake"), UNREADABLE, "with deletion vectors", "OPTIMIZE")


def test_a_renamed_column_of_iceberg_is_refused(world: World) -> None:
    folder, lake = iceberg(world)
    with lake.update_schema() as update:
        update.rename_column("rating", "stars")
    path = str(folder.relative_to(world.folder))
    refused(world, spec(world, interactions=path), UNREADABLE, "a renamed column: `rating`", "is `stars` now")


@pytest.mark.parametrize("library", ["deltalake", "pyiceberg"])
def test_without_the_extra_a_table_is_refused_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    folder = delta(world) if library == "deltalake" else iceberg(world)[0]
    inner = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        top = name.partition(".")[0]
        if top in {"deltalake", "pyiceberg"}:
            raise ImportError(name=top)
        return inner(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    path = str(folder.relative_to(world.folder))
    refused(world, spec(world, interactions=path), UNREADABLE, f"pip install {library} (extra `lake`)")


def test_hudi_is_refused(world: World) -> None:
    (world.folder / "lake" / ".hoodie").mkdir(parents=True)
    refused(world, spec(world, interactions="lake"), UNREADABLE, "lake: is a Hudi table, which cannot be read")
