"""The curves of a training as one HTML page without scripts: loss and AUC by epoch, as charts and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

from extembed_cli.errors import counted
from extembed_cli.neural.config import Fold, ModelConfig
from extembed_cli.printable import printable

if TYPE_CHECKING:
    from extembed_cli.neural.training.trainer import Epoch, Trained

_COLORS = {"training": "#d9822b", "early stopping": "#2f7de1"}  # readable on white and on near black

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; padding: 1.5rem 1rem; max-width: 46rem; font: 16px/1.5 system-ui, sans-serif; }}
svg {{ width: 100%; height: auto; }} svg text {{ fill: currentColor; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .2rem .8rem .2rem 0; }} .best {{ font-weight: 700; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }} dd {{ margin: 0; }}
</style></head><body>
<h1>{title}</h1>{models}</body></html>
"""
_MODEL = """{heading}<dl>{facts}</dl>
<h2>Loss by epoch</h2><div role="img" aria-label="{summary}">{loss}</div>
<h2>AUC by epoch, early stopping candidates</h2><div role="img" aria-label="{summary}">{auc}</div>
<table><thead><tr><th>epoch</th><th>loss, training</th><th>loss, early stopping</th><th>AUC</th><th>seconds</th></tr>
</thead>
<tbody>{rows}</tbody></table>
"""


def page(config: ModelConfig, models: Sequence[Trained]) -> str:
    """Return the whole page, with a section for each model."""
    sections = (
        _section(config, fold, model, f"<h1>Model {number} of {len(models)}</h1>" if len(models) > 1 else "")
        for number, (fold, model) in enumerate(zip(config.folds, models, strict=True), 1)
    )
    return _PAGE.format(title=escape(f"Training: {config.architecture.encoder}"), models="".join(sections))


def _section(config: ModelConfig, fold: Fold, model: Trained, heading: str) -> str:
    epochs, best = model.epochs, model.best
    settings = config.settings
    losses = [{"epoch": e.epoch + 1, "of": "training", "value": e.loss} for e in epochs]
    losses += [{"epoch": e.epoch + 1, "of": "early stopping", "value": e.valid_loss} for e in epochs]
    aucs = [{"epoch": e.epoch + 1, "of": "early stopping", "value": e.valid_auc} for e in epochs]
    kept = epochs[best]
    values = f"loss {kept.valid_loss:.4f}, AUC {kept.valid_auc:.4f}"
    summary = f"{counted(len(epochs), 'epoch')}; best is epoch {best + 1}: {values}"
    facts = {
        "encoder": config.architecture.encoder,
        "label": settings.label,
        "trained until": fold.trained_until,
        "candidates": ", ".join(f"{count:,} {what}" for what, count in fold.rows.items()),
        "best": summary,
    }
    return _MODEL.format(
        heading=heading,
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(printable(fact))}</dd>" for name, fact in facts.items()),
        summary=escape(summary),
        loss=_chart(losses, "loss"),
        auc=_chart(aucs, "AUC"),
        rows="".join(_row(epoch, epoch.epoch == best) for epoch in epochs),
    )


def _row(epoch: Epoch, best: bool) -> str:
    cells = (f"{epoch.loss:.4f}", f"{epoch.valid_loss:.4f}", f"{epoch.valid_auc:.4f}", f"{epoch.seconds:,.1f}")
    columns = "".join(f"<td>{cell}</td>" for cell in (str(epoch.epoch + 1), *cells))
    return f"<tr{' class=best' if best else ''}>{columns}</tr>"


def _chart(rows: list[dict[str, Any]], title: str) -> str:
    names = list(dict.fromkeys(row["of"] for row in rows))
    scale = alt.Scale(domain=names, range=[_COLORS[name] for name in names])
    chart = (
        alt.Chart({"values": rows})
        .mark_line(point=True)
        .encode(
            x=alt.X("epoch:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=alt.Color("of:N", scale=scale, legend=alt.Legend(title=None, orient="top")),
        )
        .properties(width=640, height=220)
        .configure(background="transparent", view=alt.ViewConfig(stroke="transparent"))
        .configure_axis(gridOpacity=0.3)
    )
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=version)
    return svg
