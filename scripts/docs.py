"""Write the generated documentation: parts of the pages in docs/reference, the JSON Schemas and the import drawing.

The generated part of a page is between two comments, `<!-- generated: NAME -->` and `<!-- end of generated -->`; the
rest is written by hand. `--check` writes nothing and fails if a file is out of step.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import typer
from imports import drawing
from pydantic import BaseModel

from extembed_cli.cli.main import app
from extembed_cli.errors import ExtembedError, InternalError
from extembed_cli.evaluate.schema import Report
from extembed_cli.features.aggregate.statistics import COSINES, TABLE_COUNTERS
from extembed_cli.features.counters.statistics import COUNTERS
from extembed_cli.features.registry import output_columns
from extembed_cli.features.technique.definitions import Definition
from extembed_cli.features.within import MEANINGS
from extembed_cli.jobs.explained_schema import ExplainedRow
from extembed_cli.jobs.options import RunOptions
from extembed_cli.jobs.run import run_job
from extembed_cli.spec.defaults import REGULARIZATION
from extembed_cli.spec.groups import Group
from extembed_cli.spec.loading import build_spec, load_spec
from extembed_cli.spec.model import HistorySpec, Spec, WithinSpec, spec_type
from extembed_cli.spec.requirements import Requirements
from extembed_cli.spec.tables import (
    Columns,
    DerivedSpec,
    EmbeddingSpec,
    LogColumns,
    TableColumns,
    UserEmbeddingSpec,
    UserTableColumns,
)
from extembed_cli.system.progress import Watch

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
_NAMES = ("embedding", "users", "history")  # of the spec whose columns the reference shows
END = "<!-- end of generated -->"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    names = list(head)
    lines = [" | ".join(cells) for cells in (names, ["---"] * len(names), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


# --- columns -----------------------------------------------------------------------------------------


def column_reference() -> str:
    """Return a table of all columns of a spec with meaning and type."""
    rows = []
    tables: list[dict[str, Definition[Any, Any]]] = [COUNTERS, TABLE_COUNTERS, COSINES]
    for definition in (entry for definitions in tables for entry in definitions.values()):
        label = "" if definition.arguments is None else definition.arguments.label
        column = definition.column.format(h="{history}", e="{embedding}", n="", a="{" + label + "}", d="__hl{H}")
        meaning = definition.meaning.format(
            h="`history`", partner="item", t="`embedding`", a=label, d="decay H", y="target"
        )
        rows.append([f"`{column}`", meaning, definition.dtype])
    rows += [[f"`{name}`", meaning, dtype] for name, meaning, dtype in _columns({"direct": [{}]})]
    for keys, condition in _DUAL.items():
        for name, meaning, dtype in _dual_columns(dict(keys)):
            rows.append([f"`{name}`{condition}", meaning, dtype])
    rows.append(["`neural_score`", "the trained model's logit", "Float32"])
    for kind, meaning in MEANINGS.items():
        rows.append([f"`{{column}}__within_{kind}`", meaning.format(name="column", by="request"), "Float32"])
    return table(["column", "meaning", "type"], rows)


_DUAL = {(): "", (("loss", "logistic"),): ', `loss = "logistic"`', (("side", "all"),): ""}


def _dual_columns(keys: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    group = {"sd": True, "unobserved_weight": 0.1, "target": "target", **keys}
    for name, meaning, dtype in _columns({"dual": [group]}):
        yield name, meaning.replace("0.1 Σ", "w0 Σ").replace(f"{REGULARIZATION:g} ‖u‖²", "λ ‖u‖²"), dtype


def _columns(groups: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the columns of groups as name, meaning and type, with placeholders for the names of a spec."""
    tables = {"embeddings": {"embedding": {"path": ""}}, "user_embeddings": {"users": {"path": ""}}}
    inputs = {"interactions": "", "candidates": "", **tables, "histories": {"history": {}}}
    for column in output_columns(build_spec({**inputs, **groups}, "docs")):
        parts = [f"{{{part}}}" if part in _NAMES else part for part in column.name.split("__")]
        yield "__".join(parts), column.meaning.replace("`", ""), column.dtype


# --- commands ----------------------------------------------------------------------------------------


def command_reference() -> str:
    """Return the help text of every command, as a terminal shows it."""
    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    commands |= {f"neural {name}": command for name, command in commands.pop("neural").commands.items()}
    blocks = []
    for name, command in commands.items():
        context = command.make_context(
            f"extembed {name}", [], resilient_parsing=True, help_option_names=["-h", "--help"]
        )
        blocks.append(f"## extembed {name}\n\n```text\n{command.get_help(context).rstrip()}\n```")
    return "\n\n".join(blocks)


# --- spec --------------------------------------------------------------------------------------------


