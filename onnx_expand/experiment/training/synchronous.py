"""Batch statistics over all processes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

from onnx_expand.experiment.training.parallel import all_reduce_sum
from onnx_expand.train.ops.normalization import BatchNormalization

__all__ = ["Synchronous", "synchronous"]


class Synchronous(BatchNormalization):
    """Normalizes by the mean and variance over the samples of all processes.

    torch.nn.SyncBatchNorm only supports GPUs.

    Attributes:
        counts: Whether this process's samples count; not if it only runs because the others do.
    """

    counts: bool = True

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        var: torch.Tensor,
    ) -> torch.Tensor:
        """Normalize a tensor [N, C, ...]."""
        if not self.training:
            return super().forward(x, scale, bias, mean, var)
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *(1 for _ in axes[1:])]
        wide = x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
        share = 1.0 if self.counts else 0.0
        count = all_reduce_sum(wide.new_full((), share * x.numel() / x.shape[1]))
        center = all_reduce_sum(share * wide.sum(axes)) / count
        shifted = wide - center.reshape(shape)
        spread = all_reduce_sum(share * shifted.square().sum(axes)) / count
        with torch.no_grad():
            new = 1 - self.momentum
            mean.lerp_(center.detach().to(mean.dtype), new)
            unbiased = spread.detach() * (count / (count - 1))
            var.lerp_(unbiased.to(var.dtype), new)
        factor = torch.rsqrt(spread + self.epsilon) * scale
        return (shifted * factor.reshape(shape) + bias.reshape(shape)).to(x.dtype)


@contextlib.contextmanager
def synchronous(module: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """Synchronize batch normalization of an imported model over all processes during the block."""
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
        twin = Synchronous(epsilon=child.epsilon, momentum=child.momentum)
        twin.train(child.training)
        parent.add_module(name, twin)
    try:
        yield
    finally:
        for parent, name, child in places:
            parent.add_module(name, child)
