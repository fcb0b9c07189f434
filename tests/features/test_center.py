"""`center` of a group overrides that of the table; both matrices come from one read of the table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import World, extembed, run_spec, soak
from helpers.drawn import same_bytes

from extembed_cli.data.inputs import embeddings
from extembed_cli.errors import SpecError
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch

BOTH = """
[[aggregate]]
center = true
[[aggregate]]
name = "raw"
center = false
[[dual]]
center = true
unobserved_weight = 0.1
[[dual]]
name = "raw"
center = false
"""


@pytest.mark.parametrize("center", [True, False])
def test_a_group_overrides_its_table(world: World, center: bool) -> None:
    """The columns are those of a table that is centred or not."""
    groups = "[[aggregate]]\n{0}[[dual]]\nunobserved_weight = 0.1\n{0}"
    of_group = run_spec(with_center(world, not center, groups.format(f"center = {str(center).lower()}\n")))
    of_table = run_spec(with_center(world, center, groups.format("")))
    same_bytes(of_group, of_table)


def with_center(world: World, center: bool, groups: str) -> Path:
    spec = world.spec(groups)
    table = 'path = "text.parquet"\n'
    assert table in spec.read_text()
    spec.write_text(spec.read_text().replace(table, f"{table}center = {str(center).lower()}\n"))
    return spec


@pytest.mark.parametrize("how", [soak("in memory"), "in mapped shards", soak("cached"), "from the cache"])
def test_both_matrices_come_from_one_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reads: list[Any] = []
    fill = embeddings._fill
    monkeypatch.setattr(embeddings, "_fill", lambda *args: [reads.append(args), fill(*args)][1])
    spec = load_spec(world.spec(BOTH))
    cache = tmp_path / "cache" if "cache" in how else None
    if how == "from the cache":
        run_job(spec, RunOptions(workers=2, cache=cache), Watch())
        reads.clear()
    layout = Layout(shards=3, mapped=True) if how == "in mapped shards" else None
    report = run_job(spec, RunOptions(workers=2, cache=cache, layout=layout), Watch())
    assert len(reads) == (how != "from the cache")
    assert report["cached_embeddings"] == ["text"] * (how == "from the cache")
    output = world.output()
    for center, prefix, dual in ((True, "", "dual_score"), (False, "raw_", "dual_raw_score")):
        weight = "unobserved_weight = 0.1\n" if center else ""
        alone = run_spec(with_center(world, center, f"[[aggregate]]\n[[dual]]\n{weight}"))
        assert output[f"text__all__{dual}"].equals(alone["text__all__dual_score"], null_equal=True)
        for name in ("cos_mean__hl30d", "cos_to_mean__hl30d", "cos_max"):
            assert output[f"text__all__{prefix}{name}"].equals(alone[f"text__all__{name}"], null_equal=True)


def test_the_meaning_of_a_column_says_that_its_vectors_are_centred(world: World) -> None:
    columns = extembed("columns", world.spec(BOTH), "--json").ok().json["columns"]
    meanings = {column["name"]: column["meaning"] for column in columns}
    for name, where in (("cos_max", "`text` (centred)"), ("raw_cos_max", "`text`"), ("dual_score", "`text` (centred)")):
        assert re.search(rf"in {re.escape(where)}(;|$)", meanings[f"text__all__{name}"])


def test_two_groups_with_different_centring_need_a_name(world: World) -> None:
    spec = load_spec(world.spec("[[aggregate]]\n[[aggregate]]\ncenter = true\n"))
    with pytest.raises(SpecError, match=r"two groups define the column `.*` differently; give one of them a `name`"):
        run_job(spec, RunOptions(workers=1), Watch())


def test_flags_of_a_target(world: World) -> None:
    inputs = [*("-i", world.folder / "interactions.parquet", "-c", world.folder / "candidates.parquet")]
    inputs += ["-e", f"text={world.folder / 'text.parquet'}", "-o", world.folder / "flags.parquet", "-q"]
    keys = ["--target", "rating", "--residual", "item", "--prior-events", "2", "--residual-half-life", "30d"]
    extembed("aggregate", *inputs, *keys, "--temperature", "0.1", "--top", "3", "--half-life", "7d").ok()
    text = 'target = "rating"\nresidual = "item"\nprior_events = 2.0\nresidual_half_life = "30d"\n'
    output = run_spec(world.spec(f'[[aggregate]]\nhalf_lives = ["7d"]\n{text}temperatures = [0.1]\ntop = [3]\n'))
    same_bytes(output, world.output("flags.parquet"))
    extembed("dual", *inputs, *keys).ok()
    same_bytes(run_spec(world.spec(f"[[dual]]\n{text}")), world.output("flags.parquet"))
