"""Runs that are refused and leave the folder unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, run_spec

from extembed_cli.errors import ExtembedError

DATA, USAGE, UNREADABLE = 1, 2, 3
INPUTS = ("interactions", "candidates", "text")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all files below a folder with their bytes, hidden files too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(world: World, spec: Path, code: int, *parts: str, shell: bool = False) -> str:
    """Check that a run fails with this code and these parts of a message, and changes nothing in its folder.

    It calls the job directly, which is faster; with `shell` it goes through the command line.
    """
    (world.folder / "out.parquet").write_bytes(b"the old output")
    before = contents(world.folder)
    if shell:
        message = extembed("run", spec).failed(code, *parts).err
    else:
        with pytest.raises(ExtembedError) as caught:
            run_spec(spec)
        message = str(caught.value)
        assert caught.value.exit_code == code, message
    for part in parts:
        assert part in message, f"{part!r} is not in:\n{message}"
    assert contents(world.folder) == before
    return message


def replace(world: World, name: str, column: str, values: pa.Array | np.ndarray | list[object]) -> None:
    """Write a table again with other values in one column."""
    table = world.table(name)
    world.write(name, table.set_column(table.column_names.index(column), column, pa.array(values)))
