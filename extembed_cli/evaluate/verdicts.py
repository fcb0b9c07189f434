"""The words of an evaluation: the verdicts on its steps, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

VerdictWord = Literal["keep", "not worth it", "cannot tell"]
AnswerWord = Literal["keep", "not worth it", "no answer"]
KEEP: Final = "keep"
NOT_WORTH_IT: Final = "not worth it"
CANNOT_TELL: Final = "cannot tell"
NO_ANSWER: Final = "no answer"


@dataclass(frozen=True)
class Verdict:
    """The decision about a step."""

    word: VerdictWord
    reason: str
    more_rows: tuple[int, int] | None = None
    """Rough range of how many more test rows a decision needs."""
