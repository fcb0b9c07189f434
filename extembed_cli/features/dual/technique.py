"""Technique 2: a linear model per owner and as-of time over fixed partner vectors, and its score of the candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.mapped_arrays import ArrayFolder
from extembed_cli.errors import DataError, Problems, counted, listing
from extembed_cli.features.dual.bases import Basis, make_basis
from extembed_cli.features.dual.everybody import Everybody, EverybodyScores
from extembed_cli.features.dual.explanations import of_everybody, of_owner
from extembed_cli.features.dual.fits import (
    Fit,
    FitStatistic,
    PreparedFit,
    columns,
    fits,
    fits_of_all,
    is_additive,
    owner_fits,
    sees_prefixes,
)
from extembed_cli.features.dual.shard import NOT_CONVERGED, DualShard
from extembed_cli.features.dual.survey import EverybodySurvey, Needs, bytes_of_fit
from extembed_cli.features.dual.systems import Solves
from extembed_cli.features.dual.tasks import tasks
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.features.technique.protocol import (
    Estimate,
    Memory,
    MomentVectors,
    Prepared,
    Rows,
    ShardWork,
    State,
    Survey,
    Task,
    Technique,
    VectorFile,
)
from extembed_cli.histories.csr import Candidates
from extembed_cli.histories.visibility import visible
from extembed_cli.kernels.prefixes import segment_length
from extembed_cli.kernels.ridge import longest_dual
from extembed_cli.spec.groups import DualGroup
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix
from extembed_cli.system.progress import Cost

_RESIDUAL = 1e-6  # of a fit; above it the run warns
# Newton steps, about, and the products with a matrix that they take where as-of times share a factor.
_STEPS, _SHARED_STEPS = {"squared": 1, "logistic": 7}, 110
# Measured on 2 cores, see docs/decisions/.
_MATRICES = 12  # of a worker, while the steps of everybody's fit are solved
_EVERYBODY = "everybody"  # key of what is kept of these fits
_SECONDS_PER_PRODUCT = 1.5e-10
_SECONDS_PER_FIT = {True: 20e-6, False: 130e-6}  # nested in those of the owner's other as-of times, or by itself


class Dual(Technique):
    """Scores of per-owner linear models, and these models as vectors of the owners."""

    group = DualGroup
    step = "dual"

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(DualGroup):
            yield from columns(spec, group)

    def needs_gramian(self, spec: Spec, matrix: Matrix) -> bool:
        solved = fits_of_all(spec) if spec.is_survey else owner_fits(spec)
        return any(fit.unobserved_weight > 0 for fit in solved if fit.matrix == matrix)

    def copies(self, spec: Spec, matrix: Matrix) -> int:
        return len({fit.basis for fit in owner_fits(spec) if fit.matrix == matrix})

    def survey(self, spec: Spec, prepared: Prepared, events: int, candidates: int) -> Survey:
        return EverybodySurvey(spec, _needs(spec), prepared, events, candidates)

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> DualState:
        bases: dict[tuple[Matrix, bool, bool], Basis] = {}
        for fit in owner_fits(spec):
            if fit.basis not in bases:
                totals = prepared.totals[fit.matrix] if fit.is_rotated else None
                bases[fit.basis] = make_basis(
                    prepared.embeddings[fit.matrix],
                    0 if totals is None else totals.partners,
                    None if totals is None else totals.gramian,
                    normalized=spec.table(fit.embedding).normalize,
                    bias=fit.bias,
                    mapped=prepared.mapped,
                    at=prepared.folder and prepared.folder / f"{_file_name(fit.basis)}.vectors",
                )
        problems = Problems()
        for fit in owner_fits(spec):
            with problems.collect():
                fit.check(bases[fit.basis].eigenvalues, bases[fit.basis].partners)
        problems.raise_any()
        surveyed = prepared.surveyed.get(DualGroup.technique, {})
        everybody = {fit: surveyed[fit] for fit in fits_of_all(spec)}  # a pass of items scores none
        return _state(spec, statistics, prepared, bases, everybody)

    def open(
        self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared, arrays: ArrayFolder, about: dict[str, Any]
    ) -> DualState:
        bases = {
            fit.basis: Basis.open(arrays, about[_file_name(fit.basis)], prepared.embeddings[fit.matrix])
            for fit in owner_fits(spec)
        }
        everybody = {
            fit: Everybody.open(arrays.of("everybody"), about[_EVERYBODY][str(place)])
            for place, fit in enumerate(fits_of_all(spec))
        }
        return _state(spec, statistics, prepared, bases, everybody)

    def memory_of_survey(self, spec: Spec, rows: Rows, dims: Mapping[str, int]) -> Memory:
        needs = _needs(spec)
        sizes = {fit: dims[fit.embedding] + fit.bias for fit in needs}
        return Memory(
            state=sum(bytes_of_fit(fit, need, rows, sizes[fit]) for fit, need in needs.items()),
            batch=8 * max(sizes.values(), default=0) ** 2 * _MATRICES,
        )

    def seconds_per_candidate(self, spec: Spec, events: float) -> float:
        return sum(_SECONDS_PER_FIT[is_additive(spec, fit)] for fit in owner_fits(spec))

    def estimate(self, spec: Spec, work: ShardWork, dims: Mapping[str, int]) -> Estimate:
        costs = [_expected(spec, fit, work, work.candidates, dims[fit.embedding]) for fit in owner_fits(spec)]
        costs += [_expected(spec, fit, work, work.owners, dims[fit.embedding]) for fit in _vector_fits(spec).values()]
        costs += [_expected_of_all(fit, need, work, dims[fit.embedding]) for fit, need in _needs(spec).items()]
        systems, products = (sum(each) for each in zip(*costs, strict=True)) if costs else (0, 0.0)
        return Estimate(products * _SECONDS_PER_PRODUCT, {"dual fits": int(systems)})

    def report(self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        if not spec.of(DualGroup):
            return {"dual": None}
        not_converged = flagged.get(NOT_CONVERGED, [])
        about = {
            "systems": tally.counts.get("systems", 0),
            "primal_solves": tally.counts.get("primal_solves", 0),
            "dual_solves": tally.counts.get("dual_solves", 0),
            "largest_relative_residual": tally.largest.get("relative_residual", 0.0),
            "largest_logistic_gradient": tally.largest.get("logistic_gradient", 0.0),
            "users_not_converged": len(not_converged),
            "examples_not_converged": list(not_converged[:20]),
        }
        return {"dual": about}

    def closing(self, report: dict[str, Any]) -> Iterator[str]:
        about = report["dual"]
        if about is not None:
            errors = {
                "relative residual": about["largest_relative_residual"],
                "logistic gradient": about["largest_logistic_gradient"],
            }
            shown = "".join(f", largest {what} {error:.0e}" for what, error in errors.items() if error)
            yield f"{counted(about['systems'], 'fit')}{shown}"

    def warnings(
        self, spec: Spec, tally: Tally, flagged: Mapping[str, Sequence[str]], candidates: int
    ) -> Iterator[str]:
        owners, owner = flagged.get(NOT_CONVERGED, []), spec.side.owner
        if owners:
            yield (
                f"{len(owners):,} {owner}s have a logistic fit with a gradient above 1e-6 ({owner} {listing(owners)}); "
                "raise `regularization`"
            )
        residual = tally.largest.get("relative_residual", 0.0)
        if residual > _RESIDUAL:
            yield (
                f"a dual fit has a relative residual of {residual:.1e}: its weights are too large for its "
                "regularization; raise `regularization` or lower `weight`"
            )


def _needs(spec: Spec) -> dict[Fit, Needs]:
    """Return what is needed of each fit of everybody's events."""
    needs: dict[Fit, Needs] = {}
    for group in spec.of(DualGroup):
        for fit in fits(spec, group) if group.surveys else ():
            scores = spec.candidates is not None
            need = Needs(scores, scores and group.sd, group.all_vectors is not None)
            needs[fit] = Needs(*map(any, zip(need, needs.get(fit, need), strict=True)))
    return needs


