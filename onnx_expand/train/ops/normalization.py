"""BatchNormalization, Dropout, and normalizations without state."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.train.registry import COMPUTED, STANDARDIZED, Attributes, op
from onnx_expand.train.tensors import DTYPES

__all__ = ["BatchNormalization", "Dropout"]


def _check_batch_normalization(attributes: Attributes) -> str:
    if attributes.get("training_mode", 0):
        return "exported in training mode; export the model after model.eval()"
    if not attributes.get("spatial", 1):
        return "spatial=0"
    return ""


@op("BatchNormalization", weights=(1, 2), frozen=(3, 4), check=_check_batch_normalization)
class BatchNormalization(torch.nn.Module):
    """Normalizes each channel, with the statistics of the batch while training.

    It has no tensors: scale, bias and running statistics are arguments, and training updates the
    latter in place. As everywhere in torch, the running variance is unbiased.

    Args:
        epsilon: Added to the variance.
        momentum: The weight of the old statistics in an update: 1 - torch's momentum.
        training_mode: Must be 0; `.training` decides.
        spatial: Must be 1.
    """

    def __init__(
        self,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        training_mode: int = 0,
        spatial: int = 1,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        var: torch.Tensor,
    ) -> torch.Tensor:
        """Normalize a tensor [N, C, ...]."""
        return F.batch_norm(
            x, mean, var, scale, bias, self.training, 1 - self.momentum, self.epsilon
        )

    def extra_repr(self) -> str:
        """The settings, as torch prints them."""
        return f"epsilon={self.epsilon:g}, momentum={self.momentum:g}"


@op("BatchNormalization", domain=COMPUTED, check=_check_batch_normalization)
def normalize(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
) -> torch.Tensor:
    """Normalize by the given statistics, in training too: the graph computes them."""
    shape = (-1, *(1,) * (x.ndim - 2))
    factor = scale * torch.rsqrt(var + epsilon)
    return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)


@op("BatchNormalization", domain=STANDARDIZED)
def standardize(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 1,
    spatial: int = 1,
) -> torch.Tensor:
    """Normalize a weight by its own statistics, in training and afterwards."""
    return F.batch_norm(x, None, None, scale, bias, training=True, eps=epsilon)


@op("Dropout", static=(1, 2))
class Dropout(torch.nn.Module):
    """Sets random elements to zero while training; otherwise the identity.

    Args:
        ratio: The probability of zero, where it is an attribute.
        seed: Ignored: torch's generator is used.
        is_test: Ignored: `.training` decides.
    """

    def __init__(self, *, ratio: float = 0.5, seed: int = 0, is_test: int = 0) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(
        self, x: torch.Tensor, ratio: float | None = None, training_mode: bool | None = None
    ) -> torch.Tensor:
        """Drop elements while training; the input `training_mode` is ignored."""
        return F.dropout(x, self.ratio if ratio is None else float(ratio), self.training)


@op("LayerNormalization", weights=(1, 2))
def layer_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> tuple[torch.Tensor, ...]:
    """Normalize over all axes from `axis` on; return also the mean and the inverse deviation."""
    shape = x.shape[axis % x.ndim :]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        result = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, None, None, epsilon) * scale
        result = result if bias is None else result + bias
    if outputs == 1:
        return (result,)
    axes = tuple(range(axis % x.ndim, x.ndim))
    exact, stash = x.to(torch.promote_types(x.dtype, torch.float32)), DTYPES[stash_type]
    mean = exact.mean(dim=axes, keepdim=True)
    variance = (exact - mean).square().mean(dim=axes, keepdim=True)
    return result, mean.to(stash), torch.rsqrt(variance + epsilon).to(stash)


@op("RMSNormalization", weights=(1,))
def rms_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> torch.Tensor:
    """Divide by the root of the mean square over all axes from `axis` on, and scale."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    square = exact.square().mean(dim=axes, keepdim=True)
    return (exact * torch.rsqrt(square + epsilon)).to(x.dtype) * scale


@op("InstanceNormalization", weights=(1, 2))
def instance_normalization(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5
) -> torch.Tensor:
    """Normalize each channel of each sample."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("LRN")
def local_response_normalization(
    x: torch.Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> torch.Tensor:
    """Divide by a power of the scaled sum of squares of neighbouring channels."""
    square = x.square().flatten(2).transpose(1, 2)
    padded = F.pad(square, [(size - 1) // 2, size // 2])
    sums = padded.unfold(2, size, 1).sum(dim=-1).transpose(1, 2).reshape(x.shape)
    return x / (bias + alpha / size * sums) ** beta
