"""The training loop: stochastic gradient descent on the cross-entropy of one output."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UnsupportedError
from onnx_expand.train.data import Dataset
from onnx_expand.train.head import log_probabilities
from onnx_expand.train.options import (
    DivergedError,
    EpochResult,
    History,
    Progress,
    TrainOptions,
)

__all__ = ["evaluate", "train"]


def train(
    module: torch.nn.Module,
    data: Dataset,
    options: TrainOptions | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a classifier in place, on the device where it is.

    The loss is the cross-entropy of the first output, [N, classes], of logits or of what a final
    Softmax or LogSoftmax makes of them. The same seed gives the same weights on the same machine.

    Args:
        module: What `to_torch` returns, or another module that takes [N, C, H, W].
        data: Images and labels.
        options: The settings; the defaults when missing.
        progress: Is told about each step and epoch.

    Raises:
        DivergedError: The loss became NaN or infinite.
        UnsupportedError: Nothing in the module can be trained, or it does not take or classify
            the data.
    """
    options = options or TrainOptions()
    parameters = [tensor for tensor in module.parameters() if tensor.requires_grad]
    if not parameters:
        raise UnsupportedError(
            "nothing to train: no initializer of the model is the weight of a node"
        )
    classifier = log_probabilities(module)
    _probe(classifier, data)
    optimizer = torch.optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    order = torch.Generator().manual_seed(options.seed)
    results = []
    was_training = module.training
    device = parameters[0].device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(options.seed)
            for epoch in range(options.epochs):
                result = _epoch(classifier, data, options, optimizer, order, epoch, progress)
                results.append(result)
                if progress is not None:
                    progress.on_epoch(result)
    finally:
        classifier.train(was_training)
    return History(tuple(results))


def evaluate(module: torch.nn.Module, data: Dataset, *, batch: int = 512) -> float:
    """The share of the test samples that a classifier gets right, in evaluation mode.

    Args:
        module: Takes [N, C, H, W]; its first output is [N, classes].
        data: Images and labels.
        batch: How many samples to run at once.
    """
    was_training = module.training
    module.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(data.y_test), batch):
            scores = _scores(module, data.x_test[start : start + batch])
            labels = torch.from_numpy(data.y_test[start : start + batch]).to(scores.device)
            right += int((scores.argmax(dim=1) == labels).sum())
    module.train(was_training)
    return right / len(data.y_test)


def _epoch(
    classifier: torch.nn.Module,
    data: Dataset,
    options: TrainOptions,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
    epoch: int,
    progress: Progress | None,
) -> EpochResult:
    begin = time.perf_counter()
    for group in optimizer.param_groups:
        group["lr"] = options.rate(epoch)
    classifier.train()
    batches = _batches(len(data.y_train), options.batch, order)
    loss_sum, right, seen = 0.0, 0, 0
    for step, picks in enumerate(batches, 1):
        scores = _scores(classifier, data.x_train[picks])
        labels = torch.from_numpy(data.y_train[picks]).to(scores.device)
        loss = F.nll_loss(scores, labels)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} in epoch {epoch + 1}, step {step}; lower the learning rate "
                f"of {options.rate(epoch):g}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += value * len(picks)
        right += int((scores.detach().argmax(dim=1) == labels).sum())
        seen += len(picks)
        if progress is not None:
            progress.on_batch(step, len(batches))
    accuracy = evaluate(classifier, data)
    seconds = time.perf_counter() - begin
    return EpochResult(
        epoch + 1, options.rate(epoch), loss_sum / seen, right / seen, accuracy, seconds
    )


def _batches(count: int, batch: int, order: torch.Generator) -> list[npt.NDArray[np.int64]]:
    """The samples of each step; a rest of one sample, of which no BN has statistics, is left."""
    shuffled = torch.randperm(count, generator=order).numpy()
    parts = [shuffled[start : start + batch] for start in range(0, count, batch)]
    if len(parts) > 1 and len(parts[-1]) == 1 < batch:
        parts.pop()
    return parts


def _scores(classifier: torch.nn.Module, images: npt.NDArray[np.float32]) -> torch.Tensor:
    """The first output as [N, classes]."""
    weight = next(classifier.parameters())
    output = classifier(torch.from_numpy(images).to(weight.device, weight.dtype))
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    # What ends in a pool or a convolution has trailing axes of extent 1.
    return first.flatten(1) if first.ndim > 2 and first.shape[2:].numel() == 1 else first


def _probe(classifier: torch.nn.Module, data: Dataset) -> None:
    """Run two samples, so that what does not fit is said before anything is trained."""
    images = data.x_train[:2]
    given = f"a batch of {list(images.shape)}"
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.no_grad():
            scores = _scores(classifier, images)
    except (RuntimeError, TypeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedError(
            f"the model does not run on {given}: {reason}; export it with a dynamic batch axis, "
            "and one input of images"
        ) from error
    finally:
        classifier.train(was_training)
    labels = max(int(data.y_train.max()), int(data.y_test.max()))
    if scores.ndim != 2 or scores.shape[0] != len(images) or not scores.is_floating_point():
        raise UnsupportedError(
            f"the first output of {given} is {list(scores.shape)}; training needs [N, classes]"
        )
    if scores.shape[1] <= labels:
        raise UnsupportedError(
            f"the model has {scores.shape[1]} classes, and the data has a label {labels}"
        )
