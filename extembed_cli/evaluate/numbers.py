"""Numbers as text, the same in a terminal, in a report and on its page."""

from __future__ import annotations


def number_text(value: float, form: str = ".4f") -> str:
    """Return a number as text; one that rounds to 0 has no sign."""
    text = format(value, form)
    return text if any(digit in text for digit in "123456789") else text.lstrip("+-")


def gain_text(value: float) -> str:
    """Return a gain as text, such as `+0.0107` or `-0.0014`."""
    return number_text(value, "+.4f")
