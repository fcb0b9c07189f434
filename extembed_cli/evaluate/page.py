"""The report as one self-contained HTML file: charts, their tables, the controls and the spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

import altair as alt
import vl_convert

from extembed_cli.errors import counted
from extembed_cli.evaluate.charts import Figure, figures
from extembed_cli.evaluate.schema import TITLES, Data, Report, Rung
from extembed_cli.evaluate.tables import TextTable
from extembed_cli.json_files import with_texts
from extembed_cli.printable import printable


def page(report: Report) -> str:
    """Return the whole page. Every text from data is printable, and is escaped, in HTML and in scripts."""
    report = Report.model_validate(with_texts(report.model_dump(), printable))
    charts = figures(report)
    specs = {f"{figure.name}-{i}": panel.spec for figure in charts for i, panel in enumerate(figure.panels)}
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{report.data.features}: are the embeddings worth it?"),
        summary=escape(report.summary),
        facts=_facts(report.data),
        verdicts=_verdicts(report),
        warnings=_list("warnings", report.warnings),
        figures="\n".join(map(_figure, charts)),
        short_list=_short_list(report),
        controls=_controls(report),
        spec=escape(json.dumps(report.spec, indent=2, ensure_ascii=False)),
        settings=escape(json.dumps(report.settings.model_dump(), indent=2)),
        version=escape(report.version),
        library=_library(),
        specs=_script_json(specs),
    )


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version of the charts."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    script = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]
    return script.replace("</script", "<\\/script")


def _script_json(data: object) -> str:
    """Return JSON for a script element: nothing in it can close the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _facts(data: Data) -> str:
    rows = f"{data.train_rows:,} train, {data.early_stopping_rows:,} early stopping, {data.test_rows:,} test"
    facts = {
        "rows": f"{data.rows:,}: {rows}",
        "test": f"{counted(data.test_users, 'user')}, from {data.test_from}",
        "label": f"{data.label}, above 0 in {data.positive_share['test'] or 0:.1%} of the test rows",
        "requests by": data.group or "",
        "your columns": ", ".join(data.baseline),
        "left out": ", ".join(f"{count:,} {reason}" for reason, count in data.left_out.items()),
    }
    return "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items() if fact)


def _verdicts(report: Report) -> str:
    return "".join(map(_verdict, report.ladder))


def _verdict(rung: Rung) -> str:
    word, reason = rung.verdict or "first step", rung.reason or f"{TITLES[rung.metric]} {rung.value:.4f}"
    seconds = f" <small>computed in {rung.seconds:,.1f} s</small>" if rung.seconds is not None else ""
    return (
        f'<li class="{word.replace(" ", "-")}"><b>{escape(rung.step)}</b> <span>{escape(word)}</span> '
        f"{escape(reason)}{seconds}</li>"
    )


def _list(name: str, texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{name}">{items}</ul>' if items else ""


def _figure(figure: Figure) -> str:
    panels = "".join(
        f'<div class="panel">{f"<h3>{escape(panel.title)}</h3>" if panel.title else ""}'
        f'<div class="chart" id="{figure.name}-{i}"></div></div>'
        for i, panel in enumerate(figure.panels)
    )
    return (
        f"<section><h2>{escape(figure.title)}</h2><p>{escape(figure.caption)}</p>"
        f'<figure><div class="panels" role="img" aria-label="{escape(figure.alternative)}">{panels}</div></figure>'
        f"<details><summary>As a table</summary>{_table(figure.table)}</details></section>"
    )


def _table(table: TextTable) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in table.headings)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _short_list(report: Report) -> str:
    short = report.short_list
    if short is None:
        return "<p>There is none: the steps after the first do not gain on both test and early stopping rows.</p>"
    added = sum(rung.columns for rung in report.ladder[1:])
    columns = "".join(f"<li><code>{escape(name)}</code></li>" for name in short.columns)
    first = escape(report.ladder[0].step)
    return (
        f"<p>Together with the columns of the step {first}, these {len(short.columns)} of {added} columns keep "
        f"{short.kept:.1%} of the gain on the test rows. The test rows also decided where the list ends.</p>"
        f"<ol>{columns}</ol>"
    )


def _controls(report: Report) -> str:
    rows = [
        f'<li class="{"keep" if control.passed else "cannot-tell"}"><b>{escape(control.control)}</b> '
        f"<span>{'passed' if control.passed else 'failed'}</span> <code>{escape(control.subject)}</code>: "
        f"{escape(control.text)}</li>"
        for control in report.controls
    ]
    return f'<ul class="verdicts">{"".join(rows)}</ul>'
