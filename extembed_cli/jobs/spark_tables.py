"""Tables of Spark's catalog as inputs (`spark:db.table`): each is written to Parquet once, and read from there.

A run reads its inputs more than once, and a table may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from extembed_cli.engines.spark.cluster import Cluster, temporary_folder
from extembed_cli.errors import InputError, ResourceError, SpecError, first_line
from extembed_cli.spec.model import Spec
from extembed_cli.spec.paths import SPARK_TABLE
from extembed_cli.system.progress import Watch

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MICROS = "TIMESTAMP_MICROS"  # Spark's own INT96 is a type that little else writes


def has_tables(spec: Spec) -> bool:
    """Whether any input is a table of Spark."""
    tables = (spec.table_path(name) for name in spec.tables)
    paths = [spec.interactions, spec.candidates, *tables]
    return any(
        each.startswith(SPARK_TABLE) for path in paths for each in ((path,) if isinstance(path, str) else path or ())
    )


@contextmanager
def tables_as_files(
    spec: Spec, session: SparkSession, watch: Watch, scratch: Path | None
) -> Iterator[tuple[Spec, dict[str, str]]]:
    """Yield a spec without tables of Spark, and the names of the tables by the folders that stand for them.

    The folders are in `scratch`, which all machines have to share, until the end.
    """
    names: dict[str, str] = {}
    with temporary_folder(scratch) as folder:

        def as_file(path: Any) -> Any:
            if isinstance(path, tuple):
                return tuple(map(as_file, path))
            if not isinstance(path, str) or not path.startswith(SPARK_TABLE):
                return path
            target = str(folder / f"table-{len(names)}")
            names[target] = path
            _write(session, path, target, watch)
            return target

        def with_files(tables: dict[str, Any]) -> dict[str, Any]:
            return {name: table.model_copy(update={"path": as_file(table.path)}) for name, table in tables.items()}

        changes = {
            "interactions": as_file(spec.interactions),
            "candidates": as_file(spec.candidates),
            "embeddings": with_files(spec.embeddings),
            "user_embeddings": with_files(spec.user_embeddings),
        }
        yield spec.model_copy(update=changes), names


def _write(session: SparkSession, path: str, target: str, watch: Watch) -> None:
    """Write a table of Spark to a folder."""
    try:
        table = session.table(path.removeprefix(SPARK_TABLE))
        cluster = Cluster(session, watch, 1)
        cluster.set("spark.sql.parquet.outputTimestampType", _MICROS)
        try:
            with watch.timing("tables"):
                written = cluster.write(path, table, target)
        finally:
            cluster.release()
        _check_rows(path, Path(target), written)
    except (SpecError, ResourceError):
        raise
    except Exception as error:
        raise InputError(f"{path}: Spark cannot read this table: {first_line(error)}") from error


def _check_rows(path: str, folder: Path, written: int) -> None:
    """Raise unless the driver sees all rows that tasks have written: each may have written to a disk of its own."""
    rows = sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
    if rows != written:
        raise ResourceError(
            f"{path}: Spark has written {written:,} rows to {folder.parent}, where this machine sees {rows:,}. Name a "
            "folder that all machines share by --scratch"
        )
