"""An import that is killed, stopped or out of space leaves the old table or the new one."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import extembed, soak
from helpers.commands import names
from helpers.faults import KILLED, Fault, Run, drive, place
from helpers.foreign import npz

TABLE = "table.parquet"


def arguments(folder: Path, seed: int) -> tuple[str, ...]:
    """Write vectors, and return the arguments that import them."""
    vectors = np.random.default_rng(seed).standard_normal((400, 64), dtype=np.float32)
    source = npz(v=vectors, ids=np.arange(400))(folder).rename(folder / f"{seed}.npz")
    return ("import", str(source), "-o", str(folder / TABLE))


def imported(folder: Path, seed: int) -> bytes:
    """Import without faults, and return the bytes of the table."""
    extembed(*arguments(folder, seed)).ok()
    return (folder / TABLE).read_bytes()


def start(folder: Path, seed: int, fault: Fault) -> Run:
    return drive(*arguments(folder, seed), faults=(fault,), rows=0)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "is_new"),
    [
        soak(Fault("extembed_cli.jobs.import_table:open_vectors", "after"), False),
        soak(Fault("pyarrow.parquet:ParquetWriter.write_batch"), False),
        (Fault("pyarrow.parquet:ParquetWriter.write_batch", "after"), False),
        soak(Fault("extembed_cli.jobs.import_table:write_vectors", "after"), False),
        soak(Fault("os:fsync"), False),
        soak(Fault("pathlib:Path.replace"), False),
        soak(Fault("pathlib:Path.replace", "after"), True),
    ],
    ids=lambda case: place(case) if isinstance(case, Fault) else None,
)
def test_a_killed_import_leaves_the_old_table_or_the_new_one(tmp_path: Path, fault: Fault, is_new: bool) -> None:
    new, old = imported(tmp_path, 2), imported(tmp_path, 1)
    assert new != old
    with start(tmp_path, 2, fault) as run:
        assert run.end().code == KILLED
    assert (tmp_path / TABLE).read_bytes() == (new if is_new else old)
    assert pq.read_table(tmp_path / TABLE, page_checksum_verification=True).num_rows == 400
    assert imported(tmp_path, 2) == new
    assert names(tmp_path) == {"1.npz", "2.npz", TABLE}


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_import_leaves_the_old_table(tmp_path: Path, number: signal.Signals) -> None:
    old = imported(tmp_path, 1)
    with start(tmp_path, 2, Fault("pyarrow.parquet:ParquetWriter.write_batch", "after", do=number.name)) as run:
        run.end().failed(128 + number, "stopped")
    assert (tmp_path / TABLE).read_bytes() == old
    assert names(tmp_path) == {"1.npz", "2.npz", TABLE}


@pytest.mark.soak
def test_a_second_import_into_the_same_table_is_locked_out(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with start(tmp_path, 1, Fault("os:fsync", do="hold", path=str(go))) as first:
        first.reached()
        extembed(*arguments(tmp_path, 2)).failed(4, TABLE, "another run", "--wait")
        go.touch()
        first.end().ok()
    extembed(*arguments(tmp_path, 2), "--wait", "5").ok()
    assert names(tmp_path) == {"1.npz", "2.npz", "go", TABLE}


@pytest.mark.soak
def test_no_space_leaves_the_old_table(tmp_path: Path) -> None:
    old = imported(tmp_path, 1)
    limit = 50_000  # of the 100 KiB that the vectors have
    with drive(
        *arguments(tmp_path, 2), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    ) as run:
        run.end().failed(5, "no space left", "old output is untouched")
    assert (tmp_path / TABLE).read_bytes() == old
    assert names(tmp_path) == {"1.npz", "2.npz", TABLE}
