"""Try a module on data: check that they fit before training, and compute the score after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from onnx_expand.errors import ModelError, UnsupportedError, first_line
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.feed import testing
from onnx_expand.experiment.data.samples import Batch, Samples
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.steps import to_device
from onnx_expand.experiment.training.tasks import Task

__all__ = ["figures_of", "first_readable", "has_unused_weights", "probe", "two_samples"]


def figures_of(
    runner: torch.nn.Module,
    task: Task,
    data: Dataset,
    world: World,
    batch: int,
    workers: int,
    unreadable: set[int] | None = None,
) -> Mapping[str, float]:
    """Return the figures of the test data.

    Args:
        runner: A module that takes the data's inputs.
        task: The task.
        data: Samples and targets.
        world: The processes that share the work.
        batch: The number of samples to run at once.
        workers: The number of processes that read for this one.
        unreadable: Collects the indices of the samples that cannot be read.

    Raises:
        ModelError: None of the samples can be read.
    """
    was_training = runner.training
    runner.eval()
    meter = task.meter()
    weight = next(runner.parameters())
    count = torch.zeros((), device=weight.device)
    with torch.inference_mode():
        for part in testing(data.test, batch, world, workers):
            if unreadable is not None:
                unreadable.update(part.unreadable)
            if not part.count:
                continue
            count += part.count
            task.inspect(part.targets)
            inputs, targets = to_device(part, weight.device, weight.dtype)
            meter.update(runner(inputs), targets)
    if not world.sum(count):
        raise ModelError("none of the test images can be read")
    meter.merge(world)
    runner.train(was_training)
    return meter.figures()


def two_samples(runner: torch.nn.Module, data: Dataset) -> tuple[torch.Tensor, Any]:
    """Return two training samples without augmentation."""
    weight = next(runner.parameters())
    return to_device(first_readable(data.train, 2), weight.device, weight.dtype)


def first_readable(samples: Samples, count: int) -> Batch:
    """Return the first samples of which some can be read, without augmentation.

    Raises:
        ModelError: There are none.
    """
    for first in range(0, len(samples), count):
        batch = samples.fetch(np.arange(first, min(first + count, len(samples))), None)
        if batch.count:
            return batch
    raise ModelError("none of the training images can be read")


def probe(runner: torch.nn.Module, task: Task, data: Dataset) -> Any:
    """Run two samples, so that errors are reported before training starts."""
    inputs, targets = two_samples(runner, data)
    was_training = runner.training
    runner.eval()
    try:
        with torch.no_grad():
            outputs = runner(inputs)
            # A graph of a fixed batch size might accept this batch by chance, but no other.
            runner(torch.cat([inputs, inputs[:1]]))
    except (RuntimeError, TypeError, IndexError) as error:
        reason = first_line(error)
        raise UnsupportedError(
            f"the model does not run on a batch of {list(inputs.shape)}: {reason}; export it with "
            "a dynamic batch axis and one input, and give the image_size that it takes"
        ) from error
    finally:
        runner.train(was_training)
    task.probe(outputs, targets)
    _check_classes(outputs, data, task)
    return outputs


def _check_classes(outputs: Any, data: Dataset, task: Task) -> None:
    """Check that there is an output for every label, if the labels are in memory."""
    if task.metric not in {"accuracy", "mIoU"}:
        return
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    for samples in (data.train, data.test):
        y = getattr(samples, "y", getattr(getattr(samples, "targets", None), "values", None))
        if not isinstance(y, np.ndarray):
            continue
        labels = int(np.max(y, where=y != data.ignore_label, initial=0))
        if labels >= first.shape[1]:
            raise UnsupportedError(
                f"the model has {first.shape[1]} classes, and the data has a label {labels}"
            )


def has_unused_weights(runner: torch.nn.Module, data: Dataset) -> bool:
    """Return whether some weights have no gradient, which torch.distributed needs to know."""
    if World.current().size == 1:
        return False
    was_training = runner.training
    runner.eval()
    outputs = runner(two_samples(runner, data)[0])
    every = outputs if isinstance(outputs, tuple) else (outputs,)
    trained = [p for p in runner.parameters() if p.requires_grad]
    total = sum(output.sum() for output in every if output.is_floating_point())
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    runner.train(was_training)
    return any(gradient is None for gradient in gradients)
