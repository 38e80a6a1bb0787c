"""Fourier transforms, with complex numbers as pairs along the last axis, as in ONNX."""

from __future__ import annotations

import torch

from onnx_expand.train.host import integers
from onnx_expand.train.registry import op

Setting = int | list[int | float] | torch.Tensor


@op("DFT", since=20, static=(1, 2))
def dft(
    x: torch.Tensor,
    length: Setting | None = None,
    axis: Setting = -2,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> torch.Tensor:
    """Compute the discrete Fourier transform along an axis of [..., 1 or 2]."""
    place = integers(axis)[0]
    return _transform(x, length, place, bool(inverse), bool(onesided))


@op("DFT", since=17, static=(1,))
def dft_by_attribute(
    x: torch.Tensor,
    length: Setting | None = None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> torch.Tensor:
    """Compute `dft` with the axis as an attribute, as before opset 20."""
    return _transform(x, length, axis, bool(inverse), bool(onesided))


def _transform(
    x: torch.Tensor, length: Setting | None, axis: int, inverse: bool, onesided: bool
) -> torch.Tensor:
    size = None if length is None else integers(length)[0]
    place = axis % x.ndim
    is_real = x.shape[-1] == 1
    if onesided and inverse:
        half = torch.view_as_complex(x.contiguous())
        real: torch.Tensor = torch.fft.irfft(half, size, dim=place)
        return real.unsqueeze(-1)
    if onesided:
        y = torch.fft.rfft(x[..., 0], size, dim=place)
    else:
        numbers = x[..., 0] if is_real else torch.view_as_complex(x.contiguous())
        y = (torch.fft.ifft if inverse else torch.fft.fft)(numbers, size, dim=place)
    return torch.view_as_real(y)


@op("STFT", static=(1, 3))
def stft(
    x: torch.Tensor,
    step: Setting,
    window: torch.Tensor | None = None,
    length: Setting | None = None,
    *,
    onesided: int = 1,
) -> torch.Tensor:
    """Transform overlapping frames: [N, L, 1 or 2] to [N, frames, frequencies, 2]."""
    size = integers(length)[0] if length is not None else 0
    if window is not None:
        size = window.shape[0]
    frames = x.unfold(1, size, integers(step)[0]).transpose(2, 3)
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    onesided_real = bool(onesided) and x.shape[-1] == 1
    return _transform(frames, None, 2, inverse=False, onesided=onesided_real)
