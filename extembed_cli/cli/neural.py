"""`extembed neural train`: train a model that reads the history, for a `[[neural]]` group of a spec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from extembed_cli.cli import console
from extembed_cli.cli.expand import expand
from extembed_cli.cli.options import ResourceFlags, Scratch, Set, ShowFlags, SpecPath, option
from extembed_cli.errors import SpecError
from extembed_cli.spec.defaults import ENCODER, Encoder, Loss

if TYPE_CHECKING:
    from extembed_cli.neural.config import Layers, TrainingSettings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_DATA, _MODEL, _FIT = "Training data", "Model", "Training"

Checked = TypeVar("Checked")


@dataclass(kw_only=True)
class DataFlags:
    """The options for the training data."""

    label: Annotated[
        str,
        option("--label", metavar="COL", help="Column of the candidates to predict: 0 or 1, or grades with --group."),
    ]
    until: Annotated[
        str | None,
        option(
            "--until",
            metavar="TIME",
            help="Train only on candidates before this time; a ranker needs later ones.  [default: all]",
            panel=_DATA,
        ),
    ] = None
    folds: Annotated[
        int,
        option(
            "--folds",
            min=1,
            max=1000,
            metavar="N",
            help="Number of models, each trained on what came before its part of the candidates' time, so that every "
            "score is out of time; 1 = a single model of all candidates.",
            panel=_DATA,
        ),
    ] = 5
    group: Annotated[
        str | None,
        option(
            "--group",
            metavar="COL",
            help="Column that the candidates of one request share: the AUC is computed inside requests.",
            panel=_DATA,
        ),
    ] = None
    max_events: Annotated[
        int,
        option("--max-events", min=1, metavar="N", help="Read the newest N visible events.", panel=_DATA),
    ] = 100


@dataclass(kw_only=True)
class LayerFlags:
    """The options for the model."""

    encoder: Annotated[Encoder, option("--encoder", help="How the model reads the history.", panel=_MODEL)] = ENCODER
    dim: Annotated[
        int,
        option("--dim", min=4, metavar="N", help="Length of the model's vectors: a multiple of 4.", panel=_MODEL),
    ] = 32
    id_embedding: Annotated[
        bool, option("--id-embedding", help="Also learn a vector for each item id.", panel=_MODEL)
    ] = False
    candidate: Annotated[
        bool,
        option(
            "--candidate/--no-candidate",
            help="Whether the transformer also reads the candidate; if not, each user has a vector.",
            panel=_MODEL,
        ),
    ] = True
    whiten: Annotated[
        bool,
        option("--whiten", help="First make the dimensions of the vectors uncorrelated.", panel=_MODEL),
    ] = False
    dropout: Annotated[
        float,
        option("--dropout", min=0, max=0.9, metavar="X", help="Share of numbers set to 0 in training.", panel=_MODEL),
    ] = 0.3

    def layers(self) -> Layers:
        """Return the layers of a model."""
        from extembed_cli.neural.config import Layers

        if self.encoder == "attention" and not self.candidate:
            raise SpecError("--no-candidate: attention needs the candidate; use --encoder mean, gru or transformer")
        return _checked(Layers, asdict(self))


@dataclass(kw_only=True)
class TrainingFlags:
    """The options for the training."""

    loss: Annotated[
        Loss,
        option(
            "--loss",
            help="`bce` predicts each candidate alone; `softmax` ranks the candidates of a request.",
            panel=_FIT,
        ),
    ] = "bce"
    epochs: Annotated[
        int,
        option(
            "--epochs",
            min=1,
            metavar="N",
            help="Maximum number; training stops after 4 without a better AUC on the newest 15 % of the candidates.",
            panel=_FIT,
        ),
    ] = 30
    batch_size: Annotated[int, option("--batch-size", min=1, metavar="N", help="Candidates per step.", panel=_FIT)] = (
        256
    )
    lr: Annotated[float, option("--lr", metavar="X", help="Learning rate.", panel=_FIT)] = 1e-3
    seed: Annotated[int, option("--seed", min=0, metavar="N", help="Random seed.", panel=_FIT)] = 0
    device: Annotated[
        str, option("--device", metavar="NAME", help="Device to train on: auto, cpu, cuda, ...", panel=_FIT)
    ] = "auto"

    def settings(self, data: DataFlags) -> TrainingSettings:
        """Return the settings of a training."""
        from extembed_cli.neural.config import TrainingSettings

        return _checked(TrainingSettings, {**asdict(data), **asdict(self)})


@dataclass(kw_only=True)
class VectorFlags:
    """The options for files of vectors to write with the trained model."""

    user_vectors: Annotated[
        Path | None,
        option(
            "--user-vectors",
            metavar="PATH",
            help="Write one vector per user after the training; the model must not read the candidate.",
            panel=_FIT,
        ),
    ] = None
    item_vectors: Annotated[
        Path | None,
        option("--item-vectors", metavar="PATH", help="Write the vectors of the items after the training.", panel=_FIT),
    ] = None


def _checked(kind: Callable[..., Checked], values: dict[str, Any]) -> Checked:
    """Return a checked object from flags; raise its problems with the names of the flags."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        problems = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
        raise SpecError(*(f"--{flag}: {what}" for flag, what in problems)) from None


