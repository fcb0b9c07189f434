"""Sums over a whole embedding table, written to files that later rows of the table do not change."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import extembed_cli
from extembed_cli.data.files.commit import locked, staged, writing
from extembed_cli.data.files.parquet import Table, open_table
from extembed_cli.data.inputs.embeddings import check_embedding, load_ids, load_vectors, mean_of_table
from extembed_cli.data.inputs.frozen import FrozenGramian, write_gramians, write_mean
from extembed_cli.data.outputs.feature_file import check_not_an_input, check_target
from extembed_cli.errors import SpecError, naming
from extembed_cli.features.prepare import gramian
from extembed_cli.spec.loading import spec_from_flags
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Watch
from extembed_cli.system.threads import Mapping, threads

_TABLE = "table"  # its name in a spec of this job alone
_AS_FLAGS = {
    **{
        f"set {key} in the spec (--set {key}=NAME)": f"give --{role} NAME"
        for role in ("item", "embedding")
        for key in [f"embeddings.{_TABLE}.columns.{role}"]
    },
    'columns.embedding = "d*"': "--embedding 'd*'",
    f'set duplicates = "last" under [embeddings.{_TABLE}]': "give --duplicates last",
    f'Set bad_vectors = "missing" under [embeddings.{_TABLE}]': "Give --bad-vectors missing",
}
"""What messages say about a spec, in flags: nobody who freezes a table has one"""


def freeze_table(
    keys: dict[str, Any], mean: Path, gramians: Path | None, workers: int, wait: float, watch: Watch
) -> dict[str, Any]:
    """Write the mean of a table's raw vectors, and if wanted its Gramians; return a report.

    `keys` are those of an [embeddings.X] table of a spec: `path`, `columns`, `bad_vectors`, `duplicates`.
    """
    outputs = [mean, *([gramians] if gramians is not None else [])]
    if len(set(outputs)) < len(outputs) or any(path.suffix != ".parquet" for path in outputs):
        raise SpecError(f"{', '.join(map(str, outputs))}: name files that end in .parquet, one for each")
    unread = "interactions.parquet"  # a spec names some
    spec = spec_from_flags({"interactions": unread, "embeddings": {_TABLE: keys}}, for_training=True)
    with staged() as stage, ExitStack() as stack:
        for path in sorted(outputs):
            check_target(str(path))
            stack.enter_context(locked(path, wait))
        mapped = stack.enter_context(threads(workers))
        with watch.timing("vectors"), naming(_AS_FLAGS):
            table = open_table(f"embeddings {_TABLE}", spec.embeddings[_TABLE].path)
            check_embedding(spec, _TABLE, table)
            for path in outputs:
                check_not_an_input(path, [table])
            center, vectors = mean_of_table(spec, _TABLE, table, mapped)
        digest = table.digest_now()
        metadata = {"version": extembed_cli.__version__, "table": digest}
        report: dict[str, Any] = {"vectors": vectors, "dim": len(center), "mean": str(mean)}
        with writing(mean):
            write_mean(stage, mean, center, vectors, metadata)
        if gramians is not None:
            with watch.timing("gramian"):
                sums = _gramians(spec, table, mapped)
            with writing(gramians):
                write_gramians(stage, gramians, sums, metadata)
            report["gramian"] = str(gramians)
        table.check_unchanged()
        with writing(mean):
            stage.commit()
    return {**report, "table": digest}


def _gramians(spec: Spec, table: Table, mapped: Mapping) -> list[FrozenGramian]:
    """Return the Gramians of all kinds of vectors: centred by the mean of the table or not, of norm 1 or not."""
    ids = load_ids(spec, _TABLE, table)
    kinds: list[tuple[bool, Path | None]] = [(False, None), (True, None)]
    sums = []
    for (centered, _), vectors in zip(kinds, load_vectors(spec, _TABLE, table, ids, None, kinds, mapped), strict=True):
        matrix = vectors.of(vectors.ids)
        for normalized in (True, False):
            total = gramian(matrix, mapped, normalized=normalized)
            sums.append(FrozenGramian(int((matrix.norms > 0).sum()), total, normalized, centered))
    return sums