def _vector_fits(spec: Spec) -> dict[str, Fit]:
    """Return the fits whose owner vectors are written, by file."""
    groups = [group for group in spec.of(DualGroup) if not group.surveys]
    return {path: next(fits(spec, group)) for group in groups if (path := group.owner_vectors) is not None}


def _file_name(basis: tuple[Matrix, bool, bool]) -> str:
    matrix, rotated, bias = basis
    return f"{matrix.name}.basis{'-rotated' * rotated}{'-bias' * bias}"


def _state(
    spec: Spec,
    statistics: Sequence[Hashable],
    prepared: Prepared,
    bases: dict[tuple[Matrix, bool, bool], Basis],
    everybody: Mapping[Fit, Everybody],
) -> DualState:
    embeddings = prepared.embeddings
    prepared_fits = {fit: PreparedFit(fit, embeddings[fit.matrix], bases[fit.basis]) for fit in owner_fits(spec)}
    estimates = [s for s in statistics if isinstance(s, FitStatistic)]
    files = {path: prepared_fits[fit] for path, fit in _vector_fits(spec).items()}
    scores = [
        EverybodyScores(
            fit,
            fitted,
            embeddings[fit.matrix],
            prepared.vocabulary.ids,
            normalized=spec.table(fit.embedding).normalize,
        )
        for fit, fitted in everybody.items()
    ]
    of_all = {group.all_vectors: next(fits(spec, group)) for group in spec.of(DualGroup) if group.all_vectors}
    return DualState(prepared_fits, estimates, files, scores, of_all)


