"""`extembed dual`: technique 2 from flags, without a spec file."""

from __future__ import annotations

from typing import Any

from extembed_cli.cli import console, options
from extembed_cli.cli.aggregate import inputs
from extembed_cli.cli.run import execute
from extembed_cli.errors import SpecError


def dual(
    interactions: options.Interactions,
    embeddings: options.Embeddings,
    candidates: options.OptionalCandidates = None,
    output: options.Output = None,
    user_vectors: options.UserVectors = None,
    histories: options.Histories = None,
    regularization: options.Regularization = None,
    unobserved_weight: options.UnobservedWeight = None,
    scaling: options.Scaling = None,
    half_life: options.DualHalfLife = None,
    target: options.Target = None,
    loss: options.Loss = None,
    bias: options.Bias = False,
    sd: options.Sd = False,
    refit_every: options.RefitEvery = None,
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
    """Scores of per-user linear models on the item vectors, and the models as one vector per user (technique 2).

    Example:  extembed dual -i events.parquet -c candidates.parquet -e text=item_text.parquet -o features.parquet
    --target 'CASE WHEN rating >= 4 THEN 1.0 ELSE -1.0 END' --regularization 2
    """
    from extembed_cli.spec.loading import spec_from_flags

    if half_life and len(half_life) > 1:
        raise SpecError(
            f"--half-life {' --half-life '.join(half_life)}: a fit has one; write several [[dual]] groups in a spec"
        )
    group: dict[str, Any] = {
        "half_life": half_life[0] if half_life else None,
        "target": target,
        "regularization": regularization,
        "unobserved_weight": unobserved_weight,
        "scaling": scaling,
        "loss": loss,
        "bias": bias,
        "sd": sd,
        "refit_every": refit_every,
        "user_vectors": user_vectors,
    }
    data: dict[str, Any] = {
        **inputs(interactions, candidates, embeddings, center, histories, window, max_events),
        "output": output,
        "weight": weight,
        "as_of": as_of,
        "lag": lag,
        "time_unit": time_unit,
        "dual": [group],
    }
    how = console.run_options(workers, memory, wait, scratch, cache, fresh)
    execute(spec_from_flags(data, overrides or ()), how, dry_run, json, quiet, verbose)