def spec_reference() -> str:
    """Return a table of the keys of each table of a spec, from the docstrings of the fields."""
    tables: dict[str, type[BaseModel]] = {
        "Top of the file": Spec,
        "[columns]": Columns,
        "[columns.candidates], [columns.interactions]": LogColumns,
        "[embeddings.X]": EmbeddingSpec,
        "[embeddings.X.columns]": TableColumns,
        "[user_embeddings.X]": UserEmbeddingSpec,
        "[user_embeddings.X.columns]": UserTableColumns,
        "[user_embeddings.X.from]": DerivedSpec,
        "[histories.X]": HistorySpec,
        "[within]": WithinSpec,
        "[require]": Requirements,
        **{f"[[{technique}]]": group for technique, group in Group.known.items()},
    }
    blocks = []
    for title, model in tables.items():
        rows = []
        for key, field in model.model_fields.items():
            plain = isinstance(field.default, str | bool | int | float | tuple) and field.default != ()
            default = "required" if field.is_required() else f"`{json.dumps(field.default)}`" if plain else ""
            rows.append([f"`{field.alias or key}`", default, " ".join((field.description or "").split())])
        heading = title if title[0] != "[" else ", ".join(f"`{part}`" for part in title.split(", "))
        blocks.append(f"## {heading}\n\n{table(['key', 'default', 'meaning'], rows)}")
    return "\n\n".join(blocks)


def schema(model: type[BaseModel], mode: Literal["validation", "serialization"] = "validation") -> str:
    """Return the JSON Schema of the spec, for completion in editors, or of the report of an evaluation."""
    data = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(mode=mode)}
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


# --- exit codes --------------------------------------------------------------------------------------

WHAT_TO_DO = {
    0: "Nothing.",
    1: "Fix the data as the message says, or set the key that it names.",
    2: "Fix the spec or the flag that the message names.",
    3: "Check the path in the message. Write a torn file again.",
    4: "Wait for the other run, or let this one wait with `--wait SECONDS`.",
    5: "Raise `--memory`, lower `--workers`, or free space on the disk.",
    6: "Add rows as the report says, mend the leak that it names, or leave out `--strict`.",
    InternalError.exit_code: "Run again with `-v -v` for a traceback, and report the bug.",
    128 + signal.SIGINT: "Nothing.",
    128 + signal.SIGTERM: "Nothing.",
}


def exit_codes() -> str:
    """Return a table of all exit codes: those of the error classes and the others."""
    meanings = {
        0: "Done.",
        **{error.exit_code: (error.__doc__ or "").splitlines()[0] for error in ExtembedError.__subclasses__()},
        128 + signal.SIGINT: "Stopped by Ctrl-C (SIGINT). The old output is untouched.",
        128 + signal.SIGTERM: "Stopped by SIGTERM. The old output is untouched.",
    }
    return table(
        ["code", "meaning", "what to do"],
        ([f"{code}", meaning, _meaning(WHAT_TO_DO, code, "exit code")] for code, meaning in sorted(meanings.items())),
    )


# --- run report --------------------------------------------------------------------------------------

