"""The heart: what an engine calls, the same on every one.

prepare(spec, tables, ids, vocabulary) -> Shared               once
compute_shard(spec, shared, history, candidates) -> features   per slice of users
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix, TableIds, load_vectors
from extembed_cli.data.parquet import Table
from extembed_cli.data.vector_cache import VectorCache
from extembed_cli.errors import DataError, Problems, SpecError
from extembed_cli.features.aggregate import technique as aggregate
from extembed_cli.features.aggregate.technique import Values
from extembed_cli.features.dual import technique as dual
from extembed_cli.features.dual.bases import Basis, gramian, make_basis
from extembed_cli.features.dual.shard import DualShard
from extembed_cli.features.dual.technique import Estimate, Fit, Model
from extembed_cli.features.neural import technique as neural
from extembed_cli.features.neural.technique import Trained
from extembed_cli.features.technique.columns import Column, Statistic
from extembed_cli.features.technique.done import Done, Solves, Task
from extembed_cli.histories.csr import Candidates, History, every_user
from extembed_cli.histories.visibility import in_own_history, visible, visible_end
from extembed_cli.kernels.segments import run_starts
from extembed_cli.spec.model import Spec
from extembed_cli.system.progress import Cost
from extembed_cli.system.threads import Mapping

if TYPE_CHECKING:
    from extembed_cli.features.neural.scores import NeuralShard, Scorer

_DTYPES = {"UInt32": np.uint32, "Float32": np.float32}


@dataclass(frozen=True)
class Shared:
    """What all shards share: the columns to make, the vectors of the items by num, and the models to fit or to ask."""

    columns: list[Column]
    embeddings: dict[str, EmbeddingMatrix]
    models: dict[Fit, Model]
    scorers: dict[str, Scorer]
    """By folder."""
    vector_files: dict[str, Model | Scorer]
    """Models of which each user's vector is written, by path."""

    @property
    def with_vector(self) -> dict[str, NDArray[np.bool_]]:
        """By table, which items (items + 1) have a vector."""
        return {name: matrix.with_vector for name, matrix in self.embeddings.items()}


@dataclass(frozen=True)
class ShardFeatures:
    """Features of a shard's candidates, in the shard's order; NaN = null."""

    columns: dict[str, NDArray[Any]]
    """Float32 and uint32."""
    vectors: dict[str, NDArray[np.float32]]
    """User vectors (U, D) by file, in the coordinates of their model; NaN where there is none."""
    in_own_history: int
    """Candidates whose item stands in their user's visible history."""
    not_converged: set[int]
    """Users with a logistic fit whose gradient is above 1e-6."""
    done: Done


def output_columns(spec: Spec) -> list[Column]:
    """The feature columns of a spec in their order; those that groups define identically once."""
    found: dict[str, Column] = {}
    if spec.candidates is None:  # only user vectors
        return []
    groups = [aggregate.columns(spec, group) for group in spec.aggregate]
    groups += [dual.columns(spec, group) for group in spec.dual]
    groups += [neural.columns(spec, group) for group in spec.neural]
    for columns in groups:
        for column in columns:
            known = found.setdefault(column.name, column)
            if known.statistic != column.statistic:
                raise SpecError(f"two groups define the column `{column.name}` differently; give one of them a `name`")
    return list(found.values())


# --- once --------------------------------------------------------------------------------------------


