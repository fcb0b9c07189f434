"""A wrong dual fit ends with an exit code and a message that names the problem, and leaves old files unchanged."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import World, extembed, run_spec, vectors

GROUP = "[[dual]]\n"


def fails(world: World, spec: str, code: int, *parts: str) -> None:
    """Check that a run fails with this code and message, and that old files stay."""
    old = {name: world.folder / name for name in ("out.parquet", "users.parquet")}
    for path in old.values():
        path.write_bytes(b"old")
    extembed("run", world.spec(spec)).failed(code, *parts)
    assert all(path.read_bytes() == b"old" for path in old.values())


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("regularization = -1", ["dual.0.regularization", "greater than or equal to 0"]),
        ("regularization = nan", ["dual.0.regularization"]),
        ("regularization = inf", ["dual.0.regularization"]),
        ('regularization = "2"', ["dual.0.regularization", "must be a number"]),
        ("unobserved_weight = -0.1", ["dual.0.unobserved_weight"]),
        ("scaling = true", ["dual.0.scaling", "must be a number"]),
        ("regularization = 0", ["dual.0", "Set regularization above 0"]),
        ('loss = "hinge"', ["dual.0.loss", "'squared' or 'logistic'"]),
        ('half_life = "soon"', ["dual.0.half_life", "not a duration"]),
        ('refit_every = "0d"', ["dual.0.refit_every", "longer than 0"]),
        ("refit_evry = '1d'", ["dual.0.refit_evry", "did you mean `refit_every`"]),
        ("bias = 1", ["dual.0.bias", "must be true or false"]),
        ('histories = ["likd"]', ["dual.0.histories", "nothing is named `likd`"]),
        ('embeddings = ["txt"]', ["dual.0.embeddings", "nothing is named `txt`"]),
        ('target = "ratng"', ["dual.0.target", "ratng"]),
        ('target = "avg(rating)"', ["dual.0.target", "not row-wise"]),
        ('target = "sum(rating) over (partition by item_id)"', ["dual.0.target"]),
        ('target = "timestamp"', ["dual.0.target", "cannot become Float64"]),
        ('user_vectors = "users"', ["dual.0.user_vectors", "must end in .parquet"]),
        ('user_vectors = "out.parquet"', ["dual.0.user_vectors", "another output"]),
        ('user_vectors = "text.parquet"', ["overwrite an input"]),
    ],
)
def test_bad_keys_are_refused(world: World, line: str, parts: list[str]) -> None:
    fails(world, GROUP + line, 2, *parts)


def test_user_vectors_of_several_tables_or_histories_are_refused(world: World) -> None:
    top = '[histories.liked]\nwhere = "rating >= 4"\n[histories.seen]\n'
    tables = '[embeddings.text]\npath = "text.parquet"\n[embeddings.again]\npath = "text.parquet"\n'
    group = f'{GROUP}user_vectors = "users.parquet"\n'
    fails(world, top + tables + group, 2, "one embedding table", "text, again", "one history", "liked, seen")


def test_two_groups_with_one_file_are_refused(world: World) -> None:
    group = f'{GROUP}histories = ["all"]\nuser_vectors = "users.parquet"\n'
    fails(world, group + group, 2, "dual.0.user_vectors", "dual.1.user_vectors", "another output")


def test_two_definitions_of_one_column_are_refused(world: World) -> None:
    fails(world, f"{GROUP}{GROUP}bias = true", 2, "`text__all__dual_score` differently", "give one of them a `name`")
    same = run_spec(world.spec(f"{GROUP}sd = true\n{GROUP}"))
    assert [name for name in same.columns if "dual" in name] == ["text__all__dual_score", "text__all__dual_sd"]
    named = run_spec(world.spec(f'{GROUP}{GROUP}name = "biased"\nbias = true'))
    assert {"text__all__dual_score", "text__all__dual_biased_score"} <= set(named.columns)


def test_a_column_that_the_candidates_have_is_refused(world: World) -> None:
    table = world.table("candidates")
    world.write("candidates", table.append_column("text__all__dual_score", pa.array(np.zeros(len(table)))))
    fails(world, GROUP, 1, "already has the column `text__all__dual_score`")


@pytest.mark.parametrize("value", ["0.0 / 0.0", "1.0 / 0.0", "1e31 * rating"])
def test_targets_that_are_not_finite_are_refused(world: World, value: str) -> None:
    fails(world, f'{GROUP}target = "CASE WHEN rating = 5 THEN {value} ELSE 1.0 END"', 1, "dual.0.target", "not finite")


def test_null_targets_for_all_give_nulls(world: World) -> None:
    spec = world.spec(f'{GROUP}target = "CASE WHEN rating > 9 THEN 1.0 END"')
    assert "null for every interaction" in extembed("run", spec, "--allow-empty").ok().err
    assert world.output()["text__all__dual_score"].null_count() == 300


def test_a_singular_gramian_without_regularization_is_refused(world: World) -> None:
    """The vectors are 0 in the last of 8 dimensions, so without regularization any value fits there."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((35, 8))
    flat[:, 7] = 0
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(flat)})
    group = f"{GROUP}regularization = 0\nunobserved_weight = 1"
    fails(world, group, 1, "do not span their 8 dimensions", "Set regularization above 0")
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, 8)))})
    assert run_spec(world.spec(group))["text__all__dual_score"].null_count() < 300


def test_weights_beyond_float64_give_an_error_or_a_warning(world: World) -> None:
    """With confidences 30 orders of magnitude above λ, the user always gets a message."""
    for keys in ("", 'half_life = "9000d"'):
        done = extembed("run", world.spec(f'weight = "1e30"\n{GROUP}regularization = 1e-6\n{keys}'))
        assert "aise `regularization`" in done.err
        assert done.code in {0, 1}


def test_both_techniques_run_in_one_pass(world: World) -> None:
    """Aggregate columns have the same bytes with and without dual groups, and groups keep their order."""
    aggregate = '[histories.liked]\nwhere = "rating >= 4"\n[[aggregate]]\nhalf_lives = ["7d"]\n'
    alone = run_spec(world.spec(aggregate))
    groups = '[[dual]]\nname = "one"\ntarget = "rating"\n[[dual]]\nhistories = ["all"]\nsd = true\n'
    both = run_spec(world.spec(aggregate + groups))
    assert both.select(alone.columns).equals(alone)
    assert both.columns[len(alone.columns) :] == [
        "text__liked__dual_one_score",
        "text__all__dual_score",
        "text__all__dual_sd",
    ]
    metadata = json.loads(world.table("out").schema.metadata[b"extembed"])
    assert [c["technique"] for c in metadata["columns"]][-3:] == ["dual"] * 3
    spec = world.spec(aggregate + groups)
    listed = extembed("columns", spec, "--set", "dual.1.name=two").ok().out
    assert "text__all__dual_two_sd\tFloat32\t" in listed
    assert extembed("check", spec).ok().out.endswith("features; no problems found\n")