KEYS = {
    "version": "Version of extembed.",
    "output": "Path of the feature file or directory; null where only vectors were written.",
    "output_sha256": "SHA-256 of the feature file, or of the manifest if the output is a directory.",
    "rows_in": "Rows of the candidates.",
    "rows_out": "Rows of the output, always the same as `rows_in`.",
    "columns": "Number of feature columns.",
    "column_names": "Their names, in the order of the file.",
    "user_vectors": "Files of user vectors that were written.",
    "user_vectors[].path": "Path of the file.",
    "user_vectors[].rows": "Users in it.",
    "user_vectors[].sha256": "SHA-256 of the file.",
    "all_vectors": "Files with the vectors of everybody's model that were written, with the same three keys.",
    "item_vectors": "Files of item vectors that were written, with the same three keys.",
    "digests": "Digests of the inputs.",
    "digests.interactions": "The log.",
    "digests.candidates": "The candidates.",
    "digests.embeddings.NAME": "An embedding table.",
    "digests.user_embeddings.NAME": "A table of users. Only in runs of a spec with one.",
    "digests.models": "SHA-256 of the weights of each neural model, by column. Only in runs with a `[[neural]]` group.",
    "digests.*.files": "Number of files.",
    "digests.*.rows": "Their rows.",
    "digests.*.bytes": "Their size.",
    "digests.*.sha256": "SHA-256 over their content.",
    "spec": "The spec of the run, without paths.",
    "input_paths": "Paths of the inputs as the spec has them, with the keys of `digests`, for `extembed verify`.",
    "started": "When the run began, UTC.",
    "seconds": "Duration of the run.",
    "engine": "Where the job ran: `local` or `spark`.",
    "workers": "Number of threads; on Spark its default parallelism.",
    "shards": "Number of shards of users; on Spark of buckets.",
    "master": "The master of Spark. Only in runs there, like the next two.",
    "spark": "The version of Spark.",
    "tasks": "Number of Spark's tasks.",
    "resumed_shards": "Number of shards that a killed run had finished before.",
    "cached_embeddings": "Names of the tables that came from `--cache`.",
    "inputs.interactions.rows": "Rows of the log.",
    "inputs.interactions.dropped": "Unusable rows by reason: a null user, item or time, a null or zero weight.",
    "inputs.interactions.null_targets": "Usable events without a target, by the target's expression.",
    "inputs.interactions.of_users_without_candidates": "Usable events that no candidate can see. In a spec of item "
    "histories alone the key is `of_items_without_candidates`.",
    "inputs.interactions.used": "The other usable events.",
    "inputs.histories": "Used events of each history that has a `where`.",
    "inputs.candidates.rows": "Rows of the candidates.",
    "inputs.candidates.users": "Users with a candidate.",
    "inputs.candidates.null_user_or_time": "Candidates without a user or a time. All their features are null.",
    "inputs.candidates.null_item": "Candidates without an item. Their counters are known, the rest is null.",
    "inputs.user_embeddings.NAME": "The same keys for a table of users. Only in runs of a spec with one. Of a table "
    "that `[[direct]]` groups alone use, `coverage.events` is null and `items_with_vector` is absent.",
    "inputs.embeddings.NAME.rows": "Rows of the table.",
    "inputs.embeddings.NAME.dim": "Length of its vectors.",
    "inputs.embeddings.NAME.items_with_vector": "Items of the log or the candidates that have a vector in it.",
    "inputs.embeddings.NAME.coverage.events": "Share of the used events whose item has a vector.",
    "inputs.embeddings.NAME.coverage.candidates": "Share of the candidates whose item has a vector.",
    "inputs.embeddings.NAME.null_ids": "Rows without an item id, which are skipped. Only where there are any.",
    "inputs.embeddings.NAME.replaced_duplicates": "Rows that a later one replaced. Only where there are any.",
    "inputs.embeddings.NAME.bad_vectors": "Bad vectors that count as missing. Only where there are any.",
    "candidates_in_own_history": "Candidates whose item is in their user's visible history. In a log of exposures that "
    "is a repeat; in a replay of interactions it may be a leak.",
    "cosines": "Cosines of technique 1 that were computed.",
    "dual": "The fits of technique 2; null without a `[[dual]]` group.",
    "dual.systems": "Fits: users times distinct as-of times, for each group.",
    "dual.primal_solves": "Linear systems solved in the d × d form.",
    "dual.dual_solves": "Linear systems solved in the n × n form. One may serve many fits.",
    "dual.largest_relative_residual": "Largest relative residual of a fit. Above 1e-6 the run warns.",
    "dual.largest_logistic_gradient": "Largest gradient of a logistic fit. Above 1e-6 the run warns.",
    "dual.users_not_converged": "Users with a logistic fit above 1e-6.",
    "dual.examples_not_converged": "Ids of up to 20 of them.",
    "stages.STAGE.seconds": "Seconds of a stage; of the stages inside `compute` per worker.",
    "stages.STAGE.rows": "Rows that went through it: events, candidates, vectors, cosines or systems.",
    "stages.STAGE.bytes": "Bytes read, written or gathered.",
    "stages.STAGE.rows_per_second": "Rows divided by seconds; null where the seconds are 0.",
    "seconds_by_technique": "Seconds of each step of the ladder, such as `counters` and `aggregate`, per worker.",
    "peak_memory_bytes": "Largest resident memory, [pages of mapped files included](../limits.md#memory); on Spark "
    "those of the driver's Python alone.",
    "warnings": "The warnings of the run.",
    "summary": "The last line of the log.",
    "checksum": "SHA-256 of the other keys, by which `extembed verify` finds a changed report.",
}  # fmt: skip
STAGES = {
    "check": "Open all inputs; check paths, columns and types.",
    "derive": "Derive tables of users from their histories.",
    "survey": 'Read all events by item, for the fits of `side = "all"`.',
    "spark": "Start Spark.",
    "read": "Read events and candidates.",
    "shard": "Split them into shards of users.",
    "residuals": "Compute residual targets, on Spark.",
    "tables": "Write tables of Spark to Parquet.",
    "vectors": "Read the embedding tables.",
    "compute": "Compute all features. The stages below `write` are inside.",
    "encode": "Order events and candidates by user and time. With one shard it runs beside `vectors`.",
    "write": "Write and commit the output.",
    "gather": "Gather the vectors of candidates and events (technique 1).",
    "cosines": "Multiply them.",
    "means": "Decayed means of the vectors.",
    "statistics": "Percentiles, shares, deviations, minima and maxima.",
    "solve": "Solve the fits of technique 2.",
    "score": "Score with neural models.",
}
SOME_RUNS = {
    "digests.models",
    "inputs.embeddings.NAME.null_ids", "inputs.embeddings.NAME.replaced_duplicates",
    "inputs.embeddings.NAME.bad_vectors", "score", "derive", "master", "spark", "tasks", "residuals", "tables",
}  # fmt: skip
"""Keys and stages that the run on the sample data does not have."""
_NAMED = {
    "digests.embeddings": "NAME", "inputs.embeddings": "NAME", "stages": "STAGE",
    "digests.user_embeddings": "NAME", "inputs.user_embeddings": "NAME",
}  # fmt: skip
"""Tables whose keys are names of the user."""
_WHOLE = {
    "spec", "input_paths", "seconds_by_technique", "inputs.histories", "inputs.interactions.dropped",
    "inputs.interactions.null_targets", "inputs.user_embeddings.NAME",
}  # fmt: skip
"""Tables that have one description for all keys."""


