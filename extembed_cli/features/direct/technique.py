"""Technique 1 without a history: the vectors of a candidate's item and user, compared with each other."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from extembed_cli.arrays import Doubles, Floats, Nums
from extembed_cli.data.outputs.shard_results import Tally
from extembed_cli.data.shards.matrices import EmbeddingMatrix
from extembed_cli.errors import DataError, Problems
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.explained import ExplainedCandidate
from extembed_cli.features.technique.explanation import Explanation
from extembed_cli.features.technique.protocol import Estimate, Prepared, ShardWork, State, Task, Technique
from extembed_cli.kernels.cosines import clipped, exact_cosines
from extembed_cli.spec.groups import DirectGroup
from extembed_cli.spec.model import Spec
from extembed_cli.spec.tables import Matrix

_FLOATS = 2**20  # vector elements gathered at a time
_SECONDS_PER_NUMBER = 3e-9  # measured on 2 cores: gathering and multiplying, for each dimension

Kind = Literal["cos", "dot"]
_MEANINGS: dict[Kind, str] = {
    "cos": "cosine of the user's vector in {u} with the item's vector in {e}",
    "dot": "product of the user's vector in {u} with the item's vector in {e}, with the norms of tables that are not "
    "normalised",
}


@dataclass(frozen=True)
class Product:
    """The content of a column: the product of two vectors, `cos` without their norms."""

    kind: Kind
    users: Matrix
    items: Matrix


class Direct(Technique):
    """Cosines and products of users with candidates."""

    group = DirectGroup
    step = "aggregate"

    def columns(self, spec: Spec) -> Iterator[Column]:
        for group in spec.of(DirectGroup):
            name = f"{group.name}_" if group.name else ""
            for users, items in _pairs(spec, group):
                for kind, meaning in _MEANINGS.items():
                    yield Column(
                        f"{users.table}__{items.table}__{name}{kind}",
                        "Float32",
                        "direct",
                        meaning.format(u=users.words, e=items.words),
                        Product(kind, users, items),
                        step=self.step,
                    )

    def check_dims(self, spec: Spec, dims: Mapping[str, int]) -> None:
        problems = Problems()
        for key, group in spec.groups.items():
            for users, items in _pairs(spec, group) if isinstance(group, DirectGroup) else ():
                with problems.collect():
                    _check_dims(key, users.table, items.table, dims)
        problems.raise_any()

    def prepare(self, spec: Spec, statistics: Sequence[Hashable], prepared: Prepared) -> DirectState:
        factors = {matrix: not spec.table(matrix.table).normalize for matrix in self.matrices(spec)}
        return DirectState([each for each in statistics if isinstance(each, Product)], factors)

    def seconds_per_candidate(self, spec: Spec, events: float) -> float:
        return sum(len(list(_pairs(spec, group))) for group in spec.of(DirectGroup)) * 1e-6

    def estimate(self, spec: Spec, work: ShardWork, dims: Mapping[str, int]) -> Estimate:
        pairs = [pair for group in spec.of(DirectGroup) for pair in _pairs(spec, group)]
        numbers = sum(dims[items.table] for _, items in pairs) * len(work.candidates.rows)
        return Estimate(numbers * _SECONDS_PER_NUMBER)


def _pairs(spec: Spec, group: DirectGroup) -> Iterator[tuple[Matrix, Matrix]]:
    """Yield the tables of users with those of items."""
    for users in spec.tables_of(group, "user_embeddings"):
        for items in spec.tables_of(group, "embeddings"):
            yield spec.matrix(users, group), spec.matrix(items, group)


def _check_dims(key: str, users: str, items: str, dims: Mapping[str, int]) -> None:
    if dims[users] != dims[items] and dims[users] and dims[items]:  # a table without a vector is reported when read
        raise DataError(
            f"{key}: the vectors of users in `{users}` have {dims[users]} dimensions, those of items in `{items}` "
            f"{dims[items]}. [[direct]] needs vectors of one space, such as those of two towers: name the tables that "
            "belong together with `user_embeddings` and `embeddings`"
        )


@dataclass(frozen=True)
class DirectState(State):
    """The products to compute."""

    products: list[Product]
    with_norms: dict[Matrix, bool]
    """Whether a vector's norm counts in a `dot`"""

    @property
    def passes(self) -> int:
        return 0  # they take hardly any time

    def tasks(self, work: ShardWork) -> Iterator[Task]:
        for users, items in dict.fromkeys((product.users, product.items) for product in self.products):
            rows = len(work.candidates.rows)
            values = {kind: np.full(rows, np.nan, np.float32) for kind in _MEANINGS}
            work.values.update({Product(kind, users, items): each for kind, each in values.items()})
            step = max(1, _FLOATS // work.embeddings[items].dim)
            for low in range(0, rows, step):
                yield partial(self._compute, work, users, items, values, slice(low, low + step))

    def explain(self, work: ShardWork, place: int, statistics: Sequence[Hashable]) -> dict[Hashable, Explanation]:
        candidate = ExplainedCandidate(work, place)
        return {each: self._explanation(candidate, each) for each in statistics if isinstance(each, Product)}

    def _explanation(self, candidate: ExplainedCandidate, product: Product) -> Explanation:
        work, at = candidate.work, slice(candidate.place, candidate.place + 1)
        users, items = work.owner_vectors[product.users], work.embeddings[product.items]
        user = users.slots_of(work.candidates.owners[at], work.candidates.times[at])
        item = items.slots_of(work.candidates.partners[at], work.candidates.times[at])
        without = [f"the user has no vector in {product.users.words}"] if user[0] == users.missing else []
        without += [why] if (why := candidate.without_vector(product.items)) else []
        if without:
            return Explanation(" and ".join(without))
        how = f"of the user's vector in {product.users.words} with that of {candidate.partner} in {product.items.words}"
        if product.kind == "cos":
            return Explanation(f"the cosine {how}")
        numbers = {
            "cosine": exact_cosines(users.vectors[user], items.vectors[item]),
            "norm of the user's": self._norms(product.users, users, user),
            "norm of the item's": self._norms(product.items, items, item),
        }
        return Explanation(f"the product {how}", {name: float(number[0]) for name, number in numbers.items()})

    def _compute(self, work: ShardWork, users: Matrix, items: Matrix, values: dict[Kind, Floats], at: slice) -> Tally:
        """Compute the products of some candidates."""
        began = time.perf_counter()
        candidates = work.candidates
        of_users, of_items = work.owner_vectors[users], work.embeddings[items]
        left = of_users.slots_of(candidates.owners[at], candidates.times[at])
        right = of_items.slots_of(candidates.partners[at], candidates.times[at])
        known = np.flatnonzero((left != of_users.missing) & (right != of_items.missing))
        left, right = left[known], right[known]
        cosines = exact_cosines(of_users.vectors[left], of_items.vectors[right])
        norms = self._norms(users, of_users, left) * self._norms(items, of_items, right)
        values["cos"][at][known] = clipped(cosines)
        values["dot"][at][known] = cosines * norms
        return Tally(seconds={Direct.step: time.perf_counter() - began})

    def _norms(self, matrix: Matrix, vectors: EmbeddingMatrix, slots: Nums) -> Doubles:
        return vectors.norms[slots] if self.with_norms[matrix] else np.ones(len(slots))
