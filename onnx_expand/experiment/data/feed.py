"""The order of samples, and this process's share of each step."""

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

__all__ = ["Feed", "epoch_order", "steps_of", "testing"]

Picks = npt.NDArray[np.int64]


def epoch_order(count: int, batch: int, generator: torch.Generator) -> list[Picks]:
    """The samples of each step; a rest of one sample, of which no BN has statistics, is left."""
    shuffled = torch.randperm(count, generator=generator).numpy()
    parts = [shuffled[start : start + batch] for start in range(0, count, batch)]
    if len(parts) > 1 and len(parts[-1]) == 1 < batch:
        parts.pop()
    return parts


def steps_of(count: int, batch: int) -> int:
    """How many steps an epoch has."""
    return len(epoch_order(count, batch, torch.Generator()))


@dataclass(frozen=True)
class Feed:
    """Reads what each step needs, in this process or in workers.

    What a sample looks like depends on the seed, the epoch, the step and its place in the step
    alone: not on who reads it, nor on how many processes share the work.

    Attributes:
        samples: What is trained on.
        seed: Decides augmentation.
        world: The processes that share each step.
        parts: In how many parts each step is run; the processes share each part.
        workers: Processes that read for this one.
    """

    samples: Samples
    seed: int
    world: World
    parts: int = 1
    workers: int = 0

    def epoch(self, order: list[Picks], epoch: int, first: int) -> Iterator[list[Batch]]:
        """The parts of each step, from a step on.

        Args:
            order: The samples of each step, over all processes.
            epoch: Its number, from 0.
            first: The first step that is wanted, from 0.
        """
        rest = range(first, len(order))
        requests = _Lazy(
            lambda: (request for s in rest for request in self._requests(order[s], epoch, s))
        )
        batches = _loader(self.samples, requests, self.workers)
        for step in rest:
            # What has nothing to do in a part runs a sample that does not count: all processes
            # run the same number of parts, or one would wait for another that has finished.
            yield [
                next(batches) if len(self._share(part)) else _idle(next(batches))
                for part in self._parts(order[step])
            ]

    def _parts(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """What belongs to each part of a step."""
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
    """Requests that are made when they are asked for: those of an epoch may not fit in memory.

    Args:
        make: Begins anew.
    """

    def __init__(self, make: Callable[[], Iterator[Request]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Request]:
        return self.make()


def testing(samples: Samples, batch: int, world: World, workers: int) -> Iterator[Batch]:
    """This process's share of the test samples."""
    mine = np.arange(len(samples))[world.rank :: world.size]
    requests = _Lazy(
        lambda: ((mine[start : start + batch], None) for start in range(0, len(mine), batch))
    )
    yield from _loader(samples, requests, workers)


def _loader(samples: Samples, requests: _Lazy, workers: int) -> Iterator[Batch]:
    if not workers:
        yield from (samples.fetch(*request) for request in requests)
        return
    # The loader draws a seed for its workers: not from the generator that dropout uses.
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
