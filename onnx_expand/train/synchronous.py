"""Batch statistics over all processes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from onnx_expand.train.ops.normalization import BatchNormalization

__all__ = ["synchronous"]


class _Synchronous(BatchNormalization):
    """Normalises by the mean and variance of all processes' shares together.

    torch.nn.SyncBatchNorm does so on GPUs only.
    """

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        var: torch.Tensor,
    ) -> torch.Tensor:
        """The normalised tensor, [N, C, ...]."""
        if not self.training:
            return super().forward(x, scale, bias, mean, var)
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *(1 for _ in axes[1:])]
        wide = x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
        count = _sum(wide.new_full((), x.numel() / x.shape[1]))
        center = _sum(wide.sum(axes)) / count
        shifted = wide - center.reshape(shape)
        spread = _sum(shifted.square().sum(axes)) / count
        with torch.no_grad():
            share = 1 - self.momentum
            mean.lerp_(center.detach().to(mean.dtype), share)
            unbiased = spread.detach() * (count / (count - 1))
            var.lerp_(unbiased.to(var.dtype), share)
        factor = torch.rsqrt(spread + self.epsilon) * scale
        return (shifted * factor.reshape(shape) + bias.reshape(shape)).to(x.dtype)


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


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _AllReduce.apply(tensor)  # type: ignore[no-untyped-call]
    return result


@contextlib.contextmanager
def synchronous(module: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """Let batch normalization of an imported model see all processes while the block runs."""
    places = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if wanted and type(child) is BatchNormalization
    ]
    others = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if wanted and others:
        warnings.warn("sync_bn is for imported models; wrap torch's own layers", stacklevel=3)
    for parent, name, child in places:
        twin = _Synchronous(epsilon=child.epsilon, momentum=child.momentum)
        twin.train(child.training)
        parent.add_module(name, twin)
    try:
        yield
    finally:
        for parent, name, child in places:
            parent.add_module(name, child)
