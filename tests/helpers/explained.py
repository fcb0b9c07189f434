"""Explanations of rows, compared with the output of a run and with themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from extembed_cli.jobs.explain import Question, explain_job
from extembed_cli.jobs.explained_schema import ExplainedRow
from extembed_cli.jobs.layout import Layout
from extembed_cli.jobs.one_candidate import Given
from extembed_cli.jobs.options import RunOptions
from extembed_cli.spec.loading import load_spec
from extembed_cli.system.progress import Watch


def explained(spec: Path, candidate: int | Given, *columns: str, layout: Layout | None = None) -> ExplainedRow:
    """Explain a candidate in this process."""
    return explain_job(load_spec(spec), Question(candidate, columns), RunOptions(workers=2, layout=layout), Watch())


def same_as_run(row: ExplainedRow, output: pl.DataFrame, at: int) -> None:
    """Check that all values are those of a row of the output, to the byte, and that each null has a reason."""
    for column in row.columns:
        value = output[column.name][at]
        if value is None:
            assert column.value is None, column
            assert column.how, column
        else:
            assert column.value is not None, column
            assert np.float32(column.value).tobytes() == np.float32(value).tobytes(), column


def recombines(row: ExplainedRow, tables: dict[str, str]) -> set[str]:
    """Check that the listed events and numbers give the values; return the kinds of columns that were checked.

    tables  the name of a table's cosines, by the column name's part before `__`
    """
    checked = set()
    for history in row.histories:
        assert history.rows == history.visible + sum(hidden.events for hidden in history.hidden)
        assert [event.event for event in history.events] == list(range(1, history.visible + 1))
    for column in row.columns:
        if column.value is None or len(column.histories) != 1:
            continue
        [place], numbers, value = column.histories, column.numbers, column.value
        history = row.histories[place]
        table, name = tables.get(column.name.split("__")[0]), column.name.split("__")[-1]
        half_life = "none"
        if name.startswith("hl"):
            half_life, name = name[2:], column.name.split("__")[-2]
        kind = _kind(name)
        seen = [(e.decayed_weight.get(half_life), e.cosine.get(table or ""), e) for e in history.events]
        known = [(w, c, e) for w, c, e in seen if c is not None]
        if kind in {"cos_min", "cos_max", "cos_p"}:
            [number] = column.events
            assert history.events[number - 1].cosine[table or ""] == value, column
            cosines = [c for _, c, _ in known]
            if kind != "cos_p":
                assert value == (min if kind == "cos_min" else max)(cosines)
            else:
                total = sum(w for w, _, _ in known)
                percent = int(name[name.rindex("cos_p") + 5 :])
                below = sum(w for w, c, _ in known if c < value)
                upto = sum(w for w, c, _ in known if c <= value)
                assert below < percent / 100 * total + 1e-6 * total and upto >= percent / 100 * total - 1e-6 * total
        elif kind == "cos_mean":
            mean = sum(w * c for w, c, _ in known) / sum(w for w, _, _ in known)
            assert abs(mean - value) < 2e-6, column
            assert abs(numbers["Σ w c"] / numbers["Σ w"] - value) < 2e-6, column
        elif kind == "cos_share_ge":
            listed = sum(w for w, _, e in known if e.event in column.events) / sum(w for w, _, _ in known)
            assert abs(listed - value) < 1e-6, column
        elif kind == "top_mean":
            cosines = [history.events[number - 1].cosine[table or ""] for number in column.events]
            assert abs(np.mean(cosines) - value) < 1e-6, column
        elif kind == "count":
            assert value == history.visible
        elif kind == "vector_count":
            assert value == sum(bool(e.vector[table or ""]) for e in history.events)
        elif kind == "age_last_s":
            assert np.float32(history.events[0].age_s) == value
        elif kind == "decayed_count" and history.visible:
            total = sum(w for w, _, _ in seen) * numbers["largest weight at the as-of time"]
            assert np.isclose(total, value, rtol=1e-6), column
        elif kind == "target_mean":
            assert np.isclose(numbers["Σ w y"] / numbers["Σ w"], value, rtol=1e-5, atol=1e-6), column
        elif kind == "score" and "sum" in numbers:
            parts = [part for e in history.events if (part := e.contribution[column.name]) is not None]
            assert np.isclose(numbers["sum"], value, rtol=1e-4, atol=1e-5), column
            if "floored" not in column.meaning:  # its fit may have seen less, or events that are out of view now
                assert np.isclose(sum(parts), value, rtol=1e-4, atol=1e-5), column
        else:
            continue
        checked.add(kind)
    return checked


def _kind(name: str) -> str:
    for kind in ("vector_count", "decayed_count", "count", "age_last_s", "cos_min", "cos_max", "cos_share_ge"):
        if kind in name:
            return kind
    if "cos_top" in name:
        return "top_mean"
    if "cos_mean" in name:
        return "cos_mean"
    if name.endswith("target_mean"):
        return "target_mean"
    return "cos_p" if "cos_p" in name else "score" if name.endswith("score") else "other"
