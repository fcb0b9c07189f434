"""Writing a directory: each task writes one part under a hidden name, and the driver commits all of them together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from extembed_cli.data.outputs.feature_file import FeatureTable
from extembed_cli.data.outputs.shard_results import FeaturePart
from extembed_cli.data.outputs.uploads import upload_part
from extembed_cli.engines.spark.computing import FEATURES, feature_part
from extembed_cli.engines.spark.packets import Packet, frames_in, packet_of_value
from extembed_cli.engines.spark.tasks import Grouped
from extembed_cli.errors import DISK_FULL, ResourceError

WRITTEN = "written"


def not_shared(folder: Path) -> str:
    """Return the message about an output that the driver and the tasks do not share."""
    return f"{folder}: Spark's tasks cannot write where the driver reads. The output must be in a folder that all share"


def rows_of_part(table: FeatureTable, index: int, frames: Iterable[pl.DataFrame]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part in row groups; `frames` are its features, those of each pass in any order."""
    sources: dict[tuple[str, ...], list[FeaturePart]] = {}
    for frame in frames:
        part = feature_part(frame)
        sources.setdefault(tuple(part.columns), []).append(part)
    dtypes = {name: table.schema.field(name).type.to_pandas_dtype() for name in table.columns}
    absent = dtypes.keys() - {name for names in sources for name in names}  # null in all rows of the part
    nothing = FeaturePart(np.zeros(0, np.int64), {name: np.zeros(0, dtypes[name]) for name in absent})
    return table.batches(*table.parts()[index], [*sources.values(), [nothing]])


@dataclass(frozen=True)
class WritePart(Grouped):
    """Writes a part of the output from the candidates' own columns and the features of all passes."""

    table: FeatureTable
    folder: Path
    url: str | None
    """The directory in a store that `folder` stands in for; None = all machines see the folder"""

    def packets(self, key: int, *groups: pa.Table) -> Iterator[Packet]:
        """Yield the part's entry in the manifest."""
        rows = rows_of_part(self.table, key, frames_in(groups[0], FEATURES))
        if self.url is None:
            try:
                part = self.table.write_part(self.folder, key, rows)
            except OSError as error:
                if error.errno in DISK_FULL:
                    raise
                raise ResourceError(f"{not_shared(self.folder.parent)} ({error})") from error
            yield packet_of_value(key, WRITTEN, part)
            return
        with tempfile.TemporaryDirectory(prefix="extembed-part-") as folder:
            part = self.table.write_part(Path(folder), key, rows)
            upload_part(Path(folder) / part["file"], self.url)
        yield packet_of_value(key, WRITTEN, part)
