"""Layers with a state along a sequence: linear attention and causal convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.train.registry import op


@op("LinearAttention", allowed={"update_rule": {"linear", "gated", "delta", "gated_delta"}})
def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    past: torch.Tensor | None = None,
    decay: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    outputs: int,
    chunk_size: int = 0,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[torch.Tensor, ...]:
    """Compute attention without softmax, as a recurrence of one matrix per head.

    In each step the state S [N, heads', D, M] first decays by exp(decay). Then k v' is added; with
    the delta rule, v is replaced by beta times its difference from S' k. The output is scale S' q.
    Shapes: q [N, L, heads D], k [N, L, heads' D], v [N, L, heads' M].
    """
    exact = torch.promote_types(q.dtype, torch.float32)

    def split(x: torch.Tensor, heads: int) -> torch.Tensor:
        """Reshape [N, L, heads D] to [L, N, heads, D]."""
        shape = (*x.shape[:-1], heads, x.shape[-1] // heads)
        return x.reshape(shape).movedim(1, 0).to(exact)

    queries, keys, values = split(q, q_num_heads), split(k, kv_num_heads), split(v, kv_num_heads)
    factor = scale or 1 / math.sqrt(keys.shape[-1])
    shape = (q.shape[0], kv_num_heads, keys.shape[-1], values.shape[-1])
    state = q.new_zeros(shape, dtype=exact) if past is None else past.to(exact)
    fading = None if decay is None else split(decay, kv_num_heads).exp().unsqueeze(-1)
    rates = None if beta is None else beta.movedim(1, 0).unsqueeze(-1).to(exact)
    found = []
    for step in range(q.shape[1]):
        key, value = keys[step], values[step]
        if fading is not None:
            state = state * fading[step]
        if rates is not None:
            given = torch.einsum("bhdm,bhd->bhm", state, key)
            value = rates[step] * (value - given)
        state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
        read = state.repeat_interleave(q_num_heads // kv_num_heads, dim=1)
        found.append(factor * torch.einsum("bhdm,bhd->bhm", read, queries[step]))
    y = torch.stack(found, dim=1).flatten(2).to(q.dtype)
    return y, state.to(q.dtype if past is None else past.dtype)


@op("CausalConvWithState", weights=(1, 2), allowed={"activation": {"none", "silu", "swish"}})
def causal_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    past: torch.Tensor | None = None,
    *,
    outputs: int,
    activation: str = "none",
) -> tuple[torch.Tensor, ...]:
    """Convolve past and x depthwise, [N, C, L]; return also the last k - 1 positions."""
    reach = w.shape[-1] - 1
    before = x.new_zeros((*x.shape[:2], reach)) if past is None else past
    padded = torch.cat([before, x], dim=2)
    y = F.conv1d(padded, w, b, groups=x.shape[1])
    if activation != "none":
        y = F.silu(y)
    return y, padded[:, :, padded.shape[2] - reach :]
