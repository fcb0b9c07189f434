"""The split by time: the test rows are the last of all rows, and what trains a ranker lies before them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from extembed_cli.errors import DataError, listing
from extembed_cli.evaluate.metrics import Groups
from extembed_cli.evaluate.rows import NO_TIME, Bools, Ints, Roled, Rows

NEURAL_ROWS = "that the neural model may have been trained on"
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


@dataclass(frozen=True)
class Cut:
    """How the rows are split."""

    test_fraction: float
    gap_us: int = 0
    """Rows so shortly before the test are left out."""
    from_us: int | None = None
    """Rows before this time are left out."""
    max_rows: int | None = None
    """About so many rows, of a sample of the users; None = all."""
    seed: int = 0


def plan_split(roled: Roled, cut: Cut, trained_until_us: int | None) -> Plan:
    """Decide the split by time.

    The test rows are the last `test_fraction` of all rows of the file, whatever is left out afterwards, and all rows of
    the time at which they begin. `trained_until_us`: rows up to it have been seen by a neural model.
    """
    n = len(roled.times)
    first = n - max(1, round(cut.test_fraction * n))
    cutoff = int(np.partition(roled.times, first)[first])
    test = roled.times >= cutoff
    plan = Plan(cutoff, np.ones(n, np.bool_), test, np.zeros(n, np.bool_))
    plan.leave(roled.times == NO_TIME, "without a time")
    plan.leave(np.isnan(roled.labels), "without a label")
    if cut.from_us is not None:
        plan.leave(roled.times < cut.from_us, "before --from")
    if trained_until_us is not None:
        plan.leave(roled.times <= trained_until_us, NEURAL_ROWS)
    plan.leave(~test & (roled.times >= cutoff - cut.gap_us), "in the gap before the test rows")
    if cut.max_rows is not None:
        plan.leave(~_sampled(roled.users, plan.kept, cut.max_rows, cut.seed), "of users left out by --max-rows")
    if roled.groups is not None:
        plan.leave(roled.groups == 0, "without a request")
        plan.spanning = _spanning(roled.groups, plan)
        sizes = np.bincount(roled.groups[plan.kept & test], minlength=int(roled.groups.max()) + 1)
        if plan.kept.any() and not (sizes > 1).any():
            raise DataError(
                "--group: every request has a single row among the test rows, so there is nothing to rank. Name the "
                "column that the rows of one request share, or leave --group out to judge rows one by one"
            )
        plan.leave(test & (sizes[roled.groups] == 1), "alone in their request")
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
        raise DataError(
            f"no rows are left for {listing(empty)} after the split by time; the file has {len(roled.times):,} rows at "
            f"{len(np.unique(roled.times)):,} times{f', left out: {listing(left)}' if left else ''}. Change "
            "--test-fraction, --from or --gap, or make features for more candidates"
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
