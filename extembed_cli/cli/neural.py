"""`extembed neural train`: a model over the history, for a `[[neural]]` group of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from extembed_cli.cli import console, options
from extembed_cli.errors import SpecError
from extembed_cli.spec.defaults import Encoder, Loss

if TYPE_CHECKING:
    from extembed_cli.jobs.options import RunOptions
    from extembed_cli.spec.model import Spec

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Technique 3: a model that reads the history (extra `neural`)."
)

_DATA, _MODEL, _FIT = "What to learn from", "The model", "How to learn"


@app.callback()
def neural() -> None:
    """Technique 3: a model that reads the history as item embeddings (extra `neural`)."""


@app.command()
def train(
    spec: options.SpecPath,
    label: Annotated[str, typer.Option("--label", metavar="COL", help="Column of the candidates to predict: 0 or 1.")],
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="Folder to write the model in.")],
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="Learn from candidates before this time alone: a ranker needs later ones.  [default: all]",
            rich_help_panel=_DATA,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="COL",
            help="What the candidates of one request share: the AUC is inside requests, and labels may be grades.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    max_events: Annotated[
        int,
        typer.Option(
            "--max-events", min=1, metavar="N", help="Read the newest N visible events.", rich_help_panel=_DATA
        ),
    ] = 100,
    overrides: options.Set = None,
    encoder: Annotated[
        Encoder, typer.Option("--encoder", help="What reads the history.", rich_help_panel=_MODEL)
    ] = "attention",
    dim: Annotated[
        int,
        typer.Option(
            "--dim", min=4, metavar="N", help="Length of the vectors inside: a multiple of 4.", rich_help_panel=_MODEL
        ),
    ] = 32,
    id_embedding: Annotated[
        bool, typer.Option("--id-embedding", help="Learn a vector for each item id, too.", rich_help_panel=_MODEL)
    ] = False,
    candidate: Annotated[
        bool,
        typer.Option(
            "--candidate/--no-candidate",
            help="Let the transformer read the candidate beside the events; without, users have vectors.",
            rich_help_panel=_MODEL,
        ),
    ] = True,
    whiten: Annotated[
        bool,
        typer.Option("--whiten", help="Make the vectors' dimensions uncorrelated first.", rich_help_panel=_MODEL),
    ] = False,
    loss: Annotated[
        Loss,
        typer.Option(
            "--loss",
            help="Judge candidates one by one, or those of a request against each other.",
            rich_help_panel=_FIT,
        ),
    ] = "bce",
    epochs: Annotated[
        int,
        typer.Option(
            "--epochs",
            min=1,
            metavar="N",
            help="At most: it ends after 4 that rank the last 15 % by time no better.",
            rich_help_panel=_FIT,
        ),
    ] = 30,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Candidates of a step.", rich_help_panel=_FIT)
    ] = 256,
    lr: Annotated[float, typer.Option("--lr", metavar="X", help="Learning rate.", rich_help_panel=_FIT)] = 1e-3,
    dropout: Annotated[
        float,
        typer.Option("--dropout", min=0, max=0.9, metavar="X", help="Dropped in training.", rich_help_panel=_FIT),
    ] = 0.3,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of all that is random.", rich_help_panel=_FIT)
    ] = 0,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, ...", rich_help_panel=_FIT)
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training that was stopped.", rich_help_panel=_FIT)
    ] = False,
    user_vectors: Annotated[
        Path | None,
        typer.Option(
            "--user-vectors",
            metavar="PATH",
            help="Then write one vector per user, of a model that does not read the candidate.",
            rich_help_panel=_FIT,
        ),
    ] = None,
    item_vectors: Annotated[
        Path | None,
        typer.Option("--item-vectors", metavar="PATH", help="Then write the items' vectors.", rich_help_panel=_FIT),
    ] = None,
    workers: options.Workers = None,
    memory: options.Memory = None,
    scratch: options.Scratch = None,
    wait: options.Wait = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Train a model on a spec's candidates, histories and tables.

    Example:  extembed neural train spec.toml --label clicked --model model --until 2026-03-01
    """
    from pydantic import ValidationError

    from extembed_cli.neural.config import Layers, TrainingSettings
    from extembed_cli.neural.folder import need_extra
    from extembed_cli.spec.loading import load_spec

    if encoder == "attention" and not candidate:
        raise SpecError("--no-candidate: attention is beside the candidate; take --encoder mean, gru or transformer")
    paths = [str(path) for path in (user_vectors, item_vectors) if path]
    if len(set(paths)) < len(paths) or not all(path.endswith(".parquet") for path in paths):
        raise SpecError(
            f"--user-vectors, --item-vectors: {', '.join(paths)}: two files that end in .parquet are needed"
        )
    loaded = load_spec(spec, overrides or (), for_training=True)
    try:
        layers = Layers(
            encoder=encoder, dim=dim, dropout=dropout, whiten=whiten, candidate=candidate, id_embedding=id_embedding
        )
        settings = TrainingSettings(
            label=label,
            until=until,
            group=group,
            loss=loss,
            max_events=max_events,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
        )
    except ValidationError as error:
        told = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
        raise SpecError("\n".join(f"--{flag}: {what}" for flag, what in told)) from None
    if user_vectors or item_vectors:
        layers.check_vectors("--user-vectors" if user_vectors else "--item-vectors")
    need_extra("altair", "vl_convert")
    from extembed_cli.data.commit import locked
    from extembed_cli.data.feature_file import check_target
    from extembed_cli.jobs.train import train_job

    how = console.run_options(workers, memory, wait, scratch, None, False)
    for path in paths:  # what cannot be written is told before hours of training
        check_target(path)
        with locked(Path(path), how.wait):
            pass
    with console.watching(quiet, verbose) as watch:
        report = train_job(loaded, settings, layers, str(model), how, resume, watch)
    if user_vectors or item_vectors:
        _write_vectors(loaded, model, user_vectors, item_vectors, how, quiet)
    if json:
        console.result_json(report)
    if verbose and not quiet:
        console.costs(watch)
    if not quiet:
        console.say(_summary(model, report))


def _write_vectors(
    spec: Spec, model: Path, users: Path | None, items: Path | None, how: RunOptions, quiet: bool
) -> None:
    """A job of the same inputs that writes vectors alone."""
    from extembed_cli.jobs.run import run_job
    from extembed_cli.spec.groups import NeuralGroup

    group = NeuralGroup(
        model=str(model.absolute()),
        user_vectors=None if users is None else str(users.absolute()),
        item_vectors=None if items is None else str(items.absolute()),
    )
    alone = spec.with_groups(group).model_copy(update={"candidates": None})
    with console.watching(quiet, 0) as watch:
        report = run_job(alone, how, watch)
    if not quiet:
        console.summary(report, 0)


def _summary(model: Path, report: dict[str, Any]) -> str:
    learned = f"{report['parameters']:,} parameters from {report['rows']['train']:,} candidates"
    best = f"best is epoch {report['best_epoch']} with an AUC of {report['valid_auc']:.4f} on the last by time"
    return (
        f"{model}: {report['encoder']}, {learned} until {report['trained_until']}; {best}; {report['seconds']:.1f} s\n"
        f'To score with it, add to the spec:\n[[neural]]\nmodel = "{model.absolute()}"'
    )