@app.callback()
def neural() -> None:
    """Train a neural model (technique 3).

    The model reads the history as item embeddings and scores a candidate. Needs the extra `neural`.
    """


@app.command()
@expand
def train(
    *,
    spec: SpecPath,
    data: DataFlags,
    model: Annotated[Path, option("--model", metavar="DIR", help="Folder to write the model to.")],
    layer: LayerFlags,
    fit: TrainingFlags,
    vectors: VectorFlags,
    overrides: Set = None,
    resume: Annotated[bool, option("--resume", help="Resume a stopped training.", panel=_FIT)] = False,
    resources: ResourceFlags,
    scratch: Scratch = None,
    show: ShowFlags,
) -> None:
    """Train a model on the candidates, histories and tables of a spec.

    Example:  extembed neural train spec.toml --label clicked --model model --until 2026-03-01
    """
    from extembed_cli.jobs.specs import load_spec
    from extembed_cli.neural.folder import need_extra

    layers = layer.layers()
    loaded = load_spec(spec, overrides or (), for_training=True)
    settings = fit.settings(data)
    options = resources.run_options(scratch=scratch)
    need_extra("altair", "vl_convert")
    from extembed_cli.jobs.train import group_of, train_job
    from extembed_cli.jobs.train_vectors import check_vectors, write_model_vectors

    check_vectors(vectors.user_vectors, vectors.item_vectors, layers, options.wait)

    with console.watching(show.quiet, show.verbose) as watch:
        report = train_job(loaded, settings, layers, str(model), options, resume, watch)
    if vectors.user_vectors or vectors.item_vectors:
        with console.watching(show.quiet, 0) as watch_vectors:
            written = write_model_vectors(
                loaded, model, vectors.user_vectors, vectors.item_vectors, options, watch_vectors
            )
        if not show.quiet:
            console.summary(written, 0)
    if show.json:
        console.result_json(report)
    if show.verbose and not show.quiet:
        console.costs(watch)
    if not show.quiet:
        console.say(_summary(model, report))
        if group_of(loaded, str(model)) is None:
            console.say("To score with it, add to the spec:", "[[neural]]", f'model = "{model.absolute()}"')


def _summary(model: Path, report: dict[str, Any]) -> str:
    several = f"{len(report['folds'])} models, the newest with " if len(report["folds"]) > 1 else ""
    trained = f"{several}{report['parameters']:,} parameters trained on {report['rows']['train']:,} candidates"
    best = f"best is epoch {report['best_epoch']} with an AUC of {report['valid_auc']:.4f} on the early stopping rows"
    return f"{model}: {report['encoder']}, {trained} until {report['trained_until']}; {best}; {report['seconds']:.1f} s"
