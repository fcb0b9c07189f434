"""`extembed explain`: how the row of one candidate comes out of the events that it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import RUN, Cache, MachineFlags, Set, ShowFlags, SpecPath, option


@expand
def explain(
    *,
    spec: SpecPath,
    row: Annotated[
        int | None, option("--row", min=0, metavar="N", help="Row of the candidates; the first one is 0.")
    ] = None,
    user: Annotated[
        str | None, option("--user", metavar="ID", help="With --item and --at: a candidate that is in no file.")
    ] = None,
    item: Annotated[str | None, option("--item", metavar="ID", help="Its item. Binary ids are written in hex.")] = None,
    at: Annotated[
        str | None,
        option("--at", metavar="TIME", help="Its time, ISO 8601 (naive = UTC).  [default: `as_of` of the spec]"),
    ] = None,
    columns: Annotated[
        list[str] | None,
        option("--columns", metavar="PATTERN", help="Only these columns, such as `text__liked__*`. Repeatable."),
    ] = None,
    limit: Annotated[
        int,
        option(
            "--limit",
            min=0,
            metavar="N",
            help="Show this many of the newest events of a history, and those that a value is of. --json has all.",
        ),
    ] = 20,
    overrides: Set = None,
    scratch: Annotated[
        Path | None,
        option(
            "--scratch",
            metavar="DIR",
            file_okay=False,
            help="Folder on a local disk for data that does not fit into memory.  [default: for temporary files]",
            panel=RUN,
        ),
    ] = None,
    cache: Cache = None,
    how: MachineFlags,
    show: ShowFlags,
) -> None:
    """Explain the values of one candidate.

    Shows the events that it sees, why it does not see others, and how each value comes out of them. Writes nothing.

    Example:  extembed explain sample_data/spec.toml --row 1234 --columns 'text__liked__*'
    """
    from extembed_cli.cli.explanation_text import show_explanation
    from extembed_cli.jobs.explain import Question, explain_job
    from extembed_cli.jobs.one_candidate import candidate_of_flags
    from extembed_cli.jobs.specs import load_spec

    question = Question(candidate_of_flags(row, user, item, at), tuple(columns or ()))
    options = how.run_options(scratch=scratch, cache=cache)
    with console.watching(show.quiet, show.verbose) as watch:
        explanation = explain_job(load_spec(spec, overrides or ()), question, options, watch)
    if show.json:
        console.result_json(explanation.model_dump(mode="json"))
    else:
        show_explanation(explanation, limit)
