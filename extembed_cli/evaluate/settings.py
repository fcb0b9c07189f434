"""The settings of an evaluation, which its report repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ConfigDict

from extembed_cli.errors import Problems, SpecError, listing
from extembed_cli.evaluate.columns import feature_steps
from extembed_cli.evaluate.verdicts import VerdictWord
from extembed_cli.spec.durations import duration_us, time_us


class Settings(BaseModel):
    """The choices of an evaluation; `check` validates them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ranker: str = "lightgbm"
    test_fraction: float = 0.2
    """Share of all rows, the newest, that the ranker is tested on."""
    gap: str = "0s"
    """Rows within this duration before the test rows are left out."""
    from_time: str | None = None
    """Rows before this time are left out."""
    max_rows: int | None = None
    """Evaluate a sample of the users, with at most this many rows; null = all."""
    steps: tuple[str, ...] | None = None
    """Steps of the ladder after the baseline, in order; null = all that the file has, in order of cost."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A ranker is trained for each seed; values are means over the seeds."""
    resamples: int = 1000
    """Bootstrap resamples of the test rows' users (and of the seeds) behind each interval."""
    min_gain: float = 0.001
    """A step is not worth it where its gain is surely smaller."""
    require: dict[str, str] = {}
    """Step -> the verdict that it must have for exit code 0."""
    strict: bool = False
    """Whether a report without an answer has an exit code of its own."""

    @property
    def seed(self) -> int:
        """The seed of the draws that all rankers share: users and resamples."""
        return self.seeds[0]

    @property
    def gap_us(self) -> int:
        return duration_us(self.gap)

    @property
    def from_us(self) -> int | None:
        return None if self.from_time is None else time_us(self.from_time)

    def check(self) -> None:
        """Raise all invalid settings together, by the names of their flags."""
        problems = Problems()
        with problems.collect():
            if self.ranker != "lightgbm":
                raise SpecError(f"--ranker {self.ranker}: this version trains `lightgbm` only")
        with problems.collect():
            if not 0 < self.test_fraction < 1:
                raise SpecError(f"--test-fraction {self.test_fraction:g}: must be between 0 and 1, such as 0.2")
        with problems.collect():
            self._check_steps()
        for step, verdict in self.require.items():
            with problems.collect():
                _check_known("step", step, feature_steps(), f"--require {step}={verdict}")
                _check_known("verdict", verdict, get_args(VerdictWord), f"--require {step}={verdict}")
        with problems.collect():
            try:
                _ = self.gap_us
            except ValueError as error:
                raise SpecError(f"--gap: {error}") from None
        with problems.collect():
            try:
                _ = self.from_us
            except ValueError:
                raise SpecError(
                    f"--from {self.from_time}: is not an ISO 8601 time; write one such as `2026-01-31T06:00:00`"
                ) from None
        problems.raise_any()

    def _check_steps(self) -> None:
        for number, step in enumerate(self.steps or ()):
            _check_known("step", step, feature_steps(), f"--steps {step}")
            if step in (self.steps or ())[:number]:
                raise SpecError(f"--steps: names `{step}` twice")

    def check_ladder(self, steps: Sequence[str]) -> None:
        """Raise if a required step will have no verdict in a ladder of these steps."""
        problems = Problems()
        for step, verdict in self.require.items():
            with problems.collect():
                if step not in steps:
                    raise SpecError(f"--require {step}={verdict}: the ladder has the steps {listing(steps, 12)} only")
                if step == steps[0]:
                    raise SpecError(
                        f"--require {step}={verdict}: {step} is the first step, so it has no gain to judge; name your "
                        "own columns with --baseline"
                    )
        problems.raise_any()


def _check_known(kind: str, name: str, known: Sequence[str], flag: str) -> None:
    if name not in known:
        raise SpecError(f"{flag}: no such {kind}; known: {listing(known, 12)}")
