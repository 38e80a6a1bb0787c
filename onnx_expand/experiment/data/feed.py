"""The order of samples, and the share of each step that this process runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from onnx_expand.errors import OnnxExpandError
from onnx_expand.experiment.data.augment import DRAWS
from onnx_expand.experiment.data.samples import Batch, Request, Samples
from onnx_expand.experiment.training.parallel import World

__all__ = ["Feed", "epoch_order", "testing"]

Picks = npt.NDArray[np.int64]


def epoch_order(count: int, batch: int, generator: torch.Generator) -> list[Picks]:
    """Return the samples of each step, without a last batch of one, which BN cannot normalize."""
    shuffled = torch.randperm(count, generator=generator).numpy()
    parts = [shuffled[start : start + batch] for start in range(0, count, batch)]
    if len(parts) > 1 and len(parts[-1]) == 1 < batch:
        parts.pop()
    return parts


@dataclass(frozen=True)
class Feed:
    """Reads the batches of each step, in this process or in workers.

    An augmented sample depends only on the seed, the epoch, the step and its position in the step,
    not on the process that reads it or the number of processes.

    Attributes:
        samples: The training samples.
        seed: The seed of augmentation.
        world: The processes that share each step.
        parts: The number of parts of each step; the processes share each part.
        workers: The number of processes that read for this one.
    """

    samples: Samples
    seed: int
    world: World
    parts: int = 1
    workers: int = 0

    def epoch(self, order: list[Picks], epoch: int, first: int) -> Iterator[list[Batch]]:
        """Yield the parts of each step, starting at a given step.

        Args:
            order: The samples of each step, over all processes.
            epoch: The index of the epoch, from 0.
            first: The index of the first step, from 0.
        """
        rest = range(first, len(order))
        requests = _Lazy(
            lambda: (request for s in rest for request in self._requests(order[s], epoch, s))
        )
        batches = _loader(self.samples, requests, self.workers)
        for step in rest:
            # A process without samples in a part runs one that does not count: all processes must
            # run the same number of parts, since otherwise one would wait for another that has
            # finished.
            yield [
                next(batches) if len(self._share(part)) else _idle(next(batches))
                for part in self._parts(order[step])
            ]

    def _parts(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Split the samples of a step into parts."""
        return np.array_split(rows, max(1, min(self.parts, len(rows))))

    def _share(self, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.array_split(part, self.world.size)[self.world.rank]

    def _requests(self, picks: Picks, epoch: int, step: int) -> list[Request]:
        draws = np.random.default_rng([self.seed, epoch, step]).random((len(picks), DRAWS))
        requests: list[Request] = []
        for part, rows in zip(self._parts(picks), self._parts(draws), strict=True):
            mine, own = self._share(part), self._share(rows)
            requests.append((mine, own) if len(mine) else (part[:1], rows[:1]))
        return requests


class _Lazy:
    """Requests that are created on demand, since those of an epoch may not fit in memory."""

    def __init__(self, make: Callable[[], Iterator[Request]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Request]:
        return self.make()


def testing(samples: Samples, batch: int, world: World, workers: int) -> Iterator[Batch]:
    """Yield this process's share of the test samples."""
    mine = np.arange(len(samples))[world.rank :: world.size]
    requests = _Lazy(
        lambda: ((mine[start : start + batch], None) for start in range(0, len(mine), batch))
    )
    yield from _loader(samples, requests, workers)


def _loader(samples: Samples, requests: _Lazy, workers: int) -> Iterator[Batch]:
    if not workers:
        yield from (samples.fetch(*request) for request in requests)
        return
    # The loader draws a seed for its workers, but not from the generator that dropout uses.
    loader: DataLoader[Batch | OnnxExpandError] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, OnnxExpandError):
            raise batch
        yield batch


def _idle(batch: Batch) -> Batch:
    return Batch(batch.inputs, batch.targets, 0, batch.unreadable)
