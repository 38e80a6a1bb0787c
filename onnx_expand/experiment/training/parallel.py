"""Several processes, each with a share of every step, through torch.distributed.

`torchrun` starts the processes and tells each by environment variables who it is.
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

from onnx_expand.errors import UnsupportedError, UsageError

__all__ = ["World", "device_of", "joined", "joined_rows", "summed"]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run; the default is this one alone.

    Attributes:
        rank: This one's number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The world that torch.distributed knows of."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to people."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place where the tensor is on a device that they share."""
        if self.size > 1:
            if dist.get_backend() == "nccl":
                tensor = tensor.cuda()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Each process's value, in the order of their numbers."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give tensors the first process's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def share(self, value: T) -> T:
        """The first process's value, in each process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


class _AllReduce(torch.autograd.Function):
    """A sum over all processes, whose gradient is the sum of theirs."""

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


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, through which gradients flow back to each."""
    result: torch.Tensor = _AllReduce.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def joined_rows(rows: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """The rows of all processes, in the order of their numbers.

    Args:
        rows: This one's, [n, ...]; n may be 0, and differ between processes.

    Returns:
        All rows, through which gradients flow back to each process, and where this one's are.
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
    return summed(torch.cat([before, rows, after])), slice(first, last)


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, if it did, for as long as the block runs.

    Args:
        device: As in `RunOptions`; decides between nccl and gloo.

    Raises:
        UnsupportedError: There are more processes than devices, or no connection, or another
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
        # Nobody hangs up while another one still listens.
        dist.barrier()
    except RuntimeError as error:
        # gloo has no type of its own for it.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedError(
            f"process {dist.get_rank()} has lost another one, whose error tells why: {reason}"
        ) from error
    finally:
        # What holds on to the group in cycles of references would end it while Python is ending,
        # when its threads can no longer be joined.
        gc.collect()
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """The device of this process.

    Args:
        name: `cpu`, `cuda`, `cuda:N`, or `auto` for cuda where there is one. Under torchrun,
            `cuda` is the device of the process's own number.

    Raises:
        UsageError: The device is not there.
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