@dataclass(frozen=True)
class DualState(State):
    """The fits to solve."""

    fits: dict[Fit, PreparedFit]
    estimates: list[FitStatistic]
    user_files: dict[str, PreparedFit]
    """The fits whose owner vectors are written, by path"""
    everybody: list[EverybodyScores]
    all_files: dict[str, Fit]
    """The fits of everybody's events whose vectors are written, by path"""

    @property
    def passes(self) -> int:
        return len(self._scored) + len(self.user_files)

    @property
    def _scored(self) -> list[Fit]:
        """The fits of owners that score candidates."""
        return [fit for fit in dict.fromkeys(estimate.fit for estimate in self.estimates) if fit in self.fits]

    def vector_files(self) -> Mapping[str, VectorFile]:
        return self.user_files

    def moment_vectors(self) -> Iterator[MomentVectors]:
        fitted = {each.fit: each.everybody for each in self.everybody}
        for path, fit in self.all_files.items():
            new = fitted[fit].is_new
            steps, vectors = fitted[fit].steps[new], fitted[fit].vectors[new]
            yield MomentVectors(path, steps * fit.step_us, vectors, fit.bias, fit.meaning)

    def save(self, arrays: ArrayFolder) -> dict[str, Any]:
        bases = {fit.fit.basis: fit for fit in self.fits.values()}
        kept = {_file_name(name): fit.basis.save(arrays, _file_name(name), fit.matrix) for name, fit in bases.items()}
        folder = arrays.of("everybody")
        everybody = {str(i): each.everybody.save(folder, str(i)) for i, each in enumerate(self.everybody)}
        return {**kept, _EVERYBODY: everybody}

    def tasks(self, work: ShardWork) -> Iterator[Task]:
        """Yield the tasks of the fits for the candidates, then of those for the owners' vectors."""
        for scores in self.everybody:
            yield from scores.tasks(work, self.estimates)
        for fit in self._scored:
            shard = DualShard(work, self.fits[fit], sd=FitStatistic("sd", fit) in self.estimates)
            work.values.update({FitStatistic("score", fit): shard.score, FitStatistic("sd", fit): shard.sd})
            yield from _tasks(shard, 1.0)
        for path, prepared in self.user_files.items():
            shard = DualShard(work, prepared, of_owners=True)
            work.vectors[path] = shard.vectors
            yield from _tasks(shard, work.passes_per_owner)

    def explain(self, work: ShardWork, place: int, statistics: Sequence[Hashable]) -> dict[Hashable, Explanation]:
        kinds: dict[Fit, list[str]] = {}
        for statistic in statistics:
            assert isinstance(statistic, FitStatistic)
            kinds.setdefault(statistic.fit, []).append(statistic.kind)
        candidate, explanations = ExplainedCandidate(work, place), dict[Hashable, Explanation]()
        for scores in self.everybody:
            explanations |= of_everybody(candidate, scores, kinds.get(scores.fit, []))
        for fit in self._scored:
            explanations |= of_owner(candidate, self.fits[fit], kinds.get(fit, []))
        return explanations


