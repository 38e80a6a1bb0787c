"""The handwritten digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.data.sources.base import Request, SourceData, Subset, every_fifth

__all__ = ["digits"]


def digits(request: Request) -> SourceData:
    """Load 1,797 digits of 8x8 pixels, enlarged bilinearly to the model's size.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UnsupportedError(
            "the digits need scikit-learn: pip install 'onnx-expand[train]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 16).to(torch.float32)
    target = [request.size[0] or 8, request.size[1] or 8]
    if target != [8, 8]:
        x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    pixels, y = x.numpy(), labels.astype(np.int64)
    test = every_fifth(y)
    return SourceData(
        Subset(pixels[~test], y[~test]), Subset(pixels[test], y[test]), tuple("0123456789"), True
    )
