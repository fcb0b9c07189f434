"""`extembed aggregate`: technique 1 from flags, without a spec file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from extembed_cli.cli import console, options
from extembed_cli.cli.run import execute
from extembed_cli.errors import SpecError


def aggregate(
    interactions: options.Interactions,
    candidates: options.Candidates,
    embeddings: options.Embeddings,
    output: options.Output = None,
    histories: options.Histories = None,
    half_lives: options.HalfLives = None,
    percentiles: options.Percentiles = None,
    thresholds: options.Thresholds = None,
    center: options.Center = False,
    weight: options.Weight = None,
    as_of: options.AsOf = None,
    lag: options.Lag = None,
    window: options.Window = None,
    max_events: options.MaxEvents = None,
    time_unit: options.TimeUnit = None,
    overrides: options.Set = None,
    dry_run: options.DryRun = False,
    workers: options.Workers = None,
    memory: options.Memory = None,
    scratch: options.Scratch = None,
    cache: options.Cache = None,
    fresh: options.Fresh = False,
    wait: options.Wait = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Cosine features between candidates and decayed histories (technique 1).

    Example:  extembed aggregate -i events.parquet -c candidates.parquet -e text=item_text.parquet -o features.parquet
    --history liked='rating >= 4' --half-life 30d --percentile 90 --threshold 0.5
    """
    from extembed_cli.spec.loading import spec_from_flags

    group: dict[str, Any] = {"half_lives": half_lives, "percentiles": percentiles, "thresholds": thresholds}
    data: dict[str, Any] = {
        **inputs(interactions, candidates, embeddings, center, histories, window, max_events),
        "output": output,
        "weight": weight,
        "as_of": as_of,
        "lag": lag,
        "time_unit": time_unit,
        "aggregate": [group],
    }
    how = console.run_options(workers, memory, wait, scratch, cache, fresh)
    execute(spec_from_flags(data, overrides or ()), how, dry_run, json, quiet, verbose)


def inputs(
    interactions: list[str],
    candidates: list[str] | None,
    embeddings: list[str],
    center: bool,
    histories: list[str] | None,
    window: str | None,
    max_events: int | None,
) -> dict[str, Any]:
    """The part of a spec that says what to read and which histories there are."""
    where = _named("--history", histories or (), "NAME=WHERE, such as liked='rating >= 4'")
    tables = _named("-e", embeddings, "NAME=PATH")
    limits = {"window": window, "max_events": max_events}
    limited = {name: {"where": text, **limits} for name, text in where.items()}
    if not limited and any(limit is not None for limit in limits.values()):
        limited = {"all": dict(limits)}
    return {
        "interactions": interactions,
        "candidates": candidates,
        "embeddings": {name: {"path": path, "center": center} for name, path in tables.items()},
        "histories": limited,
    }


def _named(flag: str, texts: Iterable[str], form: str) -> dict[str, str]:
    """`NAME=VALUE` flags by name."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            hint = f". Did you mean {flag} {Path(text).stem}={text}?" if flag == "-e" else ""
            raise SpecError(f"{flag} {text}: write {form}{hint}")
        if name in found:
            raise SpecError(f"{flag} {text}: `{name}` is given twice; use two names")
        found[name] = value
    return found
