"""`onnx-expand train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from onnx_expand.cli import render
from onnx_expand.cli.options import check_outputs
from onnx_expand.model import load, save

if TYPE_CHECKING:
    from onnx_expand.train import EpochResult

__all__ = ["TrainingBar", "train"]


class TrainingBar:
    """A progress bar over the epochs and steps of one run, with the last epoch's figures.

    Args:
        out: Where to draw.
        title: What is trained.
        epochs: How many epochs the run has.
    """

    def __init__(self, out: Console, title: str, epochs: int) -> None:
        self._epochs = epochs
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=out,
        )
        self._task = self._bar.add_task(title, total=None, figures="")

    def __enter__(self) -> TrainingBar:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def on_batch(self, done: int, total: int) -> None:
        """Advance by one step."""
        steps = self._epochs * total
        self._bar.update(self._task, total=steps, completed=self._done * total + done)

    def on_epoch(self, result: EpochResult) -> None:
        """Show an epoch's figures."""
        self._done = result.epoch
        figures = (
            f"loss {result.loss:.4f}  train {result.train_accuracy:.2%}  "
            f"test {result.test_accuracy:.2%}"
        )
        self._bar.update(self._task, figures=figures)


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "--data",
    required=True,
    metavar="digits|DIR|FILE.npz",
    help="digits: the handwritten digits of scikit-learn. DIR: one folder of images for each "
    "class. FILE.npz: arrays x [N, C, H, W] and y [N], or x_train, y_train, x_test, y_test.",
)
@click.option("--epochs", type=int, default=10, show_default=True, help="Passes over the data.")
@click.option("--lr", type=float, default=0.01, show_default=True, help="Learning rate.")
@click.option("--batch", type=int, default=128, show_default=True, help="Samples in a step.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of the steps.")
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="L2 penalty.")
@click.option(
    "--schedule",
    type=click.Choice(["constant", "step", "cosine"]),
    default="constant",
    show_default=True,
    help="step: a tenth of the rate after each third of the epochs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of samples.")
@click.option("--report", metavar="F.json", help="Write each epoch as JSON; - is stdout.")
def train(
    source: str, target: str, data: str, report: str | None, seed: int, **options: Any
) -> None:
    """Train IN as a classifier with torch and write it with its new weights to OUT.

    OUT is IN with other numbers: nodes, names and all else stay. Batch normalization is trained
    as such, and its running statistics are written back.

    \b
    Example:
      onnx-expand train expanded.onnx trained.onnx --data digits --epochs 15 --lr 0.02
    """
    from onnx_expand import train as trainer  # imports torch

    check_outputs(target, report)
    settings = trainer.TrainOptions(seed=seed, **options)
    model = load(source)
    images = trainer.image_input(model)
    dataset = trainer.load_data(
        data, channels=images.channels, size=images.size, classes=images.classes
    )
    out = render.console(quiet=report == "-")
    out.print(f"data: {dataset.description}", markup=False)
    module = trainer.to_torch(model)
    with TrainingBar(out, source, settings.epochs) as bar:
        history = trainer.train(module, dataset, settings, bar)
    save(trainer.write_back(module, model), target)
    if report:
        render.write_json(dict(history.as_dict()), report)
    last = history.epochs[-1]
    out.print(
        f"test accuracy {last.test_accuracy:.2%} after {last.epoch} epochs, loss {last.loss:.4f}"
    )
