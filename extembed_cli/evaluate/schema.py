"""The report of an evaluation as `report.json` stores it. Its schema is docs/reference/report.schema.json."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from extembed_cli.evaluate.settings import Settings
from extembed_cli.evaluate.verdicts import AnswerWord, VerdictWord


def _finite(value: object) -> object:
    """Return None for a number that is not finite: JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Bounds = Annotated[
    tuple[Number, Number] | None,
    Field(description="Lower and upper bound of a 95 % interval."),
]
TITLES = {"auc": "AUC", "ndcg@10": "nDCG@10"}
"""The metrics as readers know them."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(_Part):
    """The rows that were evaluated."""

    features: str
    """The feature file, as given on the command line."""
    label: str
    time: str
    user: str
    group: str | None
    baseline: list[str]
    """The ranker's own columns that --baseline matched."""
    rows: int
    """Rows of the file."""
    train_rows: int
    early_stopping_rows: int
    """The newest of the rows before the test rows."""
    test_rows: int
    test_users: int
    test_from: str
    """Time of the first test row, ISO 8601 UTC."""
    positive_share: dict[str, Number]
    """Share of labels above 0 among the training, early stopping and test rows."""
    left_out: dict[str, int]
    """Number of rows in none of these parts, by reason."""


class Rung(_Part):
    """A step of the ladder."""

    step: str
    columns: int
    """Columns that this step adds."""
    metric: Literal["auc", "ndcg@10"]
    value: Number
    value_ci: Bounds
    delta: Number
    """Gain over the step before; null for the first."""
    delta_ci: Bounds
    over_permuted_ci: Bounds
    """Interval of the gain over a ranker with the same columns permuted."""
    metrics: dict[str, Number]
    """Without requests auc and log_loss, with requests auc, gauc, ndcg@10 and mrr; means over seeds."""
    seconds: Number
    """Seconds of the technique in the run report beside the feature file; null without one."""
    verdict: VerdictWord | None
    """null for the first step, which has no gain."""
    reason: str | None
    more_rows: tuple[int, int] | None
    """Rough range of how many more test rows a verdict needs."""


class Feature(_Part):
    """Statistics of one column of the ladder on the test rows."""

    name: str
    step: str
    meaning: str | None
    """The formula of a feature; null for a baseline column."""
    coverage: float
    """Share of the test rows where it is not null."""
    auc: Number
    """AUC of the column alone as the score, where it is not null; below 0.5 it ranks positives lower."""
    auc_ci: Bounds
    gain_share: float
    """Share of the last ranker's loss reduction that comes from splits on this column."""
    drift: Number
    """Kolmogorov-Smirnov distance of its values between training and test rows, 0 to 1."""
    correlation: Number
    """Spearman correlation with the strongest feature."""
    in_short_list: bool


class Control(_Part):
    """The result of a check that the numbers can be trusted."""

    control: Literal["permuted", "single feature", "whole step", "own history", "training end"]
    subject: str
    """The step, column or file that was checked."""
    passed: bool
    value: Number
    ci: Bounds
    text: str


class Segment(_Part):
    """Values and gains on the test rows with a similar number of events of their user or item."""

    events: str
    rows: int
    users: int
    values: dict[str, Number]
    """Step -> metric of the ladder."""
    values_ci: dict[str, Bounds]
    gains: dict[str, Number]
    """Step -> gain over the step before."""
    gains_ci: dict[str, Bounds]


class SelectedColumns(_Part):
    """The fewest columns that keep at least 95 % of the gain over the first step, on test and early stopping rows."""

    columns: list[str]
    value: Number
    kept: float
    """Share of the gain that they keep on the test rows."""


class Distribution(_Part):
    """Histogram of a cosine column on the test rows, by label."""

    name: str
    edges: list[float]
    """Edges of the bins, one more than there are bins."""
    positives: list[float]
    """Share of the rows with a label above 0 that is in each bin."""
    negatives: list[float]


class Report(_Part):
    """The whole report."""

    version: str
    """Version of extembed."""
    answer: AnswerWord
    """Whether to keep the embeddings: keep if any of their steps is kept."""
    summary: str
    """The answer in words."""
    data: Data
    settings: Settings
    ladder: list[Rung]
    features: list[Feature]
    """Largest gain share first."""
    strongest_feature: str | None
    """The feature that ranks best alone."""
    controls: list[Control]
    history_length_of: list[str]
    """The counter columns whose sum is the length of a history."""
    by_history_length: list[Segment]
    item_count_of: list[str]
    """The counter columns whose sum is how often an item was seen; none where earlier rows of the file are counted."""
    by_item_count: list[Segment]
    """Empty where the file has no items."""
    short_list: SelectedColumns | None
    """null where the steps after the first gain nothing."""
    distributions: list[Distribution]
    warnings: list[str]
    spec: dict[str, Any]
    """The spec that the features were computed with."""

    def permuted(self) -> dict[str, Control]:
        """Return the control of permuted columns of each step that has one."""
        return {control.subject: control for control in self.controls if control.control == "permuted"}
