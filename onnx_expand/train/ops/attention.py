"""Scaled dot product attention, in all variants of the ONNX operator."""

from __future__ import annotations

import math

import torch

from onnx_expand.train.registry import op
from onnx_expand.train.tensors import DTYPES

_SOFTCAPPED, _MASKED, _PROBABILITIES = 1, 2, 3


@op("Attention", allowed={"softmax_precision": DTYPES})
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None,
    past_value: torch.Tensor | None = None,
    valid: torch.Tensor | None = None,
    *,
    outputs: int,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Compute softmax(q k' scale + mask) v per head; also return keys, values and scores.

    Shapes: q [N, heads, L, D], k and v [N, heads', S, D]; or [N, L, heads D] and so on, with the
    numbers of heads as attributes. Several heads of q may share one of k and v.
    """
    flat = q.ndim == 3
    if flat:
        assert q_num_heads is not None
        assert kv_num_heads is not None
        q, k, v = _split(q, q_num_heads), _split(k, kv_num_heads), _split(v, kv_num_heads)
    before = 0 if past_key is None else past_key.shape[2]
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], dim=2), torch.cat([past_value, v], dim=2)
    keys, values = k, v
    if q.shape[1] != k.shape[1]:
        shared = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    root = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = (q * root) @ (k * root).transpose(-1, -2)
    shown = scores
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    if qk_matmul_output_mode == _SOFTCAPPED:
        shown = scores
    windows = (0 if is_causal else right_window_size, left_window_size)
    bias = _bias(scores, mask, _frontier(scores, before, valid), windows, valid)
    scores = scores + bias
    if qk_matmul_output_mode == _MASKED:
        shown = scores
    dtype = q.dtype if softmax_precision is None else DTYPES[softmax_precision]
    blocked = (bias == -math.inf).all(dim=-1, keepdim=True)
    # A query without any allowed key has a zero result; its softmax would have NaN gradients.
    scores = torch.where(blocked, 0.0, scores)
    probabilities = torch.softmax(scores.to(dtype), dim=-1).to(q.dtype)
    probabilities = torch.where(blocked, 0.0, probabilities)
    if qk_matmul_output_mode == _PROBABILITIES:
        shown = probabilities
    y = probabilities @ v
    if flat:
        y = y.transpose(1, 2).flatten(2)
    return y, keys, values, shown


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Reshape [N, L, heads D] to [N, heads, L, D]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def _frontier(scores: torch.Tensor, before: int, valid: torch.Tensor | None) -> torch.Tensor:
    """Return the position of each query among the keys, [L] or [N, 1, L]."""
    length = scores.shape[-2]
    places = torch.arange(length, device=scores.device)
    if valid is None or before:
        return places + before
    return places + (valid.reshape(-1, 1, 1) - length)


def _bias(
    scores: torch.Tensor,
    mask: torch.Tensor | None,
    places: torch.Tensor,
    windows: tuple[int, int],
    valid: torch.Tensor | None,
) -> torch.Tensor:
    """Return the bias of the scores: zero for allowed keys, minus infinity for others."""
    length = scores.shape[-1]
    keys = torch.arange(length, device=scores.device)
    right, left = windows
    ahead = keys - places.unsqueeze(-1)
    allowed = torch.ones_like(ahead, dtype=torch.bool)
    if right >= 0:
        allowed = allowed & (ahead <= right)
    if left >= 0:
        allowed = allowed & (-ahead <= left)
    if valid is not None:
        allowed = allowed & (keys < valid.reshape(-1, 1, 1, 1))
    bias = torch.zeros_like(allowed, dtype=scores.dtype).masked_fill(~allowed, -math.inf)
    if mask is None:
        return bias
    missing = length - mask.shape[-1]
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    if missing > 0:
        mask = torch.nn.functional.pad(mask, (0, missing), value=-math.inf)
    return bias + mask
