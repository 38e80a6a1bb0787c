"""The files in the folder of an experiment: figures, curves, checkpoints."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_expand.experiment.training.history import EpochResult
from onnx_expand.model import make_folder, replacing
from onnx_expand.plugins import optional

__all__ = ["EventWriter", "Folder", "Row"]

# The name of the model, the seed, and the result of an epoch.
Row = tuple[str, int, EpochResult]


class Folder:
    """The folder of an experiment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._is_new = False

    def make(self) -> None:
        """Create the folder, and remove partial files of a killed run.

        Raises:
            UsageError: It cannot be created.
        """
        self._is_new = make_folder(self.path)
        with contextlib.suppress(OSError):  # what is left of a write disturbs nothing
            for rest in self.path.glob(".*.part"):
                rest.unlink()

    def discard(self) -> None:
        """Remove the folder if this run created it and wrote nothing into it."""
        if self._is_new:
            with contextlib.suppress(OSError):  # it has files
                self.path.rmdir()

    def checkpoint(self, name: str, seed: int, *, resume: bool) -> Path:
        """Return the checkpoint of one run; rename an existing one unless it is resumed."""
        path = self.path / f"checkpoint-{name}-{seed}.pt"
        if path.exists() and not resume:
            path.replace(path.with_suffix(".previous.pt"))
        return path

    def add(self, name: str, seed: int, result: EpochResult) -> None:
        """Record an epoch, replacing one of the same number."""
        key = (name, seed, result.epoch)
        self.rows = [row for row in self.rows if (row[0], row[1], row[2].epoch) != key]
        self.rows.append((name, seed, result))
        self._write_csv()

    def _write_csv(self) -> None:
        extra = list(dict.fromkeys(name for _, _, r in self.rows for name in r.figures))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        first = ("model", "seed", "epoch", "lr", "loss", "train_score")
        writer.writerow([*first, *extra, "seconds", "unreadable"])
        for name, seed, r in self.rows:
            values = (name, seed, r.epoch, r.lr, r.loss, r.train_score)
            figures = (r.figures.get(key) for key in extra)
            writer.writerow([*values, *figures, f"{r.seconds:.3f}", r.unreadable])
        with replacing(self.path / "history.csv") as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")

    def draw(self, metric: str) -> bool:
        """Plot loss and score over the epochs; return whether matplotlib is installed."""
        try:
            import matplotlib as mpl
        except ImportError:
            return False
        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for number, name in enumerate(dict.fromkeys(row[0] for row in self.rows)):
            for place, seed in enumerate(dict.fromkeys(r[1] for r in self.rows if r[0] == name)):
                results = [r[2] for r in self.rows if r[:2] == (name, seed)]
                epochs = [result.epoch for result in results]
                style: dict[str, Any] = {
                    "color": f"C{number}", "alpha": 0.8, "label": name if place == 0 else None,
                    "marker": "o" if len(epochs) == 1 else None,
                }  # fmt: skip
                left.plot(epochs, [result.loss for result in results], **style)
                right.plot(epochs, [result.test_score for result in results], **style)
        positive = all(row[2].loss > 0 for row in self.rows)
        scale = "log" if positive else "linear"
        left.set(xlabel="epoch", ylabel="training loss", yscale=scale)
        right.set(xlabel="epoch", ylabel=f"test: {metric}")
        right.legend()
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        with replacing(self.path / "curves.png") as partial:
            figure.savefig(partial, dpi=120, format="png")
        plt.close(figure)
        return True


class EventWriter:
    """Writes events for TensorBoard, one directory for each run.

    Raises:
        UnsupportedError: tensorboard is not installed.
    """

    def __init__(self, path: Path) -> None:
        missing = "--tensorboard needs tensorboard: pip install 'onnx-expand[tensorboard]'"
        self._make = optional("torch.utils.tensorboard", missing).SummaryWriter
        self._path = path
        self._writers: dict[str, Any] = {}

    def add(self, name: str, seed: int, result: EpochResult) -> None:
        """Write the figures of an epoch."""
        key = f"{name}-{seed}"
        if key not in self._writers:
            # A resumed run reports all its epochs again, which would duplicate existing events.
            for old in (self._path / key).glob("events.out.tfevents.*"):
                old.unlink()
            self._writers[key] = self._make(str(self._path / key))
        writer = self._writers[key]
        figures: Mapping[str, float | None] = {
            "lr": result.lr, "train/loss": result.loss, "train/score": result.train_score,
            **{f"test/{figure}": value for figure, value in result.figures.items()},
        }  # fmt: skip
        for figure, value in figures.items():
            if value is not None:
                writer.add_scalar(figure, value, result.epoch)
        writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()
