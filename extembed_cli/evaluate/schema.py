"""What an evaluation found, as `report.json` keeps it. Its schema is docs/report.schema.json."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from extembed_cli.evaluate.settings import Settings


def _known(value: object) -> object:
    """JSON has no NaN: null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_known)]
Bounds = Annotated[
    tuple[Number, Number] | None,
    Field(description="Lower and upper bound of a 95 % interval."),
]
TITLES = {"auc": "AUC", "ndcg@10": "nDCG@10"}
"""How people write the metrics."""
StepName = Literal["baseline", "counters", "aggregate", "dual", "neural"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(_Part):
    """What was evaluated."""

    features: str
    """The feature file, as it was named."""
    label: str
    time: str
    user: str
    group: str | None
    baseline: list[str]
    """The ranker's own columns that the globs matched."""
    rows: int
    """Of the file."""
    train_rows: int
    early_stopping_rows: int
    """The last of the rows before the test rows."""
    test_rows: int
    test_users: int
    test_from: str
    """Time of the first test row, ISO 8601 UTC."""
    positive_share: dict[str, Number]
    """Share of labels above 0 in training, early stopping and test rows."""
    left_out: dict[str, int]
    """Rows by why they are in none of the parts."""


class Rung(_Part):
    """A step of the ladder."""

    step: StepName
    columns: int
    """Columns that this step adds."""
    metric: Literal["auc", "ndcg@10"]
    value: Number
    value_ci: Bounds
    delta: Number
    """Gain over the step before; null for the first."""
    delta_ci: Bounds
    over_permuted_ci: Bounds
    """Of the gain over a ranker with the same columns permuted."""
    metrics: dict[str, Number]
    """auc and log_loss; with requests auc, gauc, ndcg@10, mrr. Means over seeds."""
    seconds: Number
    """What the technique took, by the run report beside the feature file; null without one."""
    verdict: Literal["keep", "not worth it", "cannot tell"] | None
    """null for the first step."""
    reason: str | None
    more_rows: int | None
    """About how many more test rows it would take to tell."""


class Feature(_Part):
    """A column of the ladder on the test rows."""

    name: str
    step: StepName
    meaning: str | None
    """Its formula; null for columns of your own."""
    coverage: float
    """Share of the rows where it is not null."""
    auc: Number
    """Of the column alone as a score, where it is not null; below 0.5 it ranks the other way around."""
    auc_ci: Bounds
    gain_share: float
    """Of the loss that the last ranker took off, the share by splits on this column."""
    drift: Number
    """Kolmogorov-Smirnov distance between training and test rows, 0 to 1."""
    correlation: Number
    """Spearman, with the strongest feature."""
    in_short_list: bool


class Control(_Part):
    """A check that the numbers mean what they say."""

    control: Literal["permuted", "single feature", "whole step", "own history", "neural training end"]
    subject: str
    """The step, column or file that it is of."""
    passed: bool
    value: Number
    ci: Bounds
    text: str


class HistoryLength(_Part):
    """Gains on test rows whose users had about as many visible events."""

    events: str
    rows: int
    users: int
    gains: dict[str, Number]
    """Step -> gain over the step before."""
    gains_ci: dict[str, Bounds]


class Chosen(_Part):
    """The fewest columns that keep at least 95 % of the gain over the first step, on test and early stopping rows."""

    columns: list[str]
    value: Number
    kept: float
    """Share of the gain on the test rows."""


class Distribution(_Part):
    """A cosine column's values on the test rows, by label."""

    name: str
    edges: list[float]
    """Of the bins; one more than there are bins."""
    positives: list[float]
    """Share of the rows with a label above 0 in each bin."""
    negatives: list[float]


class Report(_Part):
    """The whole evaluation."""

    version: str
    """Of extembed."""
    summary: str
    data: Data
    settings: Settings
    ladder: list[Rung]
    features: list[Feature]
    """Strongest in the ranker first."""
    strongest_feature: str | None
    """The one that ranks best by itself."""
    controls: list[Control]
    history_length_of: list[str]
    """The counters whose sum is the length of a history."""
    by_history_length: list[HistoryLength]
    short_list: Chosen | None
    """null where the steps after the first gain nothing."""
    distributions: list[Distribution]
    warnings: list[str]
    spec: dict[str, Any]
    """That made the features."""

    def permuted(self) -> dict[str, Control]:
        """Step -> its control of permuted columns."""
        return {control.subject: control for control in self.controls if control.control == "permuted"}
