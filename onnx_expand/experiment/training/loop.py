"""The training loop: epochs of steps, each followed by a test, with checkpoints."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.feed import Feed, epoch_order
from onnx_expand.experiment.data.samples import Batch
from onnx_expand.experiment.training.checkpoint import Checkpoints, digest
from onnx_expand.experiment.training.diagnosis import advice_on, tensor_label, where_not_finite
from onnx_expand.experiment.training.distill import Distiller
from onnx_expand.experiment.training.history import DivergedError, EpochResult, History, Progress
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.steps import Outcome, Stepper, to_device
from onnx_expand.experiment.training.synchronous import synchronous
from onnx_expand.experiment.training.tasks import Task, choose
from onnx_expand.experiment.training.trial import (
    figures_of,
    has_unused_weights,
    probe,
    two_samples,
)
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.composed import composed

__all__ = ["evaluate", "rehearse", "train"]

_LOG = logging.getLogger("onnx_expand.experiment")

_TEST_BATCH = 512
# The number of steps queued on a GPU before their losses are read.
_AHEAD = 32


def train(
    module: torch.nn.Module,
    data: Dataset,
    options: TrainOptions | None = None,
    progress: Progress | None = None,
    *,
    teacher: Distiller | None = None,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train a module in place, on its device.

    A classifier's loss is the cross-entropy of its first output, [N, classes]: logits, or the
    result of a final Softmax or LogSoftmax. Equal seeds give equal weights on the same machine. A
    resumed run gives the weights of an uninterrupted one, bit for bit on a CPU. If
    torch.distributed is initialized, the processes share each step.

    Args:
        module: The result of `to_torch`, or another module that takes the data's inputs.
        data: Samples and targets.
        options: The settings; by default `TrainOptions()`.
        progress: Notified of each step and epoch.
        teacher: The teacher to distill in addition to the labels.
        checkpoints: The checkpoint file.

    Raises:
        DivergedError: The loss became NaN or infinite; the last checkpoint is kept.
        UnsupportedError: Nothing in the module can be trained, it does not take the data, or a
            step does not fit in memory.
        UsageError: The data is labelled for another task, or a checkpoint belongs to another run.
    """
    options = options or TrainOptions()
    if not any(p.requires_grad for p in module.parameters()):
        raise UnsupportedError(
            "nothing to train: no initializer of the model is the weight of a node"
        )
    was_training = module.training
    device = next(p for p in module.parameters() if p.requires_grad).device
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(cuda),
            _algorithms(options.deterministic),
            synchronous(module, options.sync_bn and World.current().size > 1),
        ):
            return _Run(module, data, options, progress, teacher, checkpoints).finish()
    except (RuntimeError, ValueError) as error:
        advice = advice_on(error, options)
        if advice is None:
            raise
        raise advice from error
    finally:
        module.train(was_training)


def evaluate(
    module: torch.nn.Module,
    data: Dataset,
    *,
    batch: int = _TEST_BATCH,
    options: TrainOptions | None = None,
) -> float:
    """Return the score of a module on the test data (the accuracy of a classifier).

    Args:
        module: The module, which takes the data's inputs.
        data: Samples and targets.
        batch: The number of samples to run at once.
        options: Determine the task, if it is not that of the labels.
    """
    task = choose(options or TrainOptions(), data)
    runner = task.wrap(module)
    probe(runner, task, data)
    return next(iter(figures_of(runner, task, data, World.current(), batch, 0).values()))


