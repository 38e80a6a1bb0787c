"""Adapt the output of a classifier to a loss function."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.activation import softmax, softmax_from
from onnx_expand.train.ops.elementwise import identity
from onnx_expand.train.ops.shape import flatten, reshape, squeeze

__all__ = ["log_probabilities"]

# The logarithm of an underflowed probability has no gradient, so a final softmax is replaced by
# its logarithm instead of being followed by one.
_SOFTMAX = {softmax, softmax_from}
_SAME = {identity}
_TRANSPARENT = {flatten, identity, reshape, squeeze}


class _LogSoftmax(torch.nn.Module):
    """Converts the first output of a module, the logits [N, classes, ...], to log probabilities.

    Args:
        inner: The module.
        extras: The number of last outputs to return after the first one.
    """

    def __init__(self, inner: torch.nn.Module, extras: int) -> None:
        super().__init__()
        self.inner = inner
        self.extras = extras
        self.training = inner.training

    def forward(self, *inputs: torch.Tensor) -> Any:
        output = self.inner(*inputs)
        first = output[0] if isinstance(output, tuple) else output
        if first.ndim < 2 or not first.is_floating_point():
            return output  # not class scores; the error is reported when a step is tried
        scores = torch.log_softmax(first, dim=1)
        return (scores, *output[-self.extras :]) if self.extras else scores


def log_probabilities(
    module: torch.nn.Module, *, dense: bool = False, extras: int = 0
) -> torch.nn.Module:
    """Return a module with the same parameters whose first output is log probabilities.

    Args:
        module: A classifier that ends in logits, or, if it is an ONNX graph, in Softmax or
            LogSoftmax over the classes, which are its axis 1.
        dense: Whether each pixel is classified, so that axis 1 is not the last one.
        extras: The number of last outputs to keep; others except the first are removed.
    """
    if not isinstance(module, OnnxModule):
        return _LogSoftmax(module, extras)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output: Any = graph.graph_copy(module.graph, copies)
    outputs = output if isinstance(output, tuple | list) else (output,)
    first = outputs[0]
    graph.output((first, *outputs[-extras:]) if extras else first)
    end = first
    while end.op == "call_function" and end.target in (_SAME if dense else _TRANSPARENT):
        end = end.args[0]
    axes = {1, -3} if dense else {-1, 1}
    if end.op == "call_function" and end.target in _SOFTMAX and end.kwargs.get("axis", -1) in axes:
        end.kwargs = {**end.kwargs, "log": True}
        return module.sharing(graph)
    return _LogSoftmax(module, extras)
