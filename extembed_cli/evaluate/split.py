"""The split by time: the test rows are the newest rows, and a ranker is trained on older ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from extembed_cli.arrays import Bools, Ints
from extembed_cli.data.columns.labels import NO_TIME
from extembed_cli.errors import DataError, listing
from extembed_cli.evaluate.rows import RoleValues, Rows
from extembed_cli.evaluate.settings import Settings
from extembed_cli.kernels.metrics import Groups
from extembed_cli.spec.durations import time_text

TRAINED_ROWS = "that a model may have been trained on"
_NO_TIME, _NO_LABEL, _TOO_EARLY = "without a time", "without a label", "before --from"
_GAP, _NOT_SAMPLED = "in the gap before the test rows", "of users left out by --max-rows"
_NO_REQUEST, _ALONE = "without a request", "alone in their request"
_FIXES = {
    _NO_LABEL: "remove rows without a label from the file (the newest rows are the test rows, labelled or not)",
    _TOO_EARLY: "give an earlier --from",
    TRAINED_ROWS: "train the model on fewer rows (`neural train --until`)",
    _GAP: "give a shorter --gap",
    _NOT_SAMPLED: "raise --max-rows",
}
"""How to keep more rows, by the reason why they are left out."""
_VALID_FRACTION = 0.2  # of the rows before the test rows: the newest of them are for early stopping
_MAX_REQUEST_ROWS = 10_000  # the limit of LightGBM's lambdarank


@dataclass
class Assignment:
    """The part that each row of the file is assigned to, decided before any feature is read."""

    cutoff_us: int
    """The time at which the test rows begin."""
    kept: Bools
    """(n) rows in any of the parts"""
    test: Bools
    """(n) rows from the cutoff on, kept or not"""
    valid: Bools
    """(n) rows for early stopping, kept or not"""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of rows in none of the parts, by reason."""
    spanning: int = 0
    """Requests with rows both before and among the test rows."""

    def leave_out(self, rows: Bools, reason: str) -> None:
        """Remove rows from all parts and count them."""
        count = int(np.count_nonzero(rows & self.kept))
        if count:
            self.left_out[reason] = self.left_out.get(reason, 0) + count
            self.kept = self.kept & ~rows


@dataclass(frozen=True)
class Split:
    """The rows that a ranker is trained on, stops early by, and is tested on."""

    train: Rows
    valid: Rows
    """The newest rows before the test rows, for early stopping."""
    test: Rows


def assign_rows(roles: RoleValues, settings: Settings, trained_until_us: int | None) -> Assignment:
    """Assign each row to training, early stopping or test by its time, or leave it out.

    The test rows are the newest `test_fraction` of all rows of the file, with all rows of the time at which they
    begin; rows that are left out do not move that time. A model was trained on rows up to `trained_until_us`.
    """
    n = len(roles.times)
    first = n - max(1, round(settings.test_fraction * n))
    cutoff = int(np.partition(roles.times, first)[first])
    if cutoff == NO_TIME:
        raise DataError(
            f"--time: {np.count_nonzero(roles.times == NO_TIME):,} of {n:,} rows have no time, so they cannot be "
            "split by time. Name a column without nulls"
        )
    test = roles.times >= cutoff
    assignment = Assignment(cutoff, np.ones(n, np.bool_), test, np.zeros(n, np.bool_))
    assignment.leave_out(roles.times == NO_TIME, _NO_TIME)
    assignment.leave_out(np.isnan(roles.labels), _NO_LABEL)
    if settings.from_us is not None:
        assignment.leave_out(roles.times < settings.from_us, _TOO_EARLY)
    if trained_until_us is not None:
        assignment.leave_out(roles.times <= trained_until_us, TRAINED_ROWS)
    assignment.leave_out(~test & (roles.times >= cutoff - settings.gap_us), _GAP)
    if settings.max_rows is not None:
        sample = _sample(roles.users, assignment.kept, settings.max_rows, settings.seed)
        assignment.leave_out(~sample, _NOT_SAMPLED)
    if roles.groups is not None:
        assignment.leave_out(roles.groups == 0, _NO_REQUEST)
        assignment.spanning = _spanning(roles.groups, assignment)
        sizes = np.bincount(roles.groups[assignment.kept & test], minlength=int(roles.groups.max()) + 1)
        if assignment.kept.any() and not (sizes > 1).any():
            raise DataError(
                "--group: every request has a single row among the test rows, so there is nothing to rank. Name the "
                "column that the rows of one request share, or leave --group out to evaluate rows one by one"
            )
        assignment.leave_out(test & (sizes[roles.groups] == 1), _ALONE)
    before = np.sort(roles.times[assignment.kept & ~test])
    if len(before):
        assignment.valid = ~test & (roles.times >= before[len(before) - max(1, round(_VALID_FRACTION * len(before)))])
    _check(roles, assignment)
    return assignment


