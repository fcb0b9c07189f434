"""How the score of a neural model comes out for one candidate: which model it is of, and what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from extembed_cli.arrays import Doubles
from extembed_cli.errors import counted, listing
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation, Series
from extembed_cli.neural.events import Reading, build_examples

if TYPE_CHECKING:
    from extembed_cli.features.neural.scores import Scorer


def explanation(candidate: ExplainedCandidate, model: str, scorer: Scorer) -> Explanation:
    """Return how the score of a model comes out."""
    work, config = candidate.work, scorer.config
    histories = list(config.histories)
    reading = Reading(histories, config.settings.max_events, config.values)
    examples = build_examples(work.spec, reading, work.history, work.candidates)
    read = int(examples.lengths[candidate.place])
    fold = int(scorer.model_at(work.candidates.times[candidate.place : candidate.place + 1])[0])
    of = listing(f"`{name}`" for name in histories)
    series: dict[Series, Doubles] = {}
    for name in histories:
        for value in config.values:
            series |= candidate.targets(name, value.expression)
    if candidate.partner is None:
        how = f"the {work.spec.side.partner} is null"
    elif not read:
        how = f"no event of {of} is visible"
    elif fold < 0:
        how = (
            f"no model of {model} was trained before the candidate: the first one until {config.folds[0].trained_until}"
        )
    else:
        until = f"trained until {config.folds[fold].trained_until}"
        number = f"model {fold + 1} of {len(config.folds)} in {model}, " if config.is_out_of_time else f"{model}, "
        how = f"the logit of {number}{until}, which reads the newest {counted(read, 'event')} of {of}"
    return Explanation(how, {"events": float(read)}, (), histories, series)
