"""Make an embedding table of a file that another tool wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import extembed_cli
from extembed_cli.arrays import Floats
from extembed_cli.data.columns.ids import narrowed
from extembed_cli.data.files.commit import locked, real, staged, writing
from extembed_cli.data.foreign.opening import ForeignTable, open_vectors
from extembed_cli.data.foreign.source import Choices
from extembed_cli.data.inputs.unit_vectors import usable_rows
from extembed_cli.data.outputs.feature_file import VectorTable, check_target, write_vectors
from extembed_cli.data.paths.objects import local_copy
from extembed_cli.data.stores.filesystems import is_url
from extembed_cli.errors import SpecError, listing, naming
from extembed_cli.system import memory
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import prefetched

_EXAMPLES = 5


def import_table(source: str, target: Path, choices: Choices, wait: float, watch: Watch) -> dict[str, Any]:
    """Write an embedding table of the vectors of a file, as float32, and return a report on it.

    An id that occurs twice, or a vector that is zero or not finite, is a warning: the table has what the file has, and
    `extembed run` has keys that say what to do with them. The file, and one of ids, can be objects of a store.
    """
    began = time.perf_counter()
    named = [source] if choices.ids is None else [source, choices.ids]
    copies = {url: str(local_copy("import", url)) for url in named if is_url(url)}
    paths = [copies.get(path, path) for path in named]
    _check_paths(paths, target)
    with naming({copy: url for url, copy in copies.items()}), locked(target, wait), staged() as stage:
        with watch.timing("read"):
            table = open_vectors(Path(paths[0]), replace(choices, ids=paths[-1] if choices.ids else None))
        watch.total(len(table.ids))
        watch.expect(len(table.ids))
        checked = _Checked(table, watch)
        with watch.timing("write") as cost, writing(target):
            with prefetched(checked.blocks()) as blocks:
                written = VectorTable(choices.id_name, narrowed(table.ids).to_arrow(), blocks, table.dim)
                digest = write_vectors(stage, target, written, _metadata(table, choices))
            table.check_unchanged()
            cost.add(rows=len(table.ids), bytes=sum(path.stat().st_size for path in stage.files))
            stage.commit()
    repeated = table.ids.filter(table.ids.is_duplicated())
    watch.warn_of(_warnings(source, choices.id_name, table, checked, repeated))
    return {
        "version": extembed_cli.__version__,
        "source": source,
        "format": table.format,
        "output": str(target),
        "output_sha256": digest,
        "rows": len(table.ids),
        "dim": table.dim,
        "id_column": choices.id_name,
        "id_type": "integer" if table.ids.dtype.is_integer() else "text",
        "repeated_ids": len(repeated),
        "bad_vectors": checked.bad,
        "seconds": round(time.perf_counter() - began, 3),
        "peak_memory_bytes": memory.peak(),
        "warnings": watch.warnings,
    }


def _check_paths(inputs: list[str], target: Path) -> None:
    """Raise if the output is not a Parquet file of its own."""
    check_target(str(target))
    if target.suffix != ".parquet":
        raise SpecError(f"{target}: an embedding table is one Parquet file; end its name in .parquet")
    if real(target) in {real(Path(path)) for path in inputs}:
        raise SpecError(f"{target}: the output would overwrite an input; name another")


def _metadata(table: ForeignTable, choices: Choices) -> dict[str, Any]:
    """Return what the table was made of, for its file: the same inputs and choices give the same bytes."""
    names = {"key": choices.key, "id_column": choices.id_column, "vector_columns": choices.vector_columns}
    return {
        "version": extembed_cli.__version__,
        "imported": {
            "format": table.format,
            "sha256": table.digests,
            **{name: value for name, value in names.items() if value is not None},
        },
        "meaning": f"vectors imported from {table.format}",
    }


@dataclass
class _Checked:
    """The vectors of a file as float32, and those among them that `extembed run` would refuse."""

    table: ForeignTable
    watch: Watch
    bad: int = 0
    """Vectors that are zero or not finite"""
    too_large: int = 0
    """Those that are finite in the file, and not in float32"""
    examples: list[int] = field(default_factory=list)
    """The first rows with a bad vector"""

    def blocks(self) -> Iterator[Floats]:
        """Yield the vectors, counted."""
        row = 0
        for block in self.table.blocks():
            if row + len(block) > len(self.table.ids):
                raise self.table.changed()
            with np.errstate(over="ignore"):
                single = block.astype(np.float32)
            bad = np.flatnonzero(~usable_rows(single))
            self.bad += len(bad)
            self.too_large += int(np.count_nonzero(np.isfinite(block[bad]).all(axis=1) & single[bad].any(axis=1)))
            self.examples += (row + bad[: _EXAMPLES - len(self.examples)]).tolist()
            row += len(block)
            self.watch.moved(len(block), len(block))
            yield single


def _warnings(source: str, id_name: str, table: ForeignTable, checked: _Checked, repeated: pl.Series) -> Iterator[str]:
    rows = len(table.ids)
    if len(repeated):
        examples = listing(repeated.unique(maintain_order=True).head(_EXAMPLES + 1), _EXAMPLES)
        yield (
            f"{source}: {len(repeated):,} of {rows:,} rows share their {id_name} with others ({examples}). "
            '`extembed run` refuses such a table unless you set duplicates = "last" for it'
        )
    if checked.bad:
        examples = listing(table.ids[checked.examples], _EXAMPLES)
        of_them = f"; {checked.too_large:,} of them have numbers beyond float32" if checked.too_large else ""
        yield (
            f"{source}: {checked.bad:,} of {rows:,} vectors are zero or not finite ({id_name} {examples}){of_them}. "
            '`extembed run` refuses such a table unless you set bad_vectors = "missing" for it'
        )
