"""The split by time: the test rows are the last of all rows, and what trains a ranker lies before them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from extembed_cli.arrays import Bools, Ints
from extembed_cli.data.labels import NO_TIME
from extembed_cli.errors import DataError, listing
from extembed_cli.evaluate.rows import Roled, Rows
from extembed_cli.evaluate.settings import Settings
from extembed_cli.kernels.metrics import Groups
from extembed_cli.spec.durations import time_text

NEURAL_ROWS = "that the neural model may have been trained on"
_UNTIMED, _UNLABELLED, _EARLY = "without a time", "without a label", "before --from"
_GAP, _SAMPLED = "in the gap before the test rows", "of users left out by --max-rows"
_UNASKED, _ALONE = "without a request", "alone in their request"
_MORE_ROWS = {
    _UNLABELLED: "leave rows without a label out of the file (the test rows are the last of all rows, with or without)",
    _EARLY: "give an earlier --from",
    NEURAL_ROWS: "train the neural model on fewer of them (`neural train --until`)",
    _GAP: "give a shorter --gap",
    _SAMPLED: "raise --max-rows",
}
"""What brings rows back, by why they are left out."""
_VALID = 0.2  # of the rows before the test: the last of them are for early stopping
_LONGEST_REQUEST = 10_000  # rows of one request that LightGBM ranks


@dataclass
class Plan:
    """Which rows of the file are for what, decided before any feature is read."""

    cutoff_us: int
    """Test rows are those from this time on."""
    kept: Bools
    """(n) rows in any of the parts"""
    test: Bools
    valid: Bools
    """(n) among the kept"""
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows by why they are in none of the parts."""
    spanning: int = 0
    """Requests with rows before the test and in it."""

    def leave(self, rows: Bools, why: str) -> None:
        """Leave rows out."""
        count = int(np.count_nonzero(rows & self.kept))
        if count:
            self.left_out[why] = self.left_out.get(why, 0) + count
            self.kept = self.kept & ~rows


@dataclass(frozen=True)
class Split:
    """Rows of the file that a ranker learns from, stops early by, and is tested on."""

    train: Rows
    valid: Rows
    """The last slice of the rows before the test, for early stopping."""
    test: Rows


def plan_split(roled: Roled, settings: Settings, trained_until_us: int | None) -> Plan:
    """Decide the split by time.

    The test rows are the last `test_fraction` of all rows of the file, whatever is left out afterwards, and all rows of
    the time at which they begin. `trained_until_us`: rows up to it have been seen by a neural model.
    """
    n = len(roled.times)
    first = n - max(1, round(settings.test_fraction * n))
    cutoff = int(np.partition(roled.times, first)[first])
    if cutoff == NO_TIME:
        raise DataError(f"--time: {np.count_nonzero(roled.times == NO_TIME):,} of {n:,} rows have no time, so no split")
    test = roled.times >= cutoff
    plan = Plan(cutoff, np.ones(n, np.bool_), test, np.zeros(n, np.bool_))
    plan.leave(roled.times == NO_TIME, _UNTIMED)
    plan.leave(np.isnan(roled.labels), _UNLABELLED)
    if settings.from_us is not None:
        plan.leave(roled.times < settings.from_us, _EARLY)
    if trained_until_us is not None:
        plan.leave(roled.times <= trained_until_us, NEURAL_ROWS)
    plan.leave(~test & (roled.times >= cutoff - settings.gap_us), _GAP)
    if settings.max_rows is not None:
        plan.leave(~_sampled(roled.users, plan.kept, settings.max_rows, settings.seed), _SAMPLED)
    if roled.groups is not None:
        plan.leave(roled.groups == 0, _UNASKED)
        plan.spanning = _spanning(roled.groups, plan)
        sizes = np.bincount(roled.groups[plan.kept & test], minlength=int(roled.groups.max()) + 1)
        if plan.kept.any() and not (sizes > 1).any():
            raise DataError(
                "--group: every request has a single row among the test rows, so there is nothing to rank. Name the "
                "column that the rows of one request share, or leave --group out to judge rows one by one"
            )
        plan.leave(test & (sizes[roled.groups] == 1), _ALONE)
    before = np.sort(roled.times[plan.kept & ~test])
    if len(before):
        plan.valid = ~test & (roled.times >= before[len(before) - max(1, round(_VALID * len(before)))])
    _check(roled, plan)
    return plan


def _spanning(groups: Ints, plan: Plan) -> int:
    before, after = (np.unique(groups[plan.kept & side]) for side in (~plan.test, plan.test))
    return len(np.intersect1d(before, after))


def _sampled(users: Ints, kept: Bools, most: int, seed: int) -> Bools:
    """Rows of users in a random order, up to so many rows; who has more than there is room for is passed over."""
    sizes = np.bincount(users[kept], minlength=int(users.max()) + 1)
    taken, room = np.zeros(len(sizes), np.bool_), most
    for user in np.random.default_rng([seed, 1]).permutation(len(sizes)).tolist():
        if sizes[user] <= room:
            taken[user] = True
            room -= int(sizes[user])
    sampled: Bools = taken[users]
    return sampled


def split_rows(rows: Rows, plan: Plan) -> Split:
    """The parts of the rows that were kept."""
    test, valid = plan.test[plan.kept], plan.valid[plan.kept]
    return Split(rows.take(~test & ~valid), rows.take(~test & valid), rows.take(test))


def _check(roled: Roled, plan: Plan) -> None:
    """Every part needs rows to learn from: of both classes, or requests of different labels."""
    parts = {
        "training": plan.kept & ~plan.test & ~plan.valid,
        "early stopping": plan.kept & ~plan.test & plan.valid,
        "test": plan.kept & plan.test,
    }
    empty = [name for name, part in parts.items() if not part.any()]
    if empty:
        left = [f"{count:,} {why}" for why, count in plan.left_out.items()]
        fixes = [fix for why, fix in _MORE_ROWS.items() if why in plan.left_out]
        fixes.append("change --test-fraction, or make features for more candidates")
        raise DataError(
            f"no rows are left for {listing(empty)} after the split by time; the file has {len(roled.times):,} rows at "
            f"{len(np.unique(roled.times)):,} times, the test rows are those from {time_text(plan.cutoff_us)} on"
            f"{f', left out: {listing(left)}' if left else ''}. To have more, {', or '.join(fixes)}"
        )
    for name, part in parts.items():
        labels = roled.labels[part]
        if (labels == labels[0]).all():
            raise DataError(
                f"all {len(labels):,} labels of the {name} rows are {labels[0]:g}: there is nothing to tell apart. Is "
                "--label right, and are there candidates of both kinds at all times?"
            )
        if roled.groups is not None:
            _check_requests(name, Groups.of(roled.groups[part]), labels)


def _check_requests(name: str, groups: Groups, labels: np.ndarray) -> None:
    if groups.sizes.max() > _LONGEST_REQUEST:
        raise DataError(
            f"--group: a request of the {name} rows has {groups.sizes.max():,} rows; LightGBM ranks up to "
            f"{_LONGEST_REQUEST:,}. Is it the column that the rows of one request share?"
        )
    ordered = labels[groups.rows]
    if (np.minimum.reduceat(ordered, groups.start[:-1]) == np.maximum.reduceat(ordered, groups.start[:-1])).all():
        raise DataError(
            f"--group: in no request of the {name} rows do labels differ, so there is nothing to rank. Name the column "
            "that the rows of one request share, or leave --group out"
        )