def run_report() -> str:
    """Return a table of all keys of the report of a real run on the sample data, with their meanings."""
    report = _run_of_sample()
    keys = list(dict.fromkeys(_keys(report)))
    stages = list(report["stages"])
    unused = {*KEYS, *STAGES} - {*keys, *stages} - SOME_RUNS
    if unused:
        raise SystemExit(f"scripts/docs.py: no run report has {', '.join(sorted(unused))}")
    rows = [[f"`{key}`", _meaning(KEYS, key, "key of the run report")] for key in keys]
    rows += [[f"`{key}`", meaning] for key, meaning in KEYS.items() if key in SOME_RUNS]
    rows.sort(key=lambda row: list(KEYS).index(row[0].strip("`")))
    stage_rows = [[f"`{stage}`", meaning] for stage, meaning in STAGES.items() if _meaning(STAGES, stage, "stage")]
    for stage in stages:
        _meaning(STAGES, stage, "stage")
    return f"{table(['key', 'meaning'], rows)}\n\n## Stages\n\n{table(['stage', 'what it does'], stage_rows)}"


def _run_of_sample() -> dict[str, Any]:
    with TemporaryDirectory() as name:
        overrides = [f"dual.0.user_vectors={name}/users.parquet"]
        spec = load_spec(ROOT / "sample_data" / "spec.toml", overrides, f"{name}/features.parquet")
        return run_job(spec, RunOptions(workers=1), Watch())


def _keys(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all keys, with one path for keys that are names and one for the digests of all inputs."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        yield path
        yield from _keys(value[0], f"{path}[]")
    elif isinstance(value, dict) and path not in _WHOLE:
        is_digest = path.startswith("digests.") and "sha256" in value
        if path in {"digests", "dual"} or is_digest:
            yield path
        for key, inner in value.items():
            below = f"{path}.{_NAMED.get(path, key)}" if path else key
            yield from _keys(inner, f"digests.*.{key}" if is_digest else below)
    else:
        yield path


# --- pages -------------------------------------------------------------------------------------------


def _meaning(meanings: dict[Any, str], key: Any, what: str) -> str:
    if key not in meanings:
        raise SystemExit(f"scripts/docs.py: the {what} {key} has no meaning; write one")
    return meanings[key]


def generated() -> dict[Path, str]:
    """Return all generated files with their content."""
    parts = {
        "commands": command_reference(),
        "spec": spec_reference(),
        "columns": column_reference(),
        "run-report": run_report(),
        "exit-codes": exit_codes(),
    }
    pages = {REFERENCE / f"{name}.md": _page(REFERENCE / f"{name}.md", name, part) for name, part in parts.items()}
    return {
        **pages,
        REFERENCE / "spec.schema.json": schema(spec_type()),
        REFERENCE / "report.schema.json": schema(Report, "serialization"),
        REFERENCE / "explain.schema.json": schema(ExplainedRow, "serialization"),
        DOCS / "imports.svg": drawing(),
    }


def _page(path: Path, name: str, content: str) -> str:
    """Return the page with a new generated part."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- generated: {name} -->\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path.relative_to(ROOT)}: no marks for {name}")
    return f"{before}{begin}\n{content}\n\n{end}{after}"


def main() -> None:
    stale = []
    for path, content in generated().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(content, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"out of step with the code: {', '.join(map(str, stale))}. Run `make docs`")
    print("written:" if stale else "generated docs are in step", *stale)


if __name__ == "__main__":
    main()
