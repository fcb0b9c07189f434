"""`extembed columns` of an output, `extembed_cli.feature_columns`, and the description of an output for CatBoost."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import World, extembed, small_world
from helpers.commands import only_json
from helpers.faults import undisturbed

import extembed_cli
from extembed_cli import feature_columns
from extembed_cli.errors import ExtembedError, InputError, SpecError

SPEC = "[[aggregate]]\n[[dual]]\nuser_vectors = 'users.parquet'\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Provides `out.parquet`, with the columns of two runs: the second has added to the output of the first."""
    world = small_world(tmp_path_factory.mktemp("columns"))
    extembed("run", world.spec("[[aggregate]]\nname = 'first'\n"), "-o", world.folder / "first.parquet").ok()
    spec = world.spec(SPEC)
    spec.write_text(spec.read_text().replace("candidates.parquet", "first.parquet"))
    extembed("run", spec).ok()
    return world


def own_columns(world: World) -> list[str]:
    return pl.read_parquet_schema(world.folder / "out.parquet").names()[4:]


def test_all_features_of_a_file_are_listed_with_technique_and_meaning(written: World) -> None:
    columns = feature_columns(written.folder / "out.parquet")
    assert [column.name for column in columns] == own_columns(written)
    kinds = pl.read_parquet_schema(written.folder / "out.parquet")
    assert [column.dtype for column in columns] == [str(kinds[column.name]) for column in columns]
    techniques = [column.technique for column in columns]
    assert list(dict.fromkeys(techniques)) == ["counters", "aggregate", "dual"]
    assert techniques != sorted(techniques)  # those of the first run come first
    assert all(column.meaning and column.owner == "user" and not column.out_of_time for column in columns)
    shown = extembed("columns", written.folder / "out.parquet").ok().out
    assert shown.splitlines() == ["\t".join((c.name, c.dtype, c.technique, c.meaning)) for c in columns]
    names = extembed("columns", written.folder / "out.parquet", "--names").ok().out
    assert names.splitlines() == own_columns(written)


def test_a_spec_and_its_output_have_the_same_columns(world: World) -> None:
    spec = world.spec(SPEC)
    undisturbed("run", spec, "-o", world.folder / "parts").ok()
    listed = only_json(extembed("columns", spec, "--json").ok().out)
    for output in (world.folder / "parts", world.folder / "parts" / "*.parquet"):
        assert only_json(extembed("columns", output, "--json").ok().out) == listed
    assert set(listed["columns"][0]) == {
        "name", "dtype", "technique", "meaning", "owner", "trained_until", "out_of_time",
    }  # fmt: skip


def test_a_description_does_not_replace_its_source(written: World) -> None:
    before = (written.folder / "out.parquet").read_bytes()
    done = extembed("columns", "out.parquet", "--catboost", "out.parquet", cwd=written.folder)
    done.failed(2, "out.parquet: the output would overwrite an input")
    assert (written.folder / "out.parquet").read_bytes() == before


def test_columns_of_some_techniques(written: World) -> None:
    output, spec = written.folder / "out.parquet", written.folder / "spec.toml"
    dual = [column.name for column in feature_columns(output, ["dual"])]
    assert feature_columns(output, "dual") == feature_columns(output, ["dual"])
    assert dual == ["text__all__dual_score"]
    assert extembed("columns", output, "--names", "--technique", "dual").ok().out.split() == dual
    assert extembed("columns", spec, "--names", "--technique", "dual").ok().out.split() == dual
    both = extembed("columns", output, "--names", "--technique", "dual", "--technique", "counters").ok().out.split()
    assert set(both) > set(dual)
    for source in (output, spec):
        extembed("columns", source, "--technique", "neural").failed(2, "no columns of `neural`; it has counters")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("users.parquet",), 3, "no readable `extembed` metadata"),
        (("candidates.parquet",), 3, "no readable `extembed` metadata"),
        (("none.parquet",), 3, "none.parquet: no such file"),
        (("none.toml",), 2, "none.toml: no such spec file"),
        (("out.parquet", "--set", "lag=1d"), 2, "--set lag=1d: changes a spec"),
        (("out.parquet", "--label", "label"), 2, "add --catboost PATH"),
        (("spec.toml", "--catboost", "-"), 2, "spec.toml is a spec; name a feature file"),
        (("out.parquet", "--catboost", "-", "--label", "labl"), 2, "did you mean `label`?"),
        (("out.parquet", "--catboost", "-", "--group", "all__count"), 2, "is a feature of extembed"),
        (("out.parquet", "--catboost", "/proc/features.cd"), 2, "/proc/features.cd"),
    ],
)
def test_refusals(written: World, arguments: tuple[str, ...], code: int, part: str) -> None:
    assert extembed("columns", *arguments, cwd=written.folder).failed(code, part).out == ""


def test_a_description_for_catboost(written: World) -> None:
    output = ("columns", "out.parquet", "--catboost")
    extembed(*output, "new/features.cd", "--label", "label", "--group", "user_id", cwd=written.folder).ok()
    text = (written.folder / "new" / "features.cd").read_text()
    features = [f"{place}\tNum\t{name}" for place, name in enumerate(own_columns(written), 4)]
    roles = ["0\tGroupId\tuser_id", "1\tAuxiliary\titem_id", "2\tAuxiliary\ttimestamp", "3\tLabel\tlabel"]
    assert text.splitlines() == [*roles, *features]
    assert [path.name for path in (written.folder / "new").iterdir()] == ["features.cd"]
    dual = extembed(*output, "-", "--technique", "dual", cwd=written.folder).ok().out.splitlines()
    assert len(dual) == len(text.splitlines())
    assert [line.split("\t")[2] for line in dual if "\tNum\t" in line] == ["text__all__dual_score"]


def test_the_function_raises_our_errors(written: World) -> None:
    with pytest.raises(InputError, match=r"users\.parquet: has no readable `extembed` metadata"):
        feature_columns(str(written.folder / "users.parquet"))
    with pytest.raises(SpecError, match="has no columns of `neural`"):
        feature_columns(written.folder / "out.parquet", ["neural"])
    with pytest.raises(ExtembedError, match="no such file"):
        feature_columns(Path("none.parquet"))


def test_the_example_of_its_docstring_runs(written: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(written.folder / "out.parquet", "features.parquet")
    (example,) = (test for test in doctest.DocTestFinder().find(extembed_cli) if test.name.endswith("feature_columns"))
    assert len(example.examples) == 2
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_package_imports_no_data_library() -> None:
    code = "import extembed_cli, sys; sys.exit(any(name in sys.modules for name in ('pyarrow', 'polars', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
