"""Dequantization of values that are stored as integers.

QuantizeLinear has no translation: rounding has no gradient, so that nothing before it would be
trained.
"""

from __future__ import annotations

import torch

from onnx_expand.train.registry import op
from onnx_expand.train.tensors import DTYPES


@op("DequantizeLinear", frozen=(1, 2), allowed={"output_dtype": {0, *DTYPES}})
def dequantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> torch.Tensor:
    """Compute (x - zero) * scale, per tensor, along an axis, or in blocks along an axis."""
    dtype = DTYPES[output_dtype] if output_dtype else scale.dtype
    exact = torch.promote_types(dtype, torch.float32)

    def spread(settings: torch.Tensor) -> torch.Tensor:
        if block_size:
            whole = settings.repeat_interleave(block_size, dim=axis)
            return whole.narrow(axis, 0, x.shape[axis])
        if settings.numel() == 1:
            return settings.reshape([1] * x.ndim)
        return settings.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])

    if zero is not None:
        kind = exact if x.is_floating_point() else torch.int32  # exact, where float32 would round
        x = x.to(kind) - spread(zero.to(kind))
    return (x.to(exact) * spread(scale.to(exact))).to(dtype)
