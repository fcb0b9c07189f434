"""The explanation of a row as people read it: aligned text, and on a terminal a table of the columns that wraps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from extembed_cli.cli import console
from extembed_cli.errors import counted
from extembed_cli.jobs.explained_schema import CandidatePart, ColumnPart, EventPart, ExplainedRow, HistoryPart
from extembed_cli.printable import printable

_SHORT = 20  # letters of a target that is written into the head of a table
_FEW = 3  # a column that is of so many events names them, so they are shown even if they are old

Cells = Sequence[str]


def show_explanation(explained: ExplainedRow, limit: int) -> None:
    """Print an explanation, with so many events of each history."""
    console.result(*_lines(explained, limit))
    head, rows = ("column", "value ", "how"), [_column(column) for column in explained.columns]
    if not sys.stdout.isatty():
        console.result(*console.aligned(head, rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name.rstrip(), justify="right" if name.endswith(" ") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _lines(explained: ExplainedRow, limit: int) -> Iterator[str]:
    """Yield the candidate and its histories."""
    about = explained.candidate
    which = "candidate" if about.row is None else f"row {about.row}"
    yield f"{which}: user {_id(about.user)}, item {_id(about.item)}, at {_time(about.time)} UTC"
    if about.as_of != about.time:
        yield f"as-of time {_time(about.as_of)} (as_of_step)"
    if about.sees_before != about.as_of:
        yield f"sees events before {_time(about.sees_before)} (lag)"
    yield from map(printable, explained.notes)
    for place, history in enumerate(explained.histories):
        yield ""
        yield from _history(history, about)
        if history.events:
            few = [column.events for column in explained.columns if column.histories == [place]]
            named = {number for events in few if len(events) <= _FEW for number in events}
            shown = [event for event in history.events if event.event <= limit or event.event in named]
            yield from console.aligned(*_events(history, shown))
            if left := len(history.events) - len(shown):
                yield f"… and {counted(left, 'more event')} (--limit; --json has all)"
    yield ""


def _history(history: HistoryPart, candidate: CandidatePart) -> Iterator[str]:
    """Yield how much of a history is visible, why the rest is not, and what the heads of its table stand for."""
    whose = f"history {history.history} of {history.side} {_id(history.owner)}"
    whose += "" if history.own else f" without user {_id(candidate.user)}"
    yield f"{whose}: {history.visible:,} of {counted(history.rows, 'interaction')} visible"
    for hidden in history.hidden:
        yield f"  hidden: {hidden.events:,} {printable(hidden.reason)}"
    for name, head in _targets(history).items():
        if name not in head:
            yield f"  {head} = {printable(name)}"
    for name, head in _parts(history).items():
        yield f"  {head} = its part of {name}"


def _targets(history: HistoryPart) -> dict[str, str]:
    """Return the heads of the targets of events: short ones are written out."""
    names = history.events[0].target if history.events else ()
    return {name: f"y = {name}" if len(name) <= _SHORT else f"y{place}" for place, name in enumerate(names, 1)}


def _parts(history: HistoryPart) -> dict[str, str]:
    """Return the heads of what events add to scores."""
    names = history.events[0].contribution if history.events else ()
    return {name: f"part{place}" for place, name in enumerate(names, 1)}


def _events(history: HistoryPart, events: Sequence[EventPart]) -> tuple[Cells, list[Cells]]:
    """Return the head and the rows of a table of events."""
    first = history.events[0]
    tables = [name for name in first.vector if name in first.cosine or not all(e.vector[name] for e in history.events)]
    is_weighted = any(event.weight != 1 for event in history.events)
    head = ["event ", "time (UTC)", "age ", "user" if history.side == "item" else "item"]
    head += ["weight "] if is_weighted else []
    head += [f"w {name} " for name in first.decayed_weight] + [f"cos {name} " for name in tables]
    head += [f"{printable(name)} " for name in (*_targets(history).values(), *_parts(history).values())]
    rows: list[Cells] = []
    for event in events:
        cells = [f"{event.event}", _time(event.time), _age(event.age_s), _id(event.partner)]
        cells += [_number(event.weight)] if is_weighted else []
        cells += map(_number, event.decayed_weight.values())
        cells += [_number(event.cosine.get(name)) if event.vector[name] else "no vector" for name in tables]
        cells += map(_number, (*event.target.values(), *event.contribution.values()))
        rows.append(cells)
    return head, rows


def _column(column: ColumnPart) -> Cells:
    value = "null" if column.value is None else f"{column.value:.7g}"
    numbers = ", ".join(f"{name} = {_number(number)}" for name, number in column.numbers.items())
    return column.name, value, printable("; ".join(text for text in (column.how or column.meaning, numbers) if text))


# --- cells -------------------------------------------------------------------------------------------


def _id(value: int | str | None) -> str:
    return "null" if value is None else printable(str(value))


def _time(text: str | None) -> str:
    return "null" if text is None else text.removesuffix("+00:00").replace("T", " ")


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.4g}"


def _age(seconds: float) -> str:
    """Return an age in its largest unit: `3.2 d`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:g} s"
