"""Numbers as text."""

from __future__ import annotations

import pytest

from extembed_cli.evaluate.numbers import gain_text, number_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01074, "+0.0107"),
        (-0.00136, "-0.0014"),
        (0.00005001, "+0.0001"),
        (0.00004999, "0.0000"),
        (-0.00004999, "0.0000"),
        (-0.0, "0.0000"),
        (0.0, "0.0000"),
    ],
)
def test_a_gain_that_rounds_to_zero_has_no_sign(value: float, text: str) -> None:
    assert gain_text(value) == text


def test_numbers_of_any_form_keep_their_digits() -> None:
    assert number_text(-0.004, ".2f") == "0.00"
    assert number_text(-12_000.04, ",.1f") == "-12,000.0"
    assert number_text(0.7368) == "0.7368"
