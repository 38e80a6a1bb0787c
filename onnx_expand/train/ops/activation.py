"""Activation functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.train.registry import op, plain

plain(
    HardSwish=F.hardswish,
    Mish=F.mish,
    Relu=torch.relu,
    Sigmoid=torch.sigmoid,
    Softplus=F.softplus,
    Softsign=F.softsign,
    Tanh=torch.tanh,
)


@op("LeakyRelu")
def leaky_relu(x: torch.Tensor, *, alpha: float = 0.01) -> torch.Tensor:
    """Compute x, multiplied by alpha where negative."""
    return F.leaky_relu(x, alpha)


@op("PRelu", since=7, weights=(1,))
def prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Compute x, multiplied by the slope where negative."""
    return torch.where(x < 0, x * slope, x)


@op("Elu")
def elu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """Compute x, or alpha * (e^x - 1) where negative."""
    return F.elu(x, alpha)


@op("Celu")
def celu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """Compute x, or alpha * (e^(x / alpha) - 1) where negative."""
    return F.celu(x, alpha)


@op("Selu", since=6)
def selu(
    x: torch.Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805
) -> torch.Tensor:
    """Compute gamma * elu(x, alpha)."""
    return gamma * F.elu(x, alpha)


@op("ThresholdedRelu")
def thresholded_relu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """Compute x where it is above alpha, zero elsewhere."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op("Gelu")
def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """Compute x * Phi(x), where Phi is the normal cumulative distribution function."""
    return F.gelu(x, approximate=approximate)


@op("Swish")
def swish(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """Compute x * sigmoid(alpha * x)."""
    return x * torch.sigmoid(alpha * x)


@op("HardSigmoid")
def hard_sigmoid(x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    """Compute alpha * x + beta, clamped to [0, 1]."""
    return torch.clamp(alpha * x + beta, 0, 1)


@op("Shrink")
def shrink(x: torch.Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> torch.Tensor:
    """Compute x moved towards zero by the bias, or zero where |x| <= lambd."""
    zero = torch.zeros_like(x)
    moved = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))
    return moved.to(x.dtype)


@op("Clip", static=(1, 2))
def clip(
    x: torch.Tensor,
    min: float | torch.Tensor | None = None,
    max: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Clamp x between the bounds."""
    if min is not None:
        x = torch.clamp(x, min=min)
    if max is not None:
        x = torch.clamp(x, max=max)
    return x


@op("Softmax", since=13, log=False)
@op("LogSoftmax", since=13, log=True)
def softmax(x: torch.Tensor, *, axis: int = -1, log: bool) -> torch.Tensor:
    """Compute the softmax along an axis, or its logarithm."""
    return torch.log_softmax(x, axis) if log else torch.softmax(x, axis)


@op("Softmax", log=False)
@op("LogSoftmax", log=True)
def softmax_from(x: torch.Tensor, *, axis: int = 1, log: bool) -> torch.Tensor:
    """Compute `softmax` over all axes from `axis` on, as before opset 13."""
    return softmax(x.flatten(axis % x.ndim), axis=-1, log=log).reshape(x.shape)
