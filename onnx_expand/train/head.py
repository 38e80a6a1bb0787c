"""The end of a classifier, as a loss needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.activation import (
    log_softmax,
    log_softmax_from,
    softmax,
    softmax_from,
)
from onnx_expand.train.ops.elementwise import identity
from onnx_expand.train.ops.shape import flatten, reshape, squeeze

__all__ = ["log_probabilities"]

# The logarithm of a probability that underflowed has no gradient, so that a final softmax is
# replaced by its logarithm rather than followed by one.
_LOGARITHMS: dict[Any, Any] = {softmax: log_softmax, softmax_from: log_softmax_from}
_TRANSPARENT = {flatten, identity, reshape, squeeze}


class _LogSoftmax(torch.nn.Module):
    """A module whose first output, the logits [N, classes, ...], is turned into logarithms."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output = self.inner(*inputs)
        first = output[0] if isinstance(output, tuple) else output
        return torch.log_softmax(first, dim=1)


def log_probabilities(module: torch.nn.Module) -> torch.nn.Module:
    """A module of the same parameters whose output is the logarithm of probabilities.

    Args:
        module: A classifier that ends in logits, or, where it is an ONNX graph, in Softmax or
            LogSoftmax over the classes.
    """
    if not isinstance(module, OnnxModule):
        return _LogSoftmax(module)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output: Any = graph.graph_copy(module.graph, copies)
    first = output[0] if isinstance(output, tuple | list) else output
    graph.output(first)
    end = first
    while end.op == "call_function" and end.target in _TRANSPARENT:
        end = end.args[0]
    if end.op == "call_function" and end.kwargs.get("axis", -1) in {-1, 1}:
        if end.target in _LOGARITHMS:
            end.target = _LOGARITHMS[end.target]
        if end.target in _LOGARITHMS.values():
            return module.sharing(graph)
    return _LogSoftmax(module)
