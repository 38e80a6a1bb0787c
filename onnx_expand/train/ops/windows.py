"""What convolutions and pooling share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.train.registry import Attributes

__all__ = ["pad_spatial", "spatial_rank_problem"]


def pad_spatial(
    x: torch.Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0
) -> torch.Tensor:
    """Pad the last axes of a tensor; negative amounts crop."""
    if not any(begin) and not any(end):
        return x
    # torch lists the last axis first.
    pairs = list(zip(begin, end, strict=True))[::-1]
    return F.pad(x, [amount for pair in pairs for amount in pair], value=value)


def spatial_rank_problem(attributes: Attributes) -> str:
    """Return why torch does not support windows of a node's rank, or an empty text."""
    rank = len(attributes.get("kernel_shape") or (1,))
    return "" if rank <= 3 else f"a window over {rank} axes; torch has 1 to 3"
