"""Diagnose a failed step: locate non-finite values, and explain errors of torch."""

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

__all__ = ["advice_on", "tensor_label", "where_not_finite"]


class _FoundError(Exception):
    pass


class _Watch(fx.Interpreter):
    """Stops at the first node whose result is not finite; `found` is its name for messages."""

    found = ""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; see `fx.Interpreter`, which extends error messages."""
        result = super().run_node(n)
        first = result[0] if isinstance(result, tuple | list) and result else result
        computed = isinstance(first, torch.Tensor) and n.op not in {"get_attr", "output"}
        if computed and first.is_floating_point() and not bool(torch.isfinite(first).all()):
            self.found = n.meta.get(SOURCE) or f"'{n.name}'"
            raise _FoundError
        return result


def where_not_finite(module: torch.nn.Module, inputs: torch.Tensor, sound: Collection[str]) -> str:
    """Describe where a value is not finite, for the end of a sentence; empty if unknown.

    Args:
        module: The module.
        inputs: Its inputs.
        sound: The tensors of its state that were finite initially; masks may contain infinity.
    """
    state = module.state_dict()
    for name in sound:
        if not bool(torch.isfinite(state[name]).all()):
            return f"; {tensor_label(module, name)} is no longer finite"
    if not isinstance(module, OnnxModule):
        return ""
    watch = _Watch(module)
    with contextlib.suppress(_FoundError, RuntimeError), torch.no_grad():
        watch.run(inputs)
    return f"; the first node that gave it is {watch.found}" if watch.found else ""


def tensor_label(module: torch.nn.Module, key: str) -> str:
    """Return the name of a tensor of the state, with the ONNX node that uses it where known."""
    if not isinstance(module, OnnxModule):
        return f"the tensor '{key}'"
    name = next((name for name, path in module.initializers.items() if path == key), key)
    for node in module.graph.nodes:
        for user in [*node.users] if node.op == "get_attr" and node.target == key else []:
            if SOURCE in user.meta:
                return f"the tensor '{name}' of node {user.meta[SOURCE]}"
    return f"the tensor '{name}'"


def advice_on(error: Exception, options: TrainOptions) -> UnsupportedError | None:
    """Return advice for some of torch's errors; None for others."""
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
