"""Execute the runs of a study: here, in parallel processes, or on a cluster.

Each engine retries, queues and monitors by itself. A run writes its checkpoints and its result
into the store, which must have the same path on all machines. Therefore a killed run resumes
wherever the engine restarts it, and a restarted study executes only the remaining runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.paper.job import Job
from onnx_expand.experiment.paper.runner import perform
from onnx_expand.plugins import optional

__all__ = ["Done", "Executor", "by_slurm", "in_pool", "in_process", "in_ray"]

# How often Ray restarts a run whose worker died.
_RETRIES = 3
# How often Slurm restarts a run that reached its time limit; each time it resumes.
_REQUEUES = 1000

# The index of a run in the list, and its result.
Done: TypeAlias = "tuple[int, Mapping[str, Any]]"


class Executor(Protocol):
    """Executes independent runs, in any order."""

    def __call__(self, jobs: Sequence[Job], place: Path) -> Iterator[Done]:
        """Yield the index and the result of each run as it ends."""


def in_process(jobs: Sequence[Job], place: Path) -> Iterator[Done]:
    """Execute runs sequentially in this process, with all threads that torch uses."""
    for number, job in enumerate(jobs):
        yield number, perform(job, place)


def in_pool(processes: int) -> Executor:
    """Create an executor of parallel processes with one thread each, by joblib.

    Raises:
        UnsupportedError: joblib is not installed.
    """
    joblib = optional("joblib", "the pool needs joblib: pip install joblib")

    def run(jobs: Sequence[Job], place: Path) -> Iterator[Done]:
        pool = joblib.Parallel(processes, return_as="generator_unordered", batch_size=1)
        task: Callable[..., Any] = joblib.delayed(_alone)
        yield from pool(task(number, job, place) for number, job in enumerate(jobs))

    return run


def in_ray(address: str | None = None) -> Executor:
    """Create an executor on a Ray cluster, with one core per run and retries.

    Args:
        address: The address of the cluster, as `ray.init` takes it; None starts a local one.

    Raises:
        UnsupportedError: Ray is not installed.
    """
    ray = optional("ray", "ray needs its extra: pip install 'onnx-expand[ray]'")

    def run(jobs: Sequence[Job], place: Path) -> Iterator[Done]:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_alone)
        waiting = [task.remote(number, job, place.resolve()) for number, job in enumerate(jobs)]
        while waiting:
            ended, waiting = ray.wait(waiting)
            try:
                yield from ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise _gone_wrong("Ray", error) from error

    return run


def by_slurm(logs: Path, parameters: Mapping[str, Any], cluster: str = "slurm") -> Executor:
    """Create an executor of Slurm jobs, one for each run, by submitit.

    Args:
        logs: The directory of Slurm's scripts and logs.
        parameters: Arguments of submitit's `update_parameters`, such as `slurm_partition`.
        cluster: `slurm`; `local` and `debug` do the same without Slurm.

    Raises:
        UnsupportedError: submitit is not installed.
    """
    submitit = optional("submitit", "slurm needs its extra: pip install 'onnx-expand[slurm]'")

    def run(jobs: Sequence[Job], place: Path) -> Iterator[Done]:
        engine = submitit.AutoExecutor(logs, cluster=cluster, slurm_max_num_timeout=_REQUEUES)
        engine.update_parameters(name="onnx-expand", cpus_per_task=1, **parameters)
        places = [place.resolve()] * len(jobs)
        sent = engine.map_array(_Resumable(), range(len(jobs)), jobs, places)
        for job in submitit.helpers.as_completed(sent):
            try:
                yield job.result()
            except (
                submitit.core.utils.FailedJobError,
                submitit.core.utils.UncompletedJobError,
            ) as error:
                raise _gone_wrong(f"{logs}: submitit's job {job.job_id}", error) from error

    return run


def _gone_wrong(who: str, error: Exception) -> UnsupportedError:
    """Convert an engine's error to one line; finished runs are kept."""
    # submitit puts the traceback between two rules, followed by the path of its logs.
    parts = re.split(r"^-{8,}$", str(error), flags=re.MULTILINE)
    text = parts[1] if len(parts) > 2 else str(error)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return UnsupportedError(f"{who}: {last.strip()}; start again to do what is left")


class _Resumable:
    """A run for submitit, which submits the result of `checkpoint` at the time limit."""

    def __call__(self, number: int, job: Job, place: Path) -> Done:
        """Execute the run, or the rest of it."""
        return _alone(number, job, place)

    def checkpoint(self, number: int, job: Job, place: Path) -> Any:
        """Resubmit the same run, which resumes from the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number, job, place)


def _alone(number: int, job: Job, place: Path) -> Done:
    """Execute a run with one thread: the small kernels of small networks do not gain from more."""
    torch.set_num_threads(1)
    return number, perform(job, place)