def _tasks(shard: DualShard, passes_per_row: float) -> Iterator[Task]:
    """Yield tasks that fit and score, batch by batch, into the shard's own arrays."""

    def run(solve: Callable[[], Solves]) -> Tally:
        began = time.perf_counter()
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is singular
                solves = solve()
        except np.linalg.LinAlgError:
            raise DataError(shard.prepared.fit.singular) from None
        seconds = time.perf_counter() - began
        return Tally(
            passes=passes_per_row * solves.rows,
            counts={"primal_solves": solves.primal, "dual_solves": solves.dual},
            largest={"relative_residual": solves.residual, "logistic_gradient": solves.gradient},
            seconds={"dual": seconds},
            stages={"solve": Cost(seconds, solves.primal + solves.dual)},
        )

    for task in tasks(shard):
        yield partial(run, task)
    yield lambda: Tally(counts={"systems": shard.systems})


def _expected_of_all(fit: Fit, needs: Needs, work: ShardWork, dim: int) -> tuple[int, float]:
    """Return the same for a fit of everybody's events: the items of a step are summed, and each step is solved."""
    of_events = work.history.times // fit.step_us
    solved = [work.candidates.times // fit.step_us] * needs.scores + [of_events + 1] * needs.vectors
    steps = len(np.unique(np.concatenate(solved)))
    items = len(np.unique(of_events * (work.history.partners.max(initial=0) + 1) + work.history.partners))
    return steps, float(items * dim**2 + steps * dim**3)


def _expected(spec: Spec, fit: Fit, work: ShardWork, candidates: Candidates, dim: int) -> tuple[int, float]:
    """Return the systems of a fit and about how many multiplications they take, from the counts of events alone."""
    candidates = fit.as_of(candidates)
    count = visible(spec, fit.history, work.history, candidates).count
    owners, times = candidates.owners, candidates.times
    change = (np.diff(owners) != 0) | (np.diff(times) != 0)
    if not len(owners):
        return 0, 0.0
    n = count[np.append(np.flatnonzero(change), len(owners) - 1)]
    systems = int(np.count_nonzero(n))
    longest = np.maximum.reduceat(count, candidates.indptr[:-1][np.diff(candidates.indptr) > 0])
    if is_additive(spec, fit) and fit.half_life == "none":
        most = segment_length(dim)
        block, segments = np.minimum(longest, most), longest // most
        products = (longest * block * (dim + block) / 2 + segments * dim**2 * (dim + 2 * most)).sum()
        products += (np.minimum(count, most).astype(np.float64) ** 2).sum()
    else:  # as if no two systems shared a factor
        side = np.minimum(n, longest_dual(dim))
        products = (longest * np.minimum(longest, longest_dual(dim)) * dim / 2.0).sum()
        shares_steps = fit.loss == "logistic" and sees_prefixes(spec, fit)
        products += (_SHARED_STEPS * side**2.0 if shares_steps else _STEPS[fit.loss] * side**3 / 3.0).sum()
        products += _STEPS[fit.loss] * n[n > longest_dual(dim)].sum() * dim**2 / 2.0  # in the primal form
    return systems, float(products)
