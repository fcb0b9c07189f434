"""Patterns stand for exactly the names that they were made of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extembed_cli.jobs.patterns import patterns


def names_of(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern stands for, as a shell expands braces."""
    pieces = re.split(r"\{(.*?)\}", pattern)
    choices = [piece.split(",") if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return ("".join(choice) for choice in itertools.product(*choices))


PARTS = ("text", "liked", "cos_p10", "cos_p90", "cos_mean", "cos_max", "hl7d", "hl70d", "all", "count")


@given(st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("__".join), unique=True))
def test_patterns_stand_for_the_names(names: list[str]) -> None:
    folded = patterns(names)
    assert sorted(name for pattern in folded for name in names_of(pattern)) == sorted(names)
    assert len(folded) <= len(names)


@pytest.mark.parametrize(
    ("alternatives", "pattern"),
    [
        (["cos_p10", "cos_p50", "cos_p90"], "cos_p{10,50,90}"),
        (["cos_min", "cos_max"], "cos_{min,max}"),
        (["hl10d", "hl14d"], "hl{10d,14d}"),
        (["share_ge_030", "share_ge_m020"], "share_ge_{030,m020}"),
        (["liked", "late"], "{liked,late}"),
        (["cos", "cos_max"], "{cos,cos_max}"),
    ],
)
def test_alternatives_are_cut_at_an_underscore_or_a_number(alternatives: list[str], pattern: str) -> None:
    assert patterns([f"text__{name}" for name in alternatives]) == [f"text__{pattern}"]


def test_a_product_is_one_pattern() -> None:
    names = [f"{t}__{h}__cos_p{p}__hl{d}" for t in ("text", "image") for h in ("a", "b") for p in (5, 90) for d in "17"]
    assert patterns([*names, "all__count"]) == ["{text,image}__{a,b}__cos_p{5,90}__hl{1,7}", "all__count"]
    assert patterns([]) == []