def _spanning(groups: Ints, assignment: Assignment) -> int:
    before, after = (np.unique(groups[assignment.kept & side]) for side in (~assignment.test, assignment.test))
    return len(np.intersect1d(before, after))


def _sample(users: Ints, kept: Bools, max_rows: int, seed: int) -> Bools:
    """Return the rows of randomly drawn users, at most `max_rows`; users with more rows than are left are skipped."""
    sizes = np.bincount(users[kept], minlength=int(users.max()) + 1)
    chosen, left = np.zeros(len(sizes), np.bool_), max_rows
    for user in np.random.default_rng([seed, 1]).permutation(len(sizes)).tolist():
        if sizes[user] <= left:
            chosen[user] = True
            left -= int(sizes[user])
    sample: Bools = chosen[users]
    return sample


def split_rows(rows: Rows, assignment: Assignment) -> Split:
    """Return the kept rows by part."""
    test, valid = assignment.test[assignment.kept], assignment.valid[assignment.kept]
    return Split(rows.take(~test & ~valid), rows.take(~test & valid), rows.take(test))


def _check(roles: RoleValues, assignment: Assignment) -> None:
    """Raise where a part has no rows, or only labels of one class, or no request of different labels."""
    parts = {
        "training": assignment.kept & ~assignment.test & ~assignment.valid,
        "early stopping": assignment.kept & ~assignment.test & assignment.valid,
        "test": assignment.kept & assignment.test,
    }
    empty = [name for name, part in parts.items() if not part.any()]
    if empty:
        left_out = [f"{count:,} {reason}" for reason, count in assignment.left_out.items()]
        fixes = [fix for reason, fix in _FIXES.items() if reason in assignment.left_out]
        fixes.append("change --test-fraction, or compute features for more candidates")
        raise DataError(
            f"no rows are left for {listing(empty)} after the split by time: the file has {len(roles.times):,} rows at "
            f"{len(np.unique(roles.times)):,} times, and the test rows begin at {time_text(assignment.cutoff_us)}. "
            f"{f'Left out: {listing(left_out)}. ' if left_out else ''}To keep more rows, {', or '.join(fixes)}"
        )
    for name, part in parts.items():
        labels = roles.labels[part]
        if (labels == labels[0]).all():
            raise DataError(
                f"all {len(labels):,} labels of the {name} rows are {labels[0]:g}, so there is nothing to learn or to "
                "measure. Is --label right, and does the file have both classes at all times?"
            )
        if roles.groups is not None:
            _check_requests(name, Groups.of(roles.groups[part]), labels)


def _check_requests(name: str, groups: Groups, labels: np.ndarray) -> None:
    if groups.sizes.max() > _MAX_REQUEST_ROWS:
        raise DataError(
            f"--group: a request of the {name} rows has {groups.sizes.max():,} rows; LightGBM ranks at most "
            f"{_MAX_REQUEST_ROWS:,}. Is it the column that the rows of one request share?"
        )
    ordered = labels[groups.rows]
    if (np.minimum.reduceat(ordered, groups.start[:-1]) == np.maximum.reduceat(ordered, groups.start[:-1])).all():
        raise DataError(
            f"--group: no request of the {name} rows has different labels, so there is nothing to rank. Name the "
            "column that the rows of one request share, or leave --group out"
        )
