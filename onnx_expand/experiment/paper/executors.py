"""How the runs of a study are done: one after the other, or by processes side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.paper.job import Job
from onnx_expand.experiment.paper.runner import perform

__all__ = ["Done", "Executor", "in_pool", "in_process"]

# The place of a run in the list, and its result.
Done: TypeAlias = "tuple[int, Mapping[str, Any]]"


class Executor(Protocol):
    """Does independent runs, in any order."""

    def __call__(self, jobs: Sequence[Job], place: Path) -> Iterator[Done]:
        """Each run's place in the list and its result, as they end."""


def in_process(jobs: Sequence[Job], place: Path) -> Iterator[Done]:
    """One after the other, in this process, with all threads that torch takes."""
    for number, job in enumerate(jobs):
        yield number, perform(job, place)


def in_pool(processes: int) -> Executor:
    """Some processes side by side, each with one thread, by joblib.

    Raises:
        UnsupportedError: joblib is not installed.
    """
    try:
        import joblib
    except ImportError as error:
        raise UnsupportedError("the pool needs joblib: pip install joblib") from error

    def run(jobs: Sequence[Job], place: Path) -> Iterator[Done]:
        pool = joblib.Parallel(processes, return_as="generator_unordered", batch_size=1)
        task: Callable[..., Any] = joblib.delayed(_alone)
        yield from pool(task(number, job, place) for number, job in enumerate(jobs))

    return run


def _alone(number: int, job: Job, place: Path) -> Done:
    """A run in a process of its own: the small kernels of small networks gain by no threads."""
    torch.set_num_threads(1)
    return number, perform(job, place)
