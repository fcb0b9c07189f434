"""The fits of technique 2: their columns, and the state that all shards share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from extembed_cli.arrays import Doubles, Floats
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.errors import DataError
from extembed_cli.features.dual.bases import Basis
from extembed_cli.features.technique.columns import Column
from extembed_cli.histories.csr import Candidates
from extembed_cli.spec.durations import duration_us
from extembed_cli.spec.expressions import Expression
from extembed_cli.spec.groups import DualGroup
from extembed_cli.spec.model import Spec
from extembed_cli.spec.sides import Side
from extembed_cli.spec.tables import Matrix

# Eigenvalues this far below the largest are as small as the rounding of float32 vectors, which would decide the fit.
_SINGULAR = 1e-6
_STEP = "1d"  # of everybody's model, unless set


@dataclass(frozen=True)
class Fit:
    """One fit, apart from the names of its columns: equal fits are computed once."""

    matrix: Matrix
    history: str
    side: Side
    half_life: str
    target: Expression | None
    regularization: float
    unobserved_weight: float
    scaling: float
    loss: str
    bias: bool
    refit_every: str | None

    @property
    def is_of_all(self) -> bool:
        """Whether it is of everybody's events."""
        return self.side.owner == "all"

    @property
    def is_rotated(self) -> bool:
        """Whether its vectors are in the coordinates that diagonalise the Gramian."""
        return self.unobserved_weight > 0

    @property
    def embedding(self) -> str:
        """The name of its table."""
        return self.matrix.table

    @property
    def basis(self) -> tuple[Matrix, bool, bool]:
        """The coordinates of its vectors: the matrix, whether they are rotated, and whether they have a bias."""
        return self.matrix, self.is_rotated, self.bias

    @property
    def meaning(self) -> str:
        """The meaning of its score."""
        target = "1" if self.target is None else self.target.meaning
        half, loss, meant = "", "Σ c (y − u·x)²", f"y = {target}"
        if self.loss == "logistic":
            half, loss, meant = "½ ", "Σ c log(1 + exp(−s u·x))", f"s = sign of ({target})"
        if self.unobserved_weight:
            loss += f" + {half}{self.unobserved_weight:g} Σ_{self.side.partner}s (u·x)²"
        loss += f" + {half}{self.regularization:g}"
        if self.scaling:
            loss += f" (events + {self.unobserved_weight:g} · {self.side.partner}s)^{self.scaling:g}"
        weight = "c = weight" if self.half_life == "none" else f"c = weight · 2^(−age / {self.half_life})"
        bias = ", x with a constant 1" if self.bias else ""
        refit = f", as of the time floored to {self.refit_every}" if self.refit_every else ""
        where = f"over {self.side.words(self.history)} in {self.matrix.words}"
        return f"u·x of the u with least {loss} ‖u‖² {where}; {meant}, {weight}{bias}{refit}"

    @property
    def singular(self) -> str:
        """The error where its matrix has no inverse in float64."""
        return (
            f"dual fit over `{self.history}` in `{self.embedding}`: regularization = {self.regularization:g} is so "
            "small against the weights that float64 cannot solve a fit. Raise `regularization`, or lower `weight`"
        )

    @property
    def step_us(self) -> int:
        """Microseconds between the times of fits; 1 unless set."""
        return 1 if self.refit_every is None else duration_us(self.refit_every)

    def as_of(self, candidates: Candidates) -> Candidates:
        """Return the candidates as of the times at which their owners are fitted."""
        if self.refit_every is None:
            return candidates
        return replace(candidates, times=candidates.times // self.step_us * self.step_us)

    def prior(self, eigenvalues: Doubles, partners: int, events: int) -> Doubles:
        """Return the diagonal of P = w0 Λ + λ (events + w0 N)^ν in the coordinates of G = Q Λ Qᵀ: (D)."""
        prior: Doubles = self.unobserved_weight * eigenvalues + self.strength(partners, events)
        return prior

    def strength(self, partners: int, events: int) -> float:
        """Return λ (events + w0 N)^ν."""
        scale: float = (events + self.unobserved_weight * partners) ** self.scaling
        return self.regularization * scale

    def check(self, eigenvalues: Doubles, partners: int) -> None:
        """Raise where it is not unique: without regularization, the Gramian alone has to make it so."""
        prior = self.prior(eigenvalues, partners, 1)
        if prior.min() <= _SINGULAR * prior.max() and self.regularization == 0:
            raise DataError(
                f"embeddings {self.embedding}: its vectors do not span their {len(prior)} dimensions, so with "
                "regularization = 0 a dual fit is not unique. Set regularization above 0"
            )

    @property
    def sd_meaning(self) -> str:
        """The meaning of its standard deviation."""
        weight = "c" if self.loss == "squared" else "c σ(1 − σ)"
        return f"√(xᵀ (Σ {weight} x xᵀ + w0 Σ_{self.side.partner}s x xᵀ + λ I)⁻¹ x) of the same fit"


@dataclass(frozen=True)
class FitStatistic:
    """The content of a column: the `score` of a fit, or its `sd`."""

    kind: str
    fit: Fit


# --- spec -> columns ---------------------------------------------------------------------------------


def columns(spec: Spec, group: DualGroup) -> Iterator[Column]:
    """Yield the columns of one group, for each table with each history."""
    for fit in fits(spec, group):
        name = f"{group.name}_" if group.name else ""
        stem = f"{fit.embedding}__{fit.history}__{fit.side.prefix}dual_{name}"
        yield Column(stem + "score", "Float32", "dual", fit.meaning, FitStatistic("score", fit), fit.side.owner)
        if group.sd:
            yield Column(stem + "sd", "Float32", "dual", fit.sd_meaning, FitStatistic("sd", fit), fit.side.owner)


def fits(spec: Spec, group: DualGroup) -> Iterator[Fit]:
    """Yield the fits of one group."""
    for embedding in spec.embeddings_of(group):
        for history in spec.histories_of(group):
            yield Fit(
                spec.matrix(embedding, group),
                history,
                group.model_side,
                group.half_life,
                group.target_expression,
                group.regularization,
                group.unobserved_weight,
                group.scaling,
                group.loss,
                group.bias,
                group.refit_every or (_STEP if group.surveys else None),
            )


def _all_fits(spec: Spec) -> list[Fit]:
    """Return the different fits of a spec."""
    return list(dict.fromkeys(fit for group in spec.of(DualGroup) for fit in fits(spec, group)))


def owner_fits(spec: Spec) -> list[Fit]:
    """Return the fits of each owner's own events."""
    return [fit for fit in _all_fits(spec) if not fit.is_of_all]


def fits_of_all(spec: Spec) -> list[Fit]:
    """Return the fits of everybody's events."""
    return [fit for fit in _all_fits(spec) if fit.is_of_all]


# --- state -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedFit:
    """A fit with the vectors of its table."""

    fit: Fit
    matrix: EmbeddingMatrix
    basis: Basis

    @property
    def dim(self) -> int:
        """Numbers of an owner's vector, the bias included."""
        return len(self.basis.eigenvalues)

    @property
    def with_bias(self) -> bool:
        return self.fit.bias

    @property
    def meaning(self) -> str:
        return self.fit.meaning

    def original(self, vectors: Floats) -> Doubles:
        """Return the owner vectors (n, D) in the coordinates of the table."""
        return self.basis.original(vectors)

    def prior(self, events: int) -> Doubles:
        """Return the diagonal of P = w0 Λ + λ (events + w0 N)^ν: (D)."""
        return self.fit.prior(self.basis.eigenvalues, self.basis.partners, events)


def sees_prefixes(spec: Spec, fit: Fit) -> bool:
    """Whether all as-of times of an owner see the first events of the history, under one prior."""
    rules = spec.history(fit.history)
    return fit.scaling == 0 and rules.window is None and rules.max_events is None


def is_additive(spec: Spec, fit: Fit) -> bool:
    """Whether the system of an as-of time is that of an earlier one, decayed, with more events."""
    return fit.loss == "squared" and sees_prefixes(spec, fit)
