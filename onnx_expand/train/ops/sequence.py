"""Sequences of tensors, which exporters use where a tensor is split into parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from onnx_expand.train.host import integers
from onnx_expand.train.registry import op

Setting = int | list[int | float] | torch.Tensor


@op("SplitToSequence", static=(1,))
def split_to_sequence(
    x: torch.Tensor, split: Setting | None = None, *, axis: int = 0, keepdims: int = 1
) -> Sequence[torch.Tensor]:
    """Split along an axis into parts of one size, of given sizes, or of single positions."""
    if split is None:
        parts = torch.split(x, 1, dim=axis)
        return parts if keepdims else [part.squeeze(axis) for part in parts]
    scalar = split.ndim == 0 if isinstance(split, torch.Tensor) else isinstance(split, int)
    sizes = integers(split)
    return torch.split(x, sizes[0] if scalar else sizes, dim=axis)


@op("SequenceConstruct")
def sequence_construct(*parts: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return the tensors as a sequence."""
    return parts


@op("SequenceAt", static=(1,))
def sequence_at(parts: Sequence[torch.Tensor], position: Setting) -> torch.Tensor:
    """Return one tensor of a sequence."""
    return parts[integers(position)[0]]


@op("ConcatFromSequence")
def concat_from_sequence(
    parts: Sequence[torch.Tensor], *, axis: int, new_axis: int = 0
) -> torch.Tensor:
    """Concatenate the tensors of a sequence, or stack them on a new axis."""
    return torch.stack(list(parts), dim=axis) if new_axis else torch.cat(list(parts), dim=axis)
