"""What went wrong in a step: where a number stopped being finite, what torch's errors ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from onnx_expand.errors import UnsupportedError
from onnx_expand.recipes import TrainOptions
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.names import SOURCE

__all__ = ["explained", "where_not_finite"]


class _FoundError(Exception):
    pass


class _Watch(fx.Interpreter):
    """Stops at the first node whose result is not finite; `found` is what people call it."""

    found = ""

    def run_node(self, n: fx.Node) -> Any:
        """See `fx.Interpreter`, which adds to what an error says."""
        result = super().run_node(n)
        first = result[0] if isinstance(result, tuple | list) and result else result
        computed = isinstance(first, torch.Tensor) and n.op not in {"get_attr", "output"}
        if computed and first.is_floating_point() and not bool(torch.isfinite(first).all()):
            self.found = n.meta.get(SOURCE) or f"'{n.name}'"
            raise _FoundError
        return result


def where_not_finite(module: torch.nn.Module, inputs: torch.Tensor, sound: Collection[str]) -> str:
    """What is to be said about it, for the end of a sentence; nothing where it is not known.

    Args:
        module: The module.
        inputs: What it was given.
        sound: The tensors of its state that were finite at the beginning; masks may hold infinity.
    """
    state = module.state_dict()
    for name in sound:
        if not bool(torch.isfinite(state[name]).all()):
            return f"; the tensor '{name}' is no longer finite"
    if not isinstance(module, OnnxModule):
        return ""
    watch = _Watch(module)
    with contextlib.suppress(_FoundError, RuntimeError), torch.no_grad():
        watch.run(inputs)
    return f"; the first node that gave it is {watch.found}" if watch.found else ""


def explained(error: Exception, options: TrainOptions) -> UnsupportedError | None:
    """What is to be done about some of torch's errors; None for others."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return UnsupportedError(
            f"a step of {options.batch} samples in {options.accumulate} parts does not fit in "
            "memory; lower batch, or raise accumulate"
        )
    if "more than 1 value per channel" in text:
        return UnsupportedError(
            "batch normalization has one number for each channel and no variance in a part of a "
            "step; raise batch, lower accumulate, or join the processes by sync_bn"
        )
    return None
