"""How the runs of a study are done: here, by processes side by side, or by a cluster's engine.

Each engine retries, queues and watches by itself. A run writes its checkpoints and its result into
the store, which all machines must see under the same path; so one that is killed goes on, wherever
the engine starts it again, and a study that is started again does what is left.
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

__all__ = ["Done", "Executor", "by_slurm", "in_pool", "in_process", "in_ray"]

# How often Ray starts a run again whose worker died.
_RETRIES = 3
# How often Slurm starts a run again whose time was over; each time it goes on.
_REQUEUES = 1000

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


def in_ray(address: str | None = None) -> Executor:
    """The workers of a Ray cluster, each run on one core; what a dead worker did is done again.

    Args:
        address: Of the cluster, as `ray.init` takes it; a local one is started where it is None.

    Raises:
        UnsupportedError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UnsupportedError("ray needs its extra: pip install 'onnx-expand[ray]'") from error

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
    """An array of Slurm jobs, one for each run, by submitit.

    A job that is preempted, or whose time is over, is put back into the queue, and its run goes on
    from its last epoch.

    Args:
        logs: Where Slurm's scripts and logs go.
        parameters: What submitit's `update_parameters` takes: `slurm_partition` for instance, or
            `timeout_min`, without which a job has five minutes.
        cluster: `slurm`; `local` and `debug` try the same without Slurm.

    Raises:
        UnsupportedError: submitit is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise UnsupportedError(
            "slurm needs its extra: pip install 'onnx-expand[slurm]'"
        ) from error

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
    """An engine's error as a line; what was done by then is kept."""
    # submitit puts the trace between two rules, and where its logs are below.
    parts = re.split(r"^-{8,}$", str(error), flags=re.MULTILINE)
    text = parts[1] if len(parts) > 2 else str(error)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return UnsupportedError(f"{who}: {last.strip()}; start again to do what is left")


class _Resumable:
    """A run as submitit takes it: what `checkpoint` returns is done when the job is stopped."""

    def __call__(self, number: int, job: Job, place: Path) -> Done:
        """Do it, or the rest of it."""
        return _alone(number, job, place)

    def checkpoint(self, number: int, job: Job, place: Path) -> Any:
        """The same again: the store has what was done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number, job, place)


def _alone(number: int, job: Job, place: Path) -> Done:
    """A run in a process of its own: the small kernels of small networks gain by no threads."""
    torch.set_num_threads(1)
    return number, perform(job, place)
