"""Several processes that share every step, through torch.distributed.

`torchrun` starts the processes and sets the rank of each in environment variables.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from onnx_expand.errors import UnsupportedError, UsageError, first_line

__all__ = ["World", "all_reduce_sum", "device_of", "gather_rows", "process_group"]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run; by default only this one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """Return the world of torch.distributed."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place if the tensor is on a shared kind of device."""
        if self.size > 1:
            if dist.get_backend() == "nccl":
                tensor = tensor.cuda()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return each process's value, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Broadcast tensors of the first process, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def share(self, value: T) -> T:
        """Return the first process's value, in each process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


class _AllReduce(torch.autograd.Function):
    """A sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, with gradients that flow back to each."""
    result: torch.Tensor = _AllReduce.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def gather_rows(rows: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """Concatenate the rows of all processes, in rank order.

    Args:
        rows: The rows of this process, [n, ...]; n may be 0, and differ between processes.

    Returns:
        All rows, with gradients that flow back to each process, and the slice of this one's rows.
    """
    world = World.current()
    if world.size == 1:
        return rows, slice(0, len(rows))
    counts = torch.zeros(world.size, dtype=torch.int64, device=rows.device)
    counts[world.rank] = len(rows)
    every = world.sum(counts).tolist()
    first = sum(every[: world.rank])
    last = first + len(rows)
    before, after = (rows.new_zeros(n, *rows.shape[1:]) for n in (first, sum(every) - last))
    return all_reduce_sum(torch.cat([before, rows, after])), slice(first, last)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, if it did, for the duration of the block.

    Args:
        device: As in `RunOptions`; decides between nccl and gloo.

    Raises:
        UnsupportedError: There are more processes than devices, there is no connection, or another
            process has ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield World.current()
        return
    place = device_of(device)
    try:
        if place.type == "cuda":
            torch.cuda.set_device(place)
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UnsupportedError(f"torch.distributed cannot start: {error}") from error
    try:
        yield World.current()
        # No process closes the group while another still uses it.
        dist.barrier()
    except RuntimeError as error:
        # gloo has no exception type of its own.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        reason = first_line(error)
        raise UnsupportedError(
            f"process {dist.get_rank()} lost another process, whose error explains why: {reason}"
        ) from error
    finally:
        # Reference cycles that hold the group would destroy it during Python's shutdown, when its
        # threads can no longer be joined.
        gc.collect()
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """Return the device of this process.

    Args:
        name: `cpu`, `cuda`, `cuda:N`, or `auto` for cuda if available. Under torchrun, `cuda` is
            the device with the local rank of the process.

    Raises:
        UsageError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0")
    if not number.isdigit() or int(number) >= count:
        raise UsageError(
            f"device '{name}': there are {count} cuda devices; number {number} is none"
        )
    return torch.device("cuda", int(number))
