"""The order of samples, and this process's share of each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from onnx_expand.train.augment import DRAWS
from onnx_expand.train.parallel import World
from onnx_expand.train.samples import Batch, Request, Samples

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
        parts: In how many parts each process runs its share.
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
        steps = [self._requests(order[s], epoch, s) for s in range(first, len(order))]
        flat = [request for step in steps for request in step]
        batches = iter(_loader(self.samples, flat, self.workers))
        for picks, step in zip(order[first:], steps, strict=True):
            # A process that has nothing to do in a step runs a sample that does not count.
            idle = len(self._share(picks)) == 0
            parts = [next(batches) for _ in step]
            yield [_idle(part) for part in parts] if idle else parts

    def _share(self, picks: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.array_split(picks, self.world.size)[self.world.rank]

    def _requests(self, picks: Picks, epoch: int, step: int) -> list[Request]:
        draws = np.random.default_rng([self.seed, epoch, step]).random((len(picks), DRAWS))
        mine, rows = self._share(picks), self._share(draws)
        if not len(mine):
            mine, rows = picks[:1], draws[:1]
        count = min(self.parts, len(mine))
        pairs = zip(np.array_split(mine, count), np.array_split(rows, count), strict=True)
        return list(pairs)


def testing(samples: Samples, batch: int, world: World, workers: int) -> Iterator[Batch]:
    """This process's share of the test samples."""
    mine = np.arange(len(samples))[world.rank :: world.size]
    requests: list[Request] = [
        (mine[start : start + batch], None) for start in range(0, len(mine), batch)
    ]
    yield from _loader(samples, requests, workers)


def _loader(samples: Samples, requests: list[Request], workers: int) -> Any:
    if not workers:
        return (samples.fetch(*request) for request in requests)
    return DataLoader(samples, batch_size=None, sampler=requests, num_workers=workers)  # type: ignore[arg-type]


def _idle(batch: Batch) -> Batch:
    return Batch(batch.inputs, batch.targets, 0, batch.unreadable)
