"""One experiment, from the file of the model to that of the trained one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir
import torch

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.experiment import messages, metadata, weights
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.loading import ImageInput, image_input, load_data
from onnx_expand.experiment.files import EventWriter, Folder
from onnx_expand.experiment.folding import fold_and_check
from onnx_expand.experiment.gallery import Gallery
from onnx_expand.experiment.report import Report
from onnx_expand.experiment.training.checkpoint import Checkpoints
from onnx_expand.experiment.training.distill import Distiller, with_output
from onnx_expand.experiment.training.history import EpochResult, History, Progress
from onnx_expand.experiment.training.loop import rehearse, train
from onnx_expand.experiment.training.parallel import World, device_of, process_group
from onnx_expand.experiment.training.trial import first_readable
from onnx_expand.experiment.watcher import ProgressWithCallback, SilentWatcher, Watcher
from onnx_expand.lower.units import has_note, is_given_back
from onnx_expand.model import check_output, load, save
from onnx_expand.recipes import Setup
from onnx_expand.train import to_torch, write_back
from onnx_expand.train.composed import execution_of
from onnx_expand.train.initialize import initialize

__all__ = ["Experiment", "Watcher"]

_MAIN, _BASELINE = "model", "baseline"


@dataclass(frozen=True)
class Experiment:
    """Trains a model, and executes the further steps of its plan.

    Until training has ended, only the experiment's folder is written; files are written
    atomically. Under `torchrun`, all processes share each step, and the first one writes files and
    prints.

    Attributes:
        source: The file of the model.
        target: The file of the trained model.
        data: As for `load_data`.
        setup: The settings.
        gallery: Whether the report includes test images.
    """

    source: str
    target: str
    data: str
    setup: Setup = field(default_factory=Setup)
    gallery: bool = False

    def run(self, watcher: Watcher | None = None) -> Report:
        """Run the experiment.

        Raises:
            UsageError: An option is invalid, or an output cannot be written.
            ModelError: The model or the data cannot be read, or do not fit.
            UnsupportedError: The model cannot be trained, or the loss diverged.
            DifferentError: The trained model folds to a model that computes something else.
        """
        settings = self.setup.run
        for path in (self.target, settings.then_fold, settings.save_weights):
            if path is not None:
                check_output(path, is_model=path is not settings.save_weights)
        if settings.weights is not None or settings.save_weights is not None:
            weights.require_safetensors()
        if (
            settings.then_fold
            and Path(settings.then_fold).resolve() == Path(self.target).resolve()
        ):
            raise UsageError(f"{self.target}: is also what then_fold names; name two files")
        if settings.folder is not None and Path(settings.folder).is_file():
            raise UsageError(f"{settings.folder}: is a file; name a folder")
        with process_group(settings.device) as world:
            experimenter = _Experimenter(self, watcher or SilentWatcher(), world)
            try:
                return experimenter.run()
            finally:
                experimenter.folder.discard()


class _Experimenter:
    """One call of `Experiment.run`, in one of the processes."""

    def __init__(self, experiment: Experiment, watcher: Watcher, world: World) -> None:
        self.experiment, self.world = experiment, world
        self.setup, self.settings = experiment.setup, experiment.setup.run
        self.watcher = watcher
        self.device = device_of(self.settings.device)
        target = Path(experiment.target)
        self.folder = Folder(Path(self.settings.folder or target.with_suffix(".run")))
        self.events: EventWriter | None = None
        self.checked = False
        self.explained = False
        self.gone_on = False

    def run(self) -> Report:
        """See `Experiment.run`."""
        model = load(self.experiment.source)
        if self.settings.weights is not None:
            model, line = weights.load_weights(model, Path(self.settings.weights))
            self._say(line)
        baseline = self._baseline(model)
        images = self._input(model)
        data = load_data(
            self.experiment.data,
            channels=images.channels,
            size=images.size,
            classes=images.classes if self.setup.train.loss is None else None,
            options=self.setup.data,
            numbers=self.setup.train.loss is not None,
        )
        for line in messages.introduction(
            model, data, self.setup, self.world.size, self.device.type
        ):
            self._say(line)
        data = metadata.with_anchors(data, model, self.setup.train)
        for line in metadata.lines(data):
            self._say(line)
        if baseline is not None:
            self._rehearse(baseline, data)
        if self.settings.tensorboard and self.world.first:
            self.events = EventWriter(self.folder.path / "tensorboard")
        if self.world.first:
            self.folder.make()
        runs = []
        written: dict[str, ir.Model] = {}
        for seed in range(self.setup.train.seed, self.setup.train.seed + self.settings.seeds):
            for name, source in ((_MAIN, model), (_BASELINE, baseline)):
                if source is not None:
                    history, trained = self._train(name, source, data, seed)
                    runs.append((name, seed, history))
                    metadata.write(written.setdefault(name, trained), data)
        return self._finish(written, runs, data)

    def _input(self, model: ir.Model) -> ImageInput:
        """Return the model's image input; other inputs require data from arrays or functions."""
        try:
            return image_input(model)
        except UnsupportedError:
            spec = self.experiment.data
            if sum(not value.is_initializer() for value in model.graph.inputs) != 1:
                raise
            if Path(spec).suffix == ".npz" or (":" in spec and not Path(spec).exists()):
                return ImageInput(0, (None, None), None)
            raise

    def _explain(self, module: torch.nn.Module, data: Dataset) -> None:
        """Report once how chains of linear layers run."""
        if self.explained or not hasattr(data.train, "fetch"):
            return
        self.explained = True
        one = first_readable(data.train, 1).inputs
        batch = -(-self.setup.train.batch // self.setup.train.accumulate // self.world.size)
        kind = next(module.parameters()).dtype if one.is_floating_point() else one.dtype
        zeros = torch.zeros(batch, *one.shape[1:], dtype=kind)
        try:
            line = execution_of(module, self.setup.train.execution, zeros)
        except (RuntimeError, TypeError, IndexError):
            return  # data and model do not fit, which is reported in training
        if line:
            self._say(line)

    def _baseline(self, model: ir.Model) -> ir.Model | None:
        asked = self.settings.compare_baseline
        if asked is None:
            return None
        baseline = load(asked) if asked != "fold" else self._folded(model)
        if self.setup.distill.teacher and self.setup.distill.student_layer:
            with_output(baseline, self.setup.distill.student_layer)  # or it fails after hours
        return baseline

    def _rehearse(self, baseline: ir.Model, data: Dataset) -> None:
        """Check that the compact model can be trained, before the other one trains for hours."""
        module = self._student(baseline, _BASELINE)
        try:
            rehearse(module, data, self.setup.train)
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.settings.compare_baseline}: {error}") from error

    def _student(
        self, model: ir.Model, name: str, teacher: Distiller | None = None
    ) -> torch.nn.Module:
        freeze = self.setup.train.freeze
        build = to_torch if teacher is None else teacher.student
        module: torch.nn.Module = build(model, freeze=freeze)
        nothing = not any(parameter.requires_grad for parameter in module.parameters())
        if nothing and freeze is None:
            raise UnsupportedError(
                f"{name}: nothing to train: no initializer is a weight through which a gradient "
                "reaches an output"
            )
        if nothing:
            raise UsageError(f"freeze: '{freeze}' leaves nothing of {name} to train")
        return module

    def _folded(self, model: ir.Model) -> ir.Model:
        """Return the compact model to which a model folds."""
        compact = fold_and_check(model, self.experiment.source)
        if not compact.report.sites:
            raise UnsupportedError(
                f"{self.experiment.source}: nothing folds, so that it has no compact model to "
                "compare with"
            )
        return compact.model

    def _train(
        self, name: str, model: ir.Model, data: Dataset, seed: int
    ) -> tuple[History, ir.Model]:
        """Execute one run; return its history and the trained model."""
        options = replace(self.setup.train, seed=seed)
        if name == _BASELINE:
            # A compact layer is its own product.
            options = replace(options, decay="layer")
        if self.settings.reinit:
            model = initialize(model, seed)
        teacher = self._teacher()
        module = self._student(model, name, teacher)
        self._explain(module, data)
        module.to(self.device)
        resume = self.settings.resume
        self.gone_on = resume
        # Only the first process renames an old checkpoint.
        path = self.folder.checkpoint(name, seed, resume=resume or not self.world.first)
        checkpoints = Checkpoints(
            path, self.settings.checkpoint_every, resume=resume, settings=self.setup.deciding
        )
        if resume:
            there = self.gone_on = path.exists()
            self._say(
                f"{path}: {'goes on' if there else 'no checkpoint; starts at the beginning'}"
            )
        title = f"{name}, seed {seed}" if self.settings.seeds > 1 else self.experiment.source
        with self._watched(title, name, seed, module, model) as progress:
            history = train(
                module, data, options, progress, teacher=teacher, checkpoints=checkpoints
            )
        return history, write_back(module, model)

    def _teacher(self) -> Distiller | None:
        options = self.setup.distill
        return Distiller(options.teacher, options).to(self.device) if options.teacher else None

    @contextlib.contextmanager
    def _watched(
        self, title: str, name: str, seed: int, module: torch.nn.Module, model: ir.Model
    ) -> Iterator[Progress | None]:
        if not self.world.first:
            yield None
            return

        def after(result: EpochResult) -> None:
            self.folder.add(name, seed, result)
            if self.events is not None:
                self.events.add(name, seed, result)
            if name == _MAIN and self.settings.fold_check and not self.checked:
                self.checked = True
                folded = fold_and_check(write_back(module, model), self.experiment.source)
                # A resumed run no longer has the weights of earlier epochs.
                when = "as it goes on" if self.gone_on else f"after epoch {result.epoch}"
                expanded = has_note(model) and not is_given_back(model)
                if folded.report.sites or expanded:
                    self._say(f"{when}: {folded.summary()}")

        with self.watcher.bar(title, self.setup.train.epochs) as bar:
            yield ProgressWithCallback(bar, after)

    def _finish(
        self, written: dict[str, ir.Model], runs: list[tuple[str, int, History]], data: Dataset
    ) -> Report:
        history, trained = runs[0][2], written[_MAIN]
        folded = None
        if self.world.first:
            # The trained model is written even if folding it fails.
            save(trained, self.experiment.target)
            if self.settings.save_weights is not None:
                weights.save_weights(trained, Path(self.settings.save_weights))
            if _BASELINE in written:
                place = self.folder.path / "baseline.onnx"
                save(written[_BASELINE], place)
                self._say(f"{place}: the compact model, trained from the first seed")
            if not self.folder.draw(history.metric):
                self._say("no curves.png: matplotlib is not installed")
            if self.events is not None:
                self.events.close()
            if self.settings.then_fold is not None:
                folded = fold_and_check(trained, self.experiment.source)
                save(folded.model, self.settings.then_fold)
                self._say(f"{self.settings.then_fold}: {folded.summary()}")
        comparison = losses = None
        if self.settings.compare_baseline is not None:
            names = (Path(self.experiment.source).name, "the compact model")
            parts = ([h for who, _, h in runs if who == name] for name in (_MAIN, _BASELINE))
            comparison, losses = messages.compare(names, *parts)
        report = Report(
            data.description, tuple(runs), comparison, folded, self.setup.as_dict(),
            (data.normalization.mean, data.normalization.std), losses, metadata.as_dict(data),
            Gallery.of(data, trained) if self.experiment.gallery else None,
        )  # fmt: skip
        for line in messages.conclusion(report, self.setup):
            self._say(line)
        return report

    def _say(self, line: str) -> None:
        if self.world.first:
            self.watcher.say(line)
