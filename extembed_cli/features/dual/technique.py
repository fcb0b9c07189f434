"""Technique 2: a linear model per user and as-of time over the fixed item vectors, and its score of the candidate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extembed_cli.data.embeddings import EmbeddingMatrix
from extembed_cli.errors import DataError
from extembed_cli.features.dual.bases import Basis
from extembed_cli.features.technique.columns import Column
from extembed_cli.histories.csr import Candidates, History
from extembed_cli.histories.visibility import visible
from extembed_cli.kernels.prefixes import segment_length
from extembed_cli.kernels.ridge import longest_dual
from extembed_cli.spec.model import DualSpec, Spec, duration_us

Doubles = NDArray[np.floating[Any]]  # float64

# Eigenvalues this far below the largest are as small as the rounding of float32 vectors, which would decide the fit.
_SINGULAR = 1e-6
# For the plan: Newton steps, about, and the products with a matrix that they take where as-of times share a factor.
_STEPS, _SHARED_STEPS = {"squared": 1, "logistic": 7}, 110


@dataclass(frozen=True)
class Fit:
    """What is fitted, apart from what its columns are called: equal fits are made once."""

    embedding: str
    history: str
    half_life: str
    target: str | None
    regularization: float
    unobserved_weight: float
    scaling: float
    loss: str
    bias: bool
    refit_every: str | None

    @property
    def meaning(self) -> str:
        """What the score is."""
        target = "1" if self.target is None else self.target
        half, loss, meant = "", "Σ c (y − u·x)²", f"y = {target}"
        if self.loss == "logistic":
            half, loss, meant = "½ ", "Σ c log(1 + exp(−s u·x))", f"s = sign of ({target})"
        if self.unobserved_weight:
            loss += f" + {half}{self.unobserved_weight:g} Σ_items (u·x)²"
        loss += f" + {half}{self.regularization:g}"
        if self.scaling:
            loss += f" (events + {self.unobserved_weight:g} · items)^{self.scaling:g}"
        weight = "c = weight" if self.half_life == "none" else f"c = weight · 2^(−age / {self.half_life})"
        bias = ", x with a constant 1" if self.bias else ""
        refit = f", as of the time floored to {self.refit_every}" if self.refit_every else ""
        where = f"over `{self.history}` in `{self.embedding}`"
        return f"u·x of the u with least {loss} ‖u‖² {where}; {meant}, {weight}{bias}{refit}"

    @property
    def singular(self) -> str:
        """What to say when its matrix has no inverse in float64."""
        return (
            f"dual fit over `{self.history}` in `{self.embedding}`: regularization = {self.regularization:g} is so "
            "small against the weights that float64 cannot solve a fit. Raise `regularization`, or lower `weight`"
        )

    def asked(self, candidates: Candidates) -> Candidates:
        """The candidates as of the times at which their users are fitted."""
        if self.refit_every is None:
            return candidates
        step = duration_us(self.refit_every)
        return replace(candidates, times=candidates.times // step * step)

    @property
    def sd_meaning(self) -> str:
        """What its standard deviation is."""
        weight = "c" if self.loss == "squared" else "c σ(1 − σ)"
        return f"√(xᵀ (Σ {weight} x xᵀ + w0 Σ_items x xᵀ + λ I)⁻¹ x) of the same fit"


@dataclass(frozen=True)
class Estimate:
    """What a column holds: the `score` of a fit, or its `sd`."""

    kind: str
    fit: Fit


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: DualSpec) -> Iterator[Column]:
    """Columns of one group: each table with each history."""
    for fit in fits(spec, group):
        stem = f"{fit.embedding}__{fit.history}__dual_{group.name + '_' if group.name else ''}"
        yield Column(stem + "score", "Float32", "dual", fit.meaning, Estimate("score", fit))
        if group.sd:
            yield Column(stem + "sd", "Float32", "dual", fit.sd_meaning, Estimate("sd", fit))


def fits(spec: Spec, group: DualSpec) -> Iterator[Fit]:
    """The fits of one group."""
    for embedding in spec.embeddings_of(group):
        for history in spec.histories_of(group):
            yield Fit(
                embedding,
                history,
                group.half_life,
                group.target,
                group.regularization,
                group.unobserved_weight,
                group.scaling,
                group.loss,
                group.bias,
                group.refit_every,
            )


def all_fits(spec: Spec) -> list[Fit]:
    """The different fits of a spec."""
    return list(dict.fromkeys(fit for group in spec.dual for fit in fits(spec, group)))


def vector_files(spec: Spec) -> dict[str, Fit]:
    """The files of user vectors that a spec asks for, with the fit of each."""
    return {group.user_vectors: next(fits(spec, group)) for group in spec.dual if group.user_vectors is not None}


# --- shared state ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A fit with the table it is made on."""

    fit: Fit
    matrix: EmbeddingMatrix
    basis: Basis

    @property
    def dim(self) -> int:
        """Unknowns of a vector, that of the bias included."""
        return len(self.basis.eigenvalues)

    @property
    def with_bias(self) -> bool:
        return self.fit.bias

    @property
    def meaning(self) -> str:
        return self.fit.meaning

    def original(self, vectors: NDArray[np.float32]) -> Doubles:
        """Vectors of users in the coordinates of the table."""
        return self.basis.original(vectors)

    def prior(self, events: int) -> Doubles:
        """The diagonal of P = w0 Λ + λ (events + w0 N)^ν: (D)."""
        fit = self.fit
        strength = fit.regularization * (events + fit.unobserved_weight * self.basis.items) ** fit.scaling
        prior: Doubles = fit.unobserved_weight * self.basis.eigenvalues + strength
        return prior

    def check(self) -> None:
        """Without regularization, the Gramian alone must make every fit unique."""
        prior = self.prior(1)
        if prior.min() <= _SINGULAR * prior.max() and self.fit.regularization == 0:
            raise DataError(
                f"embeddings {self.fit.embedding}: its vectors do not span their {len(prior)} dimensions, so with "
                "regularization = 0 a dual fit is not unique. Set regularization above 0"
            )


def sees_prefixes(spec: Spec, fit: Fit) -> bool:
    """Whether all as-of times of a user see the first events of the history, under one prior."""
    rules = spec.history(fit.history)
    return fit.scaling == 0 and rules.window is None and rules.max_events is None


def is_additive(spec: Spec, fit: Fit) -> bool:
    """Whether the system of an as-of time is that of an earlier one, decayed, with more events."""
    return fit.loss == "squared" and sees_prefixes(spec, fit)


@dataclass(frozen=True)
class Work:
    """What a fit would cost."""

    systems: int
    products: float
    """Multiplications."""


def expected_work(spec: Spec, fit: Fit, history: History, asked: Candidates, dim: int) -> Work:
    """The systems of a fit and about how many multiplications they take, from the counts of events alone."""
    asked = fit.asked(asked)
    count = visible(spec, fit.history, history, asked).count
    users, times = asked.users, asked.times
    change = (np.diff(users) != 0) | (np.diff(times) != 0)
    n = count[np.append(np.flatnonzero(change), len(users) - 1)] if len(users) else count
    systems = int(np.count_nonzero(n))
    longest = np.maximum.reduceat(count, asked.indptr[:-1][np.diff(asked.indptr) > 0]) if len(users) else count
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
    return Work(systems, float(products))
