"""A candidate that no file has, written as a file of one row: it is read and computed like any other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from extembed_cli.data.columns.ids import id_kind
from extembed_cli.data.inputs.inputs import Opened, open_inputs
from extembed_cli.errors import SpecError
from extembed_cli.spec.durations import EARLIEST_US, LATEST_US, time_us
from extembed_cli.spec.model import Spec
from extembed_cli.spec.sides import TableKind

_FORMS = {
    "integer": "integers",
    "binary": "binary: write them in hex, such as `0fa3`",
    "text": "text in UTF-8",
}


class Given(NamedTuple):
    """A candidate as flags give it."""

    user: str
    item: str
    at: str | None
    """ISO 8601; None = the spec's `as_of`"""


def candidate_of_flags(row: int | None, user: str | None, item: str | None, at: str | None) -> int | Given:
    """Return the candidate that flags ask for: a row, or one by its user, item and time."""
    given = {"--user": user, "--item": item, "--at": at}
    used = [flag for flag, text in given.items() if text is not None]
    if row is not None:
        if used:
            raise SpecError(f"--row and {used[0]}: each names a candidate; give one of them")
        return row
    if not used:
        raise SpecError("which candidate? --row N, or --user U --item I --at T")
    if user is None or item is None:
        missing = [flag for flag in ("--user", "--item") if flag not in used]
        raise SpecError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return Given(user, item, at)


def with_candidate(spec: Spec, given: Given, folder: Path) -> Spec:
    """Return a spec whose only candidate is the given one, in a file of the folder. It has no request."""
    at = given.at or spec.as_of
    if at is None:
        raise SpecError("--at is missing: the time of the candidate, such as `--at 2026-01-31T06:00:00`")
    opened = open_inputs(spec.model_copy(update={"candidates": None, "within": None}))
    opened.problems.raise_any()
    columns = {
        spec.column("candidates", "user"): _id("--user", given.user, _kind(opened, "user", "user_embeddings")),
        spec.column("candidates", "item"): _id("--item", given.item, _kind(opened, "item", "embeddings")),
        spec.column("candidates", "time"): pa.array([_time(at)], pa.timestamp("us", "UTC")),
    }
    path = folder / "candidate.parquet"
    pq.write_table(pa.table(columns), path)
    return spec.model_copy(update={"candidates": str(path), "as_of": None, "within": None})


def _kind(opened: Opened, role: str, tables: TableKind) -> str:
    """Return the kind of the ids of users or items: that of the first input that has any."""
    spec = opened.spec
    uses = [(opened.interactions, spec.column("interactions", role))]
    uses += [(table, spec.id_column(name)) for name, table in opened.embeddings.items() if spec.kind_of(name) == tables]
    kinds = (id_kind(part.schema.field(name).type) for table, name in uses if table for part in table.parts)
    return next((kind for kind in kinds if kind not in {None, "nothing"}), "text") or "text"


def _id(flag: str, text: str, kind: str) -> pa.Array:
    try:
        if kind == "text":
            return pa.array([text], pa.string())
        if kind == "binary":
            return pa.array([bytes.fromhex(text.replace("-", ""))], pa.binary())
        return pa.array([int(text)], pa.decimal128(38, 0))
    except ValueError:  # Arrow's error is one
        raise SpecError(f"{flag} {text!a}: the ids of the interactions are {_FORMS[kind]}") from None


def _time(at: str) -> int:
    try:
        us = time_us(at)
    except ValueError:
        raise SpecError(f"--at {at!a}: not an ISO 8601 time, such as `2026-01-31T06:00:00`") from None
    if not EARLIEST_US <= us < LATEST_US:
        raise SpecError(f"--at {at}: is outside the years 1 to 9999 in UTC")
    return us