def prepare(
    spec: Spec,
    tables: dict[str, Table],
    ids: dict[str, TableIds],
    vocabulary: pl.Series,
    mapped: Mapping = map,
    folder: Path | None = None,
    cache: VectorCache | None = None,
) -> Shared:
    """Load the vectors of the items that the job touches; problems of all tables are told at once.

    With a folder they are in mapped files there, with a cache in those of the cache.
    """
    fits = dual.all_fits(spec)
    problems = Problems()
    embeddings: dict[str, EmbeddingMatrix] = {}
    models: dict[Fit, Model] = {}
    for name, table in tables.items():
        mine = [fit for fit in fits if fit.embedding == name]
        with problems.collect():
            if cache is not None:
                matrix = cache.vectors(name, ids[name], mapped).of(vocabulary)
            else:
                # The mean (`center`) and the Gramian are over the whole table, summed in order of ids.
                whole = spec.embeddings[name].center or any(fit.unobserved_weight > 0 for fit in mine)
                wanted = None if whole else vocabulary
                matrix = load_vectors(spec, name, table, ids[name], wanted, mapped, folder).of(vocabulary)
            made = _models(matrix, mine, spec.embeddings[name].normalize, mapped, folder)
            embeddings[name] = next(iter(made.values())).matrix if made else matrix
            if cache is None and not made:
                embeddings[name] = matrix.of_used_items(folder)
            models |= made
    problems.raise_any()
    scorers = _scorers(spec, embeddings, vocabulary, mapped)
    vector_files: dict[str, Model | Scorer] = {path: models[fit] for path, fit in dual.vector_files(spec).items()}
    vector_files |= {group.user_vectors: scorers[group.model] for group in spec.neural if group.user_vectors}
    return Shared(output_columns(spec), embeddings, models, scorers, vector_files)


def _scorers(
    spec: Spec, embeddings: dict[str, EmbeddingMatrix], vocabulary: pl.Series, mapped: Mapping
) -> dict[str, Scorer]:
    """The trained models of the spec; only where there are any is torch imported, an extra and slow."""
    if not spec.neural:
        return {}
    from extembed_cli.neural.folder import need_extra  # noqa: PLC0415

    need_extra()
    from extembed_cli.features.neural.scores import prepare_scorer  # noqa: PLC0415

    return {group.model: prepare_scorer(spec, group, embeddings, vocabulary, mapped) for group in spec.neural}


def _models(
    matrix: EmbeddingMatrix, fits: list[Fit], normalized: bool, mapped: Mapping, folder: Path | None
) -> dict[Fit, Model]:
    """The models of the fits on a table, without the vectors that only its Gramian needed."""
    if not fits:
        return {}
    items = int(np.count_nonzero(matrix.norms))
    counted = any(fit.unobserved_weight > 0 for fit in fits)
    total = gramian(matrix, normalized=normalized, mapped=mapped) if counted else None
    matrix = matrix.of_used_items(folder)
    bases: dict[tuple[bool, bool], Basis] = {}
    models: dict[Fit, Model] = {}
    for fit in fits:
        rotated = fit.unobserved_weight > 0
        if (rotated, fit.bias) not in bases:
            bases[rotated, fit.bias] = make_basis(
                matrix,
                items,
                total if rotated else None,
                normalized=normalized,
                bias=fit.bias,
                mapped=mapped,
                folder=folder,
            )
        models[fit] = Model(fit, matrix, bases[rotated, fit.bias])
        models[fit].check()
    return models


# --- per slice of users ------------------------------------------------------------------------------