def rehearse(module: torch.nn.Module, data: Dataset, options: TrainOptions | None = None) -> Task:
    """Check that a module takes the data and returns what the task needs, without training it.

    Returns:
        The task, with what it derived from the data: for detection, the anchors.

    Raises:
        UnsupportedError: The module does not fit.
        UsageError: The data is labelled for another task.
    """
    task = choose(options or TrainOptions(), data)
    probe(task.wrap(module), task, data)
    return task


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        module: torch.nn.Module,
        data: Dataset,
        options: TrainOptions,
        progress: Progress | None,
        teacher: Distiller | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.module, self.data, self.options = module, data, options
        self.progress, self.teacher, self.checkpoints = progress, teacher, checkpoints
        self.world = World.current()
        self.task = choose(options, data)
        wrapped = self.task.wrap(module, teacher.extras if teacher is not None else 0)
        self.runner = composed(wrapped, options.execution)
        outputs = probe(self.runner, self.task, data)
        idle = has_unused_weights(self.runner, data)
        if teacher is not None:
            inputs = two_samples(self.runner, data)[0]
            named = self.task.metric in {"accuracy", "mIoU"}
            teacher.prepare(inputs, outputs, distributions=named)
            teacher.train()
        self.step = Stepper(
            module, self.runner, self.task, options, self.world, teacher, unused=idle
        )
        self.feed = Feed(data.train, options.seed, self.world, options.accumulate, options.workers)
        self.order = torch.Generator().manual_seed(options.seed)
        self.history: list[EpochResult] = []
        self.best: dict[str, Any] | None = None
        self.epoch, self.done = 0, 0
        self.sums = [0.0, 0.0, 0.0]
        # Indices of training and of test samples.
        self.unreadable: tuple[set[int], set[int]] = (set(), set())
        self.sound = [
            name for name, tensor in module.state_dict().items()
            if tensor.is_floating_point() and bool(torch.isfinite(tensor).all())
        ]  # fmt: skip
        self.waiting: list[tuple[int, Outcome]] = []
        self.identity = self._identity() if checkpoints is not None else ""
        self.begun = time.perf_counter()

    def _identity(self) -> str:
        """Return a hash that identifies this run among those with the same options."""
        facts: dict[str, object] = {"task": self.task.metric}
        for name, samples in (("train", self.data.train), ("test", self.data.test)):
            facts[name] = (len(samples), samples.fingerprint())
        if self.teacher is not None:
            facts["teacher"] = digest(self.teacher.teacher, {})
        return digest(self.module, facts)

    def finish(self) -> History:
        """Run to the end."""
        # Dropout differs between processes, and is reproduced with the same number of them.
        torch.manual_seed(self.options.seed + 1_000_003 * self.world.rank)
        self._load()
        while self.epoch < self.options.epochs and not self._stalled():
            self._epoch()
        kept = len(self.history)
        if self.options.keep == "best" and self.best is not None:
            kept = self.best["epoch"]
            self.module.load_state_dict(self.best["module"])
        else:
            self.step.average.apply()
        missing = zip((self.data.train, self.data.test), self._missing(), strict=True)
        left_out = tuple(part.name(index) for part, some in missing for index in sorted(some))
        return History(tuple(self.history), self.task.metric, self.task.greater, kept, left_out)

    def _stalled(self) -> bool:
        """Return whether the best test score is `patience` epochs old."""
        if not self.options.patience or not self.history or self.done:
            return False
        sign = 1 if self.task.greater else -1
        scores = [sign * result.test_score for result in self.history]
        return len(scores) - 1 - scores.index(max(scores)) >= self.options.patience

    def _epoch(self) -> None:
        """Run the remaining steps of an epoch."""
        options = self.options
        self.order_before = self.order.get_state()
        order = epoch_order(len(self.data.train), options.batch, self.order)
        if self.done == 0 and options.reset_momentum:
            self.step.optimizer.state.clear()
        self.runner.train()
        rate = options.rate(self.epoch)
        for parts in self.feed.epoch(order, self.epoch, self.done):
            rate = options.rate(self.epoch + self.done / len(order), len(order))
            self._step(parts, rate)
            if self.progress is not None:
                self.progress.on_batch(self.done, len(order))
            due = self.checkpoints is not None and self.checkpoints.due(self.done)
            if due and self.done < len(order):
                self._save()
        self._look()
        result = self._result(rate)
        self.history.append(result)
        self.epoch, self.done, self.sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        self.order_before = self.order.get_state()
        if self.checkpoints is not None:
            self._save()
        self.begun = time.perf_counter()

    def _step(self, parts: list[Batch], rate: float) -> None:
        for part in parts:
            self.unreadable[0].update(part.unreadable)
        self.last = parts
        outcome = self.step.run(parts, rate)
        self.done += 1
        self.waiting.append((self.done, outcome))
        if self.step.device.type == "cpu" or len(self.waiting) >= _AHEAD:
            self._look()

    def _look(self) -> None:
        """Read the losses of the steps that have not been read.

        Raises:
            DivergedError: A loss is not finite.
        """
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        rows = torch.stack([torch.stack([o.loss, o.right, o.weight]) for _, o in waiting])
        for (step, _), row in zip(waiting, self.world.sum(rows).tolist(), strict=True):
            if not math.isfinite(row[0]):
                self._diverged(step, row[0])
            self.sums = [total + value for total, value in zip(self.sums, row, strict=True)]

    def _diverged(self, step: int, value: float) -> None:
        place = ""
        for part in self.last:
            inputs, _ = to_device(part, self.step.device, self.step.dtype)
            place = place or where_not_finite(self.module, inputs, self.sound)
        raise DivergedError(
            f"the loss is {value} in epoch {self.epoch + 1}, step {step}; lower the learning "
            f"rate of {self.options.rate(self.epoch):g}{place}{self._last_good()}"
        )

    def _last_good(self) -> str:
        """Describe where the last good state is, for the end of a sentence."""
        if self.checkpoints is None or not self.checkpoints.path.exists() or not self.history:
            return ""
        return f"; the state after epoch {len(self.history)} is in {self.checkpoints.path}"

    def _broken(self) -> str:
        """Return the name of a tensor that was finite initially and is not now, if any."""
        state = self.module.state_dict()
        return next((n for n in self.sound if not bool(torch.isfinite(state[n]).all())), "")

    def _missing(self) -> list[set[int]]:
        """Return the unreadable training and test samples of all processes."""
        every = self.world.gather(self.unreadable)
        return [set().union(*(mine[place] for mine in every)) for place in (0, 1)]

    def _result(self, rate: float) -> EpochResult:
        """Test, report, and keep the weights if they are the best so far."""
        broken = self._broken()
        if broken:
            raise DivergedError(
                f"after epoch {self.epoch + 1} {tensor_label(self.module, broken)} is no "
                f"longer finite; lower the learning rate of {self.options.rate(self.epoch):g}"
                f"{self._last_good()}"
            )
        loss, right, weight = self.sums
        scored = type(self.task).right is not Task.right
        with self.step.average.swapped() if self.options.ema else contextlib.nullcontext():
            # Statistics of each process's samples differ; the test uses those that will be
            # written.
            self.world.spread(b for b in self.module.buffers() if b.is_floating_point())
            with self.step.autocast():
                figures = figures_of(
                    self.runner, self.task, self.data, self.world, _TEST_BATCH,
                    self.options.workers, self.unreadable[1],
                )  # fmt: skip
            score = next(iter(figures.values()))
            if not math.isfinite(score):
                raise DivergedError(
                    f"the {self.task.metric} after epoch {self.epoch + 1} is {score}; lower the "
                    f"learning rate of {self.options.rate(self.epoch):g}"
                )
            missing = sum(len(part) for part in self._missing())
            result = EpochResult(
                self.epoch + 1, rate, loss / weight if weight else 0.0,
                right / weight if scored and weight else None, score,
                time.perf_counter() - self.begun, figures, missing,
            )  # fmt: skip
            self._keep(result)
            _LOG.info("epoch %d: loss %.4g, test %.4g", result.epoch, result.loss, score)
            if self.progress is not None:
                self.progress.on_epoch(result)
        return result

    def _keep(self, result: EpochResult) -> None:
        if self.options.keep != "best":
            return
        sign = 1 if self.task.greater else -1
        if self.best is None or sign * result.test_score > sign * self.best["score"]:
            state = {k: t.detach().clone() for k, t in self.module.state_dict().items()}
            self.best = {"score": result.test_score, "epoch": result.epoch, "module": state}

    def _save(self) -> None:
        """Write a checkpoint, unless tensors are no longer finite."""
        assert self.checkpoints is not None
        self._look()
        device = self.step.device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        states = self.world.gather({"cpu": torch.get_rng_state(), "cuda": cuda})
        if not self.world.first or self._broken():
            return
        state = {
            "epoch": self.epoch,
            "done": self.done,
            "sums": self.sums,
            "order": self.order_before,
            "random": states,
            "module": self.module.state_dict(),
            "step": self.step.state_dict(),
            "best": self.best,
            "history": [asdict(result) for result in self.history],
            "unreadable": [sorted(part) for part in self.unreadable],
        }
        self.checkpoints.save(state, self.options, self.identity)

    def _load(self) -> None:
        if self.checkpoints is None:
            return
        state = self.checkpoints.load(self.options, self.identity)
        if state is None:
            return
        self.epoch, self.done, self.sums = state["epoch"], state["done"], list(state["sums"])
        self.order.set_state(state["order"])
        self.module.load_state_dict(state["module"])
        self.step.load_state_dict(state["step"])
        self.best = state["best"]
        self.history = [EpochResult(**entry) for entry in state["history"]]
        first, second = map(set, state["unreadable"])
        self.unreadable = (first, second)
        if self.epoch > self.options.epochs:
            raise UsageError(
                f"{self.checkpoints.path}: has {self.epoch} epochs, but {self.options.epochs} are "
                "requested"
            )
        if self.world.rank < len(state["random"]):
            mine = state["random"][self.world.rank]
            torch.set_rng_state(mine["cpu"])
            if mine["cuda"] is not None and self.step.device.type == "cuda":
                torch.cuda.set_rng_state(mine["cuda"], self.step.device)
        if self.progress is not None:
            for result in self.history:
                self.progress.on_epoch(result)


@contextlib.contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Use only bitwise reproducible algorithms during the block."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
