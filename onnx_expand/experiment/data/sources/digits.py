"""The handwritten digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.experiment.data.sources.base import (
    Array,
    Request,
    SourceData,
    Subset,
    every_fifth,
)
from onnx_expand.plugins import optional

__all__ = ["digits", "published_digits"]


def digits(request: Request) -> SourceData:
    """Load 1,797 digits of 8x8 pixels, enlarged bilinearly to the model's size.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    images, labels = published_digits()
    x = torch.from_numpy(images[:, None]).to(torch.float32)
    target = [request.size[0] or 8, request.size[1] or 8]
    if target != [8, 8]:
        x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    pixels, test = x.numpy(), every_fifth(labels)
    train, held = (Subset(pixels[part], labels[part]) for part in (~test, test))
    return SourceData(train, held, tuple("0123456789"), True)


def published_digits() -> tuple[Array, Array]:
    """Return the digits from 0 to 1, float64 [N, 8, 8], and their labels, int64 [N].

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    missing = "the digits need scikit-learn: pip install 'onnx-expand[train]'"
    images, labels = optional("sklearn.datasets", missing).load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8) / 16, labels.astype(np.int64)