def compute_shard(
    spec: Spec,
    shared: Shared,
    history: History,
    candidates: Candidates,
    vectors_as_of: int,
    mapped: Mapping = map,
    progress: Callable[[float], None] = lambda rows: None,
) -> ShardFeatures:
    """All features of one slice of users, and their vectors as of one moment (us).

    What is computed does not depend on the order in which `mapped` runs the pieces of work.
    """
    wanted = list(dict.fromkeys(column.statistic for column in shared.columns))
    statistics = [s for s in wanted if isinstance(s, Statistic)]
    estimates = [s for s in wanted if isinstance(s, Estimate)]
    found: dict[Any, Values] = {}
    fits = list(dict.fromkeys(e.fit for e in estimates))
    users = every_user(history, vectors_as_of)
    end = visible_end(spec, history, candidates, mapped)
    rows = len(candidates.rows) if shared.columns else len(users.rows)
    asked = [s for s in wanted if isinstance(s, Trained)]
    # Of a pass over the candidates.
    share = 1 / max(1, bool(statistics) + len(fits) + len(asked) + len(shared.vector_files))
    shards: list[DualShard] = []
    vectors: dict[str, NDArray[np.float32]] = {}
    repeats = 0

    def look_for_repeats() -> Done:
        nonlocal repeats
        repeats = in_own_history(history, candidates, end)
        return Done()

    def dual_tasks(shard: DualShard) -> Iterator[Task]:
        shards.append(shard)
        return _dual_tasks(shard, share * rows / max(1, len(shard.asked.rows)))

    def tasks() -> Iterator[Task]:
        """All pieces of work; what a fit needs is made when its turn comes."""
        yield look_for_repeats
        if statistics:
            seen = {name: visible(spec, name, history, candidates, end) for name in {s.history for s in statistics}}
            yield from aggregate.tasks(statistics, shared.embeddings, history, candidates, seen, found, share)
        for fit in fits:
            sd = Estimate("sd", fit) in estimates
            shard = DualShard(spec, shared.models[fit], history, candidates, end=end, sd=sd)
            found.update({Estimate("score", fit): shard.score, Estimate("sd", fit): shard.sd})
            yield from dual_tasks(shard)
        for trained in asked:
            scored = shared.scorers[trained.folder].shard(spec, history, candidates)
            found[trained] = scored.score
            yield from _neural_tasks(scored, share)
        for path, model in shared.vector_files.items():
            if isinstance(model, Model):
                fitted = DualShard(spec, model, history, users, with_vectors=True)
                yield from dual_tasks(fitted)
                vectors[path] = fitted.vectors
            else:
                states = model.shard(spec, history, users, with_vectors=True)
                yield from _neural_tasks(states, share * rows / max(1, len(users.rows)))
                vectors[path] = states.vectors

    done = Done()
    for each in mapped(lambda task: task(), tasks()):
        progress(each.rows)
        done.add(each)
    if asked:
        until = max(shared.scorers[trained.folder].trained_until_us for trained in asked)
        done.trained_on = int(np.count_nonzero(candidates.times <= until))
    done.solves.systems = sum(shard.systems for shard in shards)
    progress(rows - done.rows)  # those that see no event are in no task
    # A product gives equal rows bits of their own: candidates that are the same have the values of the first.
    first = run_starts(candidates.users, candidates.times, candidates.items)
    alike = np.repeat(first, np.diff(np.append(first, len(candidates.rows))))
    return ShardFeatures(
        columns={c.name: found[c.statistic][alike].astype(_DTYPES[c.dtype], copy=False) for c in shared.columns},
        vectors=vectors,
        in_own_history=repeats,
        not_converged=set().union(*(shard.not_converged for shard in shards)),
        done=done,
    )


def _neural_tasks(shard: NeuralShard, share: float) -> Iterator[Task]:
    """Scores and vectors, batch by batch, into the shard's own arrays; a row counts as a `share` of one."""

    def run(score: Callable[[], int]) -> Done:
        began = time.perf_counter()
        rows = score()
        seconds = time.perf_counter() - began
        return Done(rows=share * rows, seconds={"neural": seconds}, stages={"score": Cost(seconds, rows)})

    return (partial(run, task) for task in shard.tasks())


def _dual_tasks(shard: DualShard, share: float) -> Iterator[Task]:
    """Fits and scores, batch by batch, into the shard's own arrays; a row counts as a `share` of one."""

    def run(solve: Callable[[], Solves]) -> Done:
        began = time.perf_counter()
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is singular
                solves = solve()
        except np.linalg.LinAlgError:
            raise DataError(shard.model.fit.singular) from None
        seconds = time.perf_counter() - began
        cost = Cost(seconds, solves.primal + solves.dual)
        return Done(rows=share * solves.rows, solves=solves, seconds={"dual": seconds}, stages={"solve": cost})

    return (partial(run, task) for task in shard.tasks())
