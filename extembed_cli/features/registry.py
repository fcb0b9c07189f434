"""The techniques, in order of cost: the one place that lists them."""

from __future__ import annotations

from extembed_cli.errors import SpecError
from extembed_cli.features.aggregate.technique import Aggregate
from extembed_cli.features.counters.technique import Counters
from extembed_cli.features.direct.technique import Direct
from extembed_cli.features.dual.technique import Dual
from extembed_cli.features.neural.technique import Neural
from extembed_cli.features.technique.columns import Column
from extembed_cli.features.technique.protocol import Technique
from extembed_cli.features.within import within_columns
from extembed_cli.spec.model import Spec

TECHNIQUES: list[Technique] = [Counters(), Aggregate(), Direct(), Dual(), Neural()]


def techniques_of(spec: Spec) -> list[Technique]:
    """Return the techniques that a spec has groups of."""
    groups = spec.groups.values()
    return [each for each in TECHNIQUES if any(isinstance(group, each.group) for group in groups)]


def output_columns(spec: Spec) -> list[Column]:
    """Return the feature columns of a spec in their order."""
    columns = shard_columns(spec)
    return [*columns, *within_columns(spec, columns)]


def shard_columns(spec: Spec) -> list[Column]:
    """Return the columns that the groups define; columns that they define identically come once."""
    if spec.candidates is None:  # only vectors
        return []
    by_name: dict[str, Column] = {}
    for technique in techniques_of(spec):
        for column in technique.columns(spec):
            known = by_name.setdefault(column.name, column)
            if (known.technique, known.statistic) != (column.technique, column.statistic):
                raise SpecError(
                    f"two groups define the column `{column.name}` differently; give one of them a `name`. It is "
                    f"{known.meaning} — and {column.meaning}"
                )
    return list(by_name.values())


def whole_tables(spec: Spec) -> dict[str, list[str]]:
    """Return by table the keys that make features depend on all its rows: `center`, `unobserved_weight`."""
    sums: dict[str, list[str]] = {}
    survey = spec.survey()
    for of_pass in [*spec.passes(), *([] if survey is None else [survey])]:
        for technique in techniques_of(of_pass):
            for matrix in technique.matrices(of_pass):
                derived = matrix.table in of_pass.derivations()
                table = of_pass.derived(matrix.table).embedding if derived else matrix.table
                frozen, keys = of_pass.table(table).frozen, sums.setdefault(table, [])
                if matrix.center and "center" not in frozen:
                    keys.append("`center`")
                if "gramian" not in frozen and technique.needs_gramian(of_pass, matrix):
                    keys.append("`unobserved_weight`")
    return {name: list(dict.fromkeys(keys)) for name, keys in sums.items() if keys}


def technique_of_step(step: str) -> Technique:
    """Return the first technique whose columns belong to a step of the ladder of an evaluation."""
    return next(technique for technique in TECHNIQUES if technique.step == step)


def models_of(spec: Spec) -> dict[str, str]:
    """Return the folder of the trained model behind each column that has one."""
    return {column: folder for each in techniques_of(spec) for column, folder in each.models(spec).items()}
