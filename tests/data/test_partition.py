"""Shards of users in files."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from extembed_cli.data.shards.partition import Partition
from extembed_cli.system.progress import Watch


def test_a_partition_that_is_opened_again_is_as_it_was(tmp_path: Path) -> None:
    partition = Partition(3, tmp_path, Watch(), all_owners=True)
    users = [1] * 70 + [2] * 5 + list(range(10, 40))
    with partition.adding("events") as add:
        add(pl.DataFrame({"user": users, "item": users, "time": range(len(users))}))
    assert partition.longest == 70
    again = Partition(3, tmp_path, Watch(), all_owners=True)
    assert again.reopen(partition.keep())
    assert again.longest == 70
    assert again.numbering.frame.equals(partition.numbering.frame)
    for shard in range(3):
        assert again.table("events", shard) == partition.table("events", shard)


def test_a_torn_file_is_not_opened_again(tmp_path: Path) -> None:
    partition = Partition(2, tmp_path, Watch(), all_owners=True)
    with partition.adding("events") as add:
        add(pl.DataFrame({"user": range(20), "item": range(20), "time": range(20)}))
    kept = partition.keep()
    torn = next(iter(tmp_path.glob("events-*.arrow")))
    torn.write_bytes(torn.read_bytes()[:-10])
    assert not Partition(2, tmp_path, Watch(), all_owners=True).reopen(kept)
