"""Gemm, MatMul and Einsum."""

from __future__ import annotations

import torch

from onnx_expand.train.registry import op, plain

plain(weights=(0, 1), MatMul=torch.matmul)


@op("Gemm", since=7, weights=(1, 2))
def gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> torch.Tensor:
    """Compute alpha * a' @ b' + beta * c, with c broadcast to the product."""
    a = a.t() if transA else a
    b = b.t() if transB else b
    product = torch.matmul(a, b)
    if alpha != 1:
        product = product * alpha
    if c is None or beta == 0:
        return product
    return product + (c if beta == 1 else c * beta)


@op("Einsum")
def einsum(*operands: torch.Tensor, equation: str) -> torch.Tensor:
    """Compute an Einstein summation."""
    return torch.einsum(equation.replace(" ", ""), *operands)
