"""A training step: gradients of all parts of a batch, over all processes, then an update."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.data.samples import Batch
from onnx_expand.experiment.training.averaging import ExponentialAverage
from onnx_expand.experiment.training.distill import Distiller
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.products import Penalty, rate_shares
from onnx_expand.experiment.training.synchronous import Synchronous
from onnx_expand.experiment.training.tasks import Task
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.composed import sharing_kernels

__all__ = ["Outcome", "Stepper", "to_device"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """Sums over this process's share of a step, as tensors, so that no device is waited for."""

    loss: torch.Tensor
    right: torch.Tensor
    weight: torch.Tensor


class Stepper:
    """Updates the weights of a module, step by step.

    The runner has the same weights as the module, and the outputs for the task.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        runner: torch.nn.Module,
        task: Task,
        options: TrainOptions,
        world: World,
        teacher: Distiller | None,
        *,
        unused: bool,
    ) -> None:
        self.task = task
        self.options = options
        self.world = world
        self.teacher = teacher
        self.runner = runner
        self.penalty = Penalty.of(module, options)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        learners: list[torch.nn.Parameter] = list(self.parameters)
        if teacher is not None and teacher.regressor is not None:
            learners += list(teacher.regressor.parameters())
        covered = self.penalty.covered if self.penalty is not None else []
        shares = rate_shares(module, options)
        self.optimizer = _optimizer(learners, options, {id(p) for p in covered}, shares)
        self.device = self.parameters[0].device
        self.dtype = self.parameters[0].dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.amp == "fp16")
        self.average = ExponentialAverage(module, options.ema)
        self.learners = learners
        self.statistics = [m for m in runner.modules() if isinstance(m, Synchronous)]
        self.parallel = _parallel(runner, self.device, unused) if world.size > 1 else None

    def run(self, parts: Sequence[Batch], rate: float) -> Outcome:
        """Run one step with this process's parts of a batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        weights = [self.task.weight(part.targets) if part.count else 0.0 for part in parts]
        total = torch.tensor(sum(weights), dtype=torch.float64, device=self.device)
        everything = float(self.world.sum(total.clone()).clamp(min=1.0))
        self.optimizer.zero_grad(set_to_none=True)
        losses, rights = [], []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            # Kernels are composed once for all parts.
            with self._only_last(last), sharing_kernels(self.runner, number, len(parts)):
                loss, right = self._part(part, everything, last=last)
            losses.append(loss)
            rights.append(right)
        outcome = Outcome(torch.stack(losses).sum(), torch.stack(rights).sum(), total)
        # On a CPU reading the loss is free; weights without a finite loss are kept for the
        # diagnosis.
        if self.device.type != "cpu" or bool(torch.isfinite(outcome.loss)):
            self._update()
            self.average.update()
        return outcome

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that sets the floating-point type of forward passes."""
        if self.options.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.options.amp])

    def _part(
        self, part: Batch, everything: float, *, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.task.inspect(part.targets)
        inputs, targets = to_device(part, self.device, self.dtype)
        for layer in self.statistics:
            layer.counts = part.count > 0
        with self.autocast():
            outputs = (self.parallel or self.runner)(inputs)
            taught = self._taught(inputs, outputs, part.count)
        outputs = _full(outputs)
        loss = self.task.loss(outputs, targets)
        if self.teacher is not None and taught is not None:
            loss = self.teacher.combine(loss, taught)
        if not part.count:
            # This process has no samples, but its gradients must still be combined with the
            # others'.
            loss = loss * 0.0
        # The gradients of processes are averaged, so the loss is divided by the sum over all.
        mean = loss / (everything / self.world.size)
        if last and self.penalty is not None:
            mean = mean + self.penalty()
        self.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            right = self.task.right(outputs, targets) if part.count else None
        value = loss.detach().double()
        return value, value.new_zeros(()) if right is None else right.double()

    def _taught(self, inputs: torch.Tensor, outputs: Any, count: int) -> torch.Tensor | None:
        return None if self.teacher is None else self.teacher(inputs, outputs, count)

    def _update(self) -> None:
        extra = self.teacher.regressor if self.teacher is not None else None
        if extra is not None and self.world.size > 1:
            for parameter in extra.parameters():
                if parameter.grad is not None:
                    self.world.sum(parameter.grad).div_(self.world.size)
        if self.options.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.learners, self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _only_last(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which processes exchange gradients only with the last part."""
        if self.parallel is None or last:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self.parallel.no_sync()
        return context

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without the module."""
        regressor = self.teacher.regressor if self.teacher is not None else None
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict(),
            "regressor": None if regressor is None else regressor.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])
        if self.teacher is not None and self.teacher.regressor is not None:
            self.teacher.regressor.load_state_dict(state["regressor"])


def to_device(part: Batch, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, Any]:
    """Move a batch to the device, with floating-point inputs in the model's type.

    On a CPU images are stored with channels last, without a change of shape. Layers preserve this
    memory format, and oneDNN's convolutions are at least as fast with it.
    """
    inputs = part.inputs
    kind = dtype if inputs.is_floating_point() else inputs.dtype
    images = inputs.is_floating_point() and inputs.ndim == 4 and device.type == "cpu"
    order = torch.channels_last if images else torch.preserve_format
    return (
        inputs.to(device, kind, non_blocking=True, memory_format=order),
        part.targets.to(device, non_blocking=True),
    )


def _full(outputs: Any) -> Any:
    """Convert outputs of half precision to float32, in which losses are summed."""
    if isinstance(outputs, tuple | list):
        return tuple(_full(output) for output in outputs)
    short = outputs.dtype in {torch.float16, torch.bfloat16}
    return outputs.float() if short else outputs


def _optimizer(
    parameters: Sequence[torch.nn.Parameter],
    options: TrainOptions,
    covered: set[int],
    shares: dict[torch.nn.Parameter, float],
) -> torch.optim.Optimizer:
    """Create the optimizer.

    Args:
        parameters: What is trained.
        options: The settings.
        covered: The identities of weights whose product is penalized; they have no decay of their
            own.
        shares: Factors of the learning rate.
    """
    grouped: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        decay = 0.0 if id(parameter) in covered else options.weight_decay
        grouped.setdefault((decay, shares.get(parameter, 1.0)), []).append(parameter)
    groups = [
        {"params": members, "weight_decay": decay, "share": share, "lr": options.lr * share}
        for (decay, share), members in grouped.items()
    ]
    if options.optimizer == "adamw":
        betas = (options.betas[0], options.betas[1])
        return torch.optim.AdamW(groups, lr=options.lr, betas=betas)
    return torch.optim.SGD(
        groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov
    )


def _parallel(
    runner: torch.nn.Module, device: torch.device, unused: bool
) -> DistributedDataParallel:
    try:
        return DistributedDataParallel(
            runner,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=unused,
        )
    except (RuntimeError, ValueError) as error:
        raise UnsupportedError(f"torch.distributed cannot share the model: {error}") from error
