"""`extembed dual` on the command line: wrong flags are refused, and flags give the same output as a spec."""

from __future__ import annotations

import pytest
from conftest import World, extembed, run_spec

GROUP = "[[dual]]\n"
INPUTS = ("-i", "interactions.parquet", "-e", "text=text.parquet")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ((), ["`candidates` is missing"]),
        (("-o", "out.parquet", "--user-vectors", "u.parquet"), ["output", "without `candidates`"]),
        (("-c", "candidates.parquet"), ["no output"]),
        (("-c", "candidates.parquet", "-o", "out.parquet", "--regularization", "-1"), ["--regularization"]),
        (("-c", "candidates.parquet", "-o", "out.parquet", "--loss", "hinge"), ["--loss"]),
        (("-c", "candidates.parquet", "-o", "out.parquet", "--scaling", "x"), ["--scaling"]),
        (("--user-vectors", "u"), ["--user-vectors", "must end in .parquet"]),
    ],
)
def test_bad_flags(world: World, flags: tuple[str, ...], parts: list[str]) -> None:
    extembed("dual", *INPUTS, *flags, cwd=world.folder).failed(2, *parts)


def test_aggregate_groups_need_candidates(world: World) -> None:
    text = f'interactions = "interactions.parquet"\n[embeddings.text]\npath = "text.parquet"\n[[aggregate]]\n{GROUP}'
    extembed("run", world.spec(f'{text}user_vectors = "u.parquet"')).failed(2, "`candidates` is missing")


def test_flags_and_a_spec_write_the_same_bytes(world: World) -> None:
    flags = [*INPUTS, "-c", "candidates.parquet", "-o", "flags.parquet", "--history", "liked=rating >= 4", "--bias"]
    flags += ["--regularization", "0.5", "--unobserved-weight", "0.1", "--scaling", "0.2", "--half-life", "20d"]
    flags += ["--target", "rating - 3", "--sd", "--refit-every", "2d", "--lag", "1h", "--max-events", "9", "--center"]
    report = extembed("dual", *flags, "--json", cwd=world.folder).ok().json
    features = run_spec(
        world.spec(
            """lag = "1h"\n[embeddings.text]\npath = "text.parquet"\ncenter = true
[histories.liked]\nwhere = "rating >= 4"\nmax_events = 9\n[[dual]]\nregularization = 0.5\nunobserved_weight = 0.1
scaling = 0.2\nhalf_life = "20d"\ntarget = "rating - 3"\nsd = true\nbias = true\nrefit_every = "2d"\n"""
        )
    )
    assert (world.folder / "flags.parquet").read_bytes() == (world.folder / "out.parquet").read_bytes()
    assert features["text__liked__dual_sd"].null_count() < 200
    assert set(report["dual"]) >= {"systems", "primal_solves", "dual_solves", "largest_relative_residual"}
    assert report["dual"]["largest_relative_residual"] < 1e-12
    assert report["seconds_by_technique"].keys() == {"dual"}
