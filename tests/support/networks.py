"""Small networks and data for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.support.torch_graphs import images, parse, with_weights

__all__ = ["chain", "network", "stripes", "write_stripes"]


def network(head: str = "y = Identity(z)", opset: int = 17) -> onnx.ModelProto:
    """Build a convolution, BatchNormalization, and a classifier of three classes."""
    model = parse(
        "c = Conv(x, w) b = BatchNormalization(c, s, t, m, v) r = Relu(b)"
        f"p = GlobalAveragePool(r) f = Flatten(p) z = Gemm(f, g) {head}",
        "(float[n, 1, 6, 6] x) => (float[n, 3] y)",
        "float[4] s = {1, 1, 1, 1}, float[4] t = {0, 0, 0, 0}, float[4] m = {0, 0, 0, 0},"
        "float[4] v = {1, 1, 1, 1}",
        opset,
    )
    return with_weights(model, w=images(4, 1, 3, 3), g=images(4, 3, seed=1))


def plain() -> onnx.ModelProto:
    """Build `network` without batch statistics, but with dropout."""
    model = parse(
        "c = Conv(x, w) r = Relu(c) d = Dropout(r)"
        "p = GlobalAveragePool(d) f = Flatten(p) y = Gemm(f, g)",
        "(float[n, 1, 6, 6] x) => (float[n, 3] y)",
    )
    return with_weights(model, w=images(4, 1, 3, 3), g=images(4, 3, seed=1))


def chain() -> onnx.ModelProto:
    """Build `plain` with each layer replaced by two."""
    model = parse(
        "a = Conv(x, v, b) c = Conv(a, w) r = Relu(c)"
        "p = GlobalAveragePool(r) f = Flatten(p) z = Gemm(f, g) y = Gemm(z, h)",
        "(float[n, 1, 6, 6] x) => (float[n, 3] y)",
    )
    model = with_weights(model, v=images(6, 1, 1, 1), b=images(6), w=images(4, 6, 3, 3))
    return with_weights(model, g=images(4, 8, seed=1), h=images(8, 3, seed=2))


def stripes(count: int = 150) -> tuple[Any, Any]:
    """Draw noisy stripes in three directions: images [count, 1, 6, 6] and classes."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 3
    rows, columns = np.mgrid[:6, :6]
    patterns = np.stack([rows % 2, columns % 2, (rows + columns) % 2]).astype(np.float32)
    x = patterns[y][:, None] * 2 - 1 + rng.normal(0, 0.3, (count, 1, 6, 6))
    return x.astype(np.float32), y


def write_stripes(path: Path, count: int = 150) -> Path:
    """Write the stripes to an .npz file."""
    x, y = stripes(count)
    np.savez(path, x=x, y=y)
    return path
