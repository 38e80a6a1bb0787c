"""Analyze how a network trains: similarity of gradients, and the loss around its weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.training.history import EpochResult, Progress
from onnx_expand.experiment.training.tasks import choose
from onnx_expand.model import replacing
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.composed import composed

__all__ = ["GradientWatch", "landscape", "similarities"]

_SAMPLES = 512
_REACH = 1.0


def similarities(
    module: torch.nn.Module, data: Dataset, *, pairs: int, batch: int, seed: int
) -> tuple[float, ...]:
    """Return cosine similarities of the gradients of random pairs of mini-batches.

    Sankararaman et al. (ICML 2020) call the smallest of them gradient confusion. Gradients are
    those of training mode, of all trained weights, without augmentation; the two batches of a pair
    share no sample.

    Args:
        module: The module, which is not modified.
        data: The data, of which the training samples are used.
        pairs: The number of pairs.
        batch: The samples of a batch, at most half of all.
        seed: The seed of the selection.
    """
    own = copy.deepcopy(module).train()
    task = choose(TrainOptions(), data)
    runner = composed(task.wrap(own), "auto").train()
    weights = [p for p in own.parameters() if p.requires_grad]
    random = np.random.default_rng(seed)
    batch = min(batch, len(data.train) // 2)

    def gradient(picks: npt.NDArray[np.int64]) -> torch.Tensor:
        samples = data.train.fetch(picks, None)
        loss = task.loss(runner(samples.inputs), samples.targets)
        parts = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None]).double()

    found = []
    with torch.random.fork_rng([]):  # dropout must not change the random numbers of the run
        for _ in range(pairs):
            picks = random.choice(len(data.train), 2 * batch, replace=False)
            both = gradient(picks[:batch]), gradient(picks[batch:])
            found.append(float(torch.nn.functional.cosine_similarity(*both, dim=0)))
    return tuple(found)


class GradientWatch:
    """Measures the similarities after each epoch, and stores them beside the run's checkpoint.

    Args:
        inner: Another progress to notify.
        module: The module that is trained.
        data: The data.
        pairs: See `similarities`.
        batch: See `similarities`.
        path: The file of the similarities, so that a resumed run has those of its earlier epochs.
    """

    def __init__(
        self,
        inner: Progress | None,
        module: torch.nn.Module,
        data: Dataset,
        pairs: int,
        batch: int,
        path: Path,
    ) -> None:
        self.inner, self.module, self.data = inner, module, data
        self.pairs, self.batch, self.path = pairs, batch, path
        self.found: dict[str, tuple[float, ...]] = {}
        if path.exists():
            self.found = json.loads(path.read_text(encoding="utf-8"))

    def on_batch(self, done: int, total: int) -> None:
        """See `Progress`."""
        if self.inner is not None:
            self.inner.on_batch(done, total)

    def on_epoch(self, result: EpochResult) -> None:
        """See `Progress`."""
        self.found[str(result.epoch)] = similarities(
            self.module, self.data, pairs=self.pairs, batch=self.batch, seed=result.epoch
        )
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(self.found), encoding="utf-8")
        if self.inner is not None:
            self.inner.on_epoch(result)

    def epochs(self) -> list[list[float]]:
        """Return the similarities of each epoch."""
        return [list(self.found[key]) for key in sorted(self.found, key=int)]


def landscape(
    module: torch.nn.Module, data: Dataset, *, points: int, seed: int
) -> list[list[float]]:
    """Compute the training loss on a plane through the weights, along two random directions.

    A direction is normal, with each filter scaled to the norm of the filter of the weight; biases
    and normalizations are fixed (Li et al., NeurIPS 2018).

    Args:
        module: The module, which is not modified.
        data: The data, of which at most 512 training samples are used.
        points: The number of points on each axis, from -1 to 1 filter norms.
        seed: The seed of directions and samples.

    Returns:
        [points, points]; for an odd number the weights are in the middle.
    """
    own = copy.deepcopy(module).eval()
    task = choose(TrainOptions(), data)
    runner = task.wrap(own)
    random = np.random.default_rng(seed)
    picks = random.permutation(len(data.train))[:_SAMPLES]
    samples = data.train.fetch(np.sort(picks), None)
    weights = [p for p in own.parameters() if p.requires_grad and p.ndim > 1]
    before = [weight.detach().clone() for weight in weights]
    first, second = ([_direction(w, random) for w in before] for _ in range(2))
    steps = np.linspace(-_REACH, _REACH, points)
    rows = []
    with torch.no_grad():
        for down in steps:
            row = []
            for right in steps:
                for weight, middle, a, b in zip(weights, before, first, second, strict=True):
                    weight.copy_(middle + down * a + right * b)
                loss = task.loss(runner(samples.inputs), samples.targets)
                row.append(float(loss) / task.weight(samples.targets))
            rows.append(row)
    return rows


def _direction(weight: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    drawn = torch.from_numpy(random.normal(size=tuple(weight.shape))).to(weight)
    axes = tuple(range(1, weight.ndim))
    lengths = [t.square().sum(dim=axes, keepdim=True).sqrt() for t in (weight, drawn)]
    return drawn * lengths[0] / lengths[1].clamp(min=1e-30)
