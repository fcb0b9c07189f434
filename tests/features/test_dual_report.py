"""The report of dual fits: their number, how they were solved, and which did not converge."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import World, extembed, soak, timestamps, vectors

from extembed_cli.kernels.prefixes import segment_length

DAY = 86_400_000_000
START = 1_700_000_000_000_000


def write_events(world: World, users: list[int], ratings: list[int] | None = None) -> None:
    """Write one event per day for each user, on different items."""
    days = [users[:at].count(user) for at, user in enumerate(users)]
    world.write(
        "interactions",
        {
            "user_id": users,
            "item_id": [day % 35 for day in days],
            "timestamp": timestamps(START + np.array(days) * DAY),
            "rating": ratings or [5] * len(users),
        },
    )


def write_candidates(world: World, candidates: list[tuple[int, float]]) -> None:
    """Write one candidate for each (user, day)."""
    world.write(
        "candidates",
        {
            "user_id": [user for user, _ in candidates],
            "item_id": [at % 35 for at in range(len(candidates))],
            "timestamp": timestamps([int(START + day * DAY) for _, day in candidates]),
        },
    )


@pytest.fixture
def three_fits(world: World) -> World:
    """Provides candidates of user 1 after 2 and after 3 events, of user 2 after 12, and of user 3 before the first."""
    write_events(world, [1] * 5 + [2] * 12 + [3])
    write_candidates(world, [(1, 1.5), (1, 1.6), (1, 2.5), (1, 2.5), (1, 2.5), (2, 11.5), (2, 11.5), (3, -1.0)])
    return world


def test_candidates_of_one_user_and_time_share_a_solve(three_fits: World) -> None:
    """Two as-of times with the same visible events are two systems, because their weights differ."""
    fits = extembed("run", three_fits.spec('[[dual]]\nhalf_life = "9d"\nsd = true'), "--json").ok().json["dual"]
    assert (fits["systems"], fits["dual_solves"], fits["primal_solves"]) == (4, 3, 1)
    assert 0 < fits["largest_relative_residual"] < 1e-12
    assert (fits["largest_logistic_gradient"], fits["users_not_converged"]) == (0, 0)


def test_without_decay_the_times_of_a_user_share_a_factor(three_fits: World) -> None:
    fits = extembed("run", three_fits.spec("[[dual]]"), "--json").ok().json["dual"]
    assert (fits["systems"], fits["dual_solves"], fits["primal_solves"]) == (4, 1, 1)


def test_a_plan_counts_the_fits_that_a_run_solves(three_fits: World) -> None:
    for keys, expected in (('half_life = "9d"', 4), ('refit_every = "1d"\nhalf_life = "9d"', 3)):
        spec = three_fits.spec(f"[[dual]]\n{keys}")
        assert extembed("run", spec, "--dry-run", "--json").ok().json["counts"]["dual fits"] == expected
        assert extembed("run", spec, "--json").ok().json["dual"]["systems"] == expected


def test_users_whose_logistic_fit_does_not_converge_are_named(world: World) -> None:
    """With weights of 1e12 and λ = 1e-3, float64 cannot bring the gradient below 1e-6."""
    rng = np.random.default_rng(3)
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, 8)))})
    write_events(world, [7] * 30 + [8] * 30, ratings=[1, 5, 5] * 20)
    write_candidates(world, [(7, 40.0), (8, 40.0)])
    group = '[[dual]]\nloss = "logistic"\ntarget = "rating - 3"\nregularization = 1e-3'
    done = extembed("run", world.spec(f'weight = "1e12"\n{group}'), "--json").ok()
    fits = done.json["dual"]
    assert fits["largest_logistic_gradient"] > 1e-6
    assert fits["examples_not_converged"] == ["7", "8"]
    assert fits["users_not_converged"] == 2
    assert "2 users have a logistic fit with a gradient above 1e-6 (user 7, 8)" in done.err
    calm = extembed("run", world.spec(group), "--json").ok()
    assert 0 < calm.json["dual"]["largest_logistic_gradient"] <= 1e-6
    assert (calm.json["dual"]["users_not_converged"], calm.err.count("gradient above")) == (0, 0)


@pytest.mark.parametrize("keys", ["", 'half_life = "9d"', 'loss = "logistic"', 'user_vectors = "u.parquet"'])
def test_an_overflow_raises_an_error(world: World, keys: str) -> None:
    group = f"[[dual]]\nregularization = 1e-300\n{keys}"
    done = extembed("run", world.spec(f'weight = "1e30"\n{group}'))
    done.failed(1, "dual fit over `all` in `text`", "regularization = 1e-300", "Raise `regularization`")
    assert "RuntimeWarning" not in done.err
    assert not (world.folder / "out.parquet").exists()


def test_user_vectors_before_the_first_event_warn(world: World) -> None:
    group = '[[dual]]\nuser_vectors = "u.parquet"\n'
    for top in ('as_of = "2001-01-01"\n', 'lag = "4000d"\n'):
        done = extembed("run", world.spec(top + group), "--allow-empty").ok()
        assert "u.parquet: no user has an event before" in done.err
        assert len(world.table("u")) == 0


def test_user_vector_paths_that_collide_with_the_output_are_refused(world: World) -> None:
    (world.folder / "a").mkdir()
    flags = ["-i", "interactions.parquet", "-c", "candidates.parquet", "-e", "text=text.parquet"]
    for output, vector_file, part in (
        ("u.parquet", "a/../u.parquet", "is the path of another output"),
        ("features", "features/users.parquet", "is inside the output"),
    ):
        done = extembed("dual", *flags, "-o", output, "--user-vectors", vector_file, cwd=world.folder)
        done.failed(2, "--user-vectors", part)
        assert not (world.folder / output).exists()


def test_messages_name_the_flag(world: World) -> None:
    flags = ["-i", "interactions.parquet", "-c", "candidates.parquet", "-e", "text=text.parquet", "-o", "o.parquet"]
    for given, part in (
        (["--regularization", "0"], "--regularization: 0 with"),
        (["--refit-every", "0d"], "--refit-every: `0d` must be longer"),
        (["--set", "dual.0.name=a b"], "dual.0.name: `a b` is not a name"),
        (["--max-events", "0"], "`--max-events`: input should be greater than or equal to 1"),
    ):
        extembed("dual", *flags, *given, cwd=world.folder).failed(2, f"flags: {part}")


@pytest.mark.parametrize("dim", [300, soak(40)])
def test_long_histories_are_solved_in_segments(world: World, dim: int) -> None:
    """A factor holds max(256, dimensions) of the 700 events. Scores agree with one system per as-of time."""
    rng = np.random.default_rng(4)
    world.write("text", {"item_id": np.arange(35), "embedding": vectors(rng.standard_normal((35, dim)))})
    write_events(world, [1] * 700, ratings=rng.integers(1, 6, 700).tolist())
    write_candidates(world, [(1, day) for day in rng.uniform(0, 720, 900)])
    groups = '[[dual]]\ntarget = "rating - 3"\nsd = true\n'
    groups += '[[dual]]\nname = "each"\nhalf_life = "300000d"\ntarget = "rating - 3"\nsd = true\n'
    features = world.run(groups)
    for what in ("score", "sd"):
        one, each = (features[f"text__all__dual_{name}{what}"].to_numpy() for name in ("", "each_"))
        np.testing.assert_allclose(one, each, rtol=0, atol=3e-3)  # two years of decay at a half-life of 800 years
    report = extembed("run", world.spec('[[dual]]\ntarget = "rating - 3"'), "--json").ok().json["dual"]
    assert report["primal_solves"] == -(-700 // segment_length(dim)) - 1


def test_a_lock_that_cannot_be_created_is_reported(world: World) -> None:
    (world.folder / ".out.parquet.lock").mkdir()
    extembed("run", world.spec("[[dual]]")).failed(2, "out.parquet: its lock", "cannot be created")


def test_the_closing_line_names_the_error_of_each_loss(world: World) -> None:
    squared = extembed("run", world.spec("[[dual]]")).ok().err
    assert "largest relative residual" in squared and "gradient" not in squared
    logistic = extembed("run", world.spec('[[dual]]\nloss = "logistic"\ntarget = "rating - 3"')).ok().err
    assert "largest logistic gradient" in logistic and "residual" not in logistic
