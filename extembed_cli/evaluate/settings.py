"""The settings of an evaluation, which its report repeats."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from extembed_cli.errors import Problems, SpecError, did_you_mean
from extembed_cli.evaluate.columns import feature_steps
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
            if step not in feature_steps():
                raise SpecError(f"--steps {step}: no such step{did_you_mean(step, feature_steps())}")
            if step in (self.steps or ())[:number]:
                raise SpecError(f"--steps: names `{step}` twice")
