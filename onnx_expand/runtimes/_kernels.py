"""Operators for onnx's reference evaluator that replace slow or inexact ones.

The evaluator finds classes by the names of operators. Attributes are passed by keyword, None if
the node does not state them and ONNX has no default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

from onnx_expand.algebra.windows import Windows
from onnx_expand.runtimes._semantics import SEMANTICS

__all__ = ["KERNELS"]

Array = npt.NDArray[Any]
Ints = Sequence[int] | None

try:
    from scipy.special import erf as _erf
    from scipy.special import erfc as _erfc
except ImportError:
    _erf = np.vectorize(math.erf, otypes=[np.float64])
    _erfc = np.vectorize(math.erfc, otypes=[np.float64])


class Conv(OpRun):
    """Conv; onnx's own gathers all windows in Python loops."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Ints = None,
        group: int | None = None,
        kernel_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        groups = group or 1
        windows = Windows.of(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
        counts = windows.counts(x.shape[2:])
        padded = _padded(x, windows, counts)
        batch, rows = x.shape[0], w.shape[0] // groups
        blocks = w.reshape(groups, rows, w.shape[1], *w.shape[2:])
        y = np.zeros((batch, groups, rows, math.prod(counts)), x.dtype)
        for tap, seen in windows.taps(counts):
            part = padded[seen].reshape(batch, groups, w.shape[1], y.shape[-1])
            y += _product(_tap(blocks, tap), part)
        result = y.reshape(batch, w.shape[0], *counts)
        return (result if b is None else result + _per_channel(b, result.ndim),)


class ConvTranspose(OpRun):
    """ConvTranspose; onnx's own scatters in Python loops."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Ints = None,
        group: int | None = None,
        kernel_shape: Ints = None,
        output_padding: Ints = None,
        output_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        if output_shape is not None or (auto_pad or "NOTSET") not in {"NOTSET", "VALID"}:
            raise NotImplementedError("ConvTranspose with output_shape or auto_pad")
        groups, kernel, size = group or 1, w.shape[2:], x.shape[2:]
        windows = Windows.of(size, kernel, strides, dilations, pads)
        extra = output_padding or (0,) * len(kernel)
        spans = zip(size, windows.strides, windows.extents, extra, strict=True)
        full = [(length - 1) * step + extent + more for length, step, extent, more in spans]
        y = np.zeros((x.shape[0], w.shape[1] * groups, *full), x.dtype)
        blocks = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
        source = x.reshape(x.shape[0], groups, w.shape[0] // groups, -1)
        for tap, seen in windows.taps(size):
            part = _product(_tap(blocks, tap).swapaxes(1, 2), source)
            y[seen] += part.reshape(*y.shape[:2], *size)
        y = _framed(y, [-crop for crop in windows.begin], [-crop for crop in windows.end])
        return (y if b is None else y + _per_channel(b, y.ndim),)


class MaxPool(OpRun):
    """MaxPool; onnx's own visits each window in Python."""

    def _run(
        self,
        x: Array,
        *,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Ints = None,
        kernel_shape: Ints = None,
        pads: Ints = None,
        storage_order: int | None = None,
        strides: Ints = None,
    ) -> tuple[Array, ...]:
        windows = Windows.of(x.shape[2:], kernel_shape or (), strides, dilations, pads, auto_pad)
        counts = windows.counts(x.shape[2:], ceil_mode=bool(ceil_mode))
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        padded = _padded(x, windows, counts, lowest)
        y = np.full((*x.shape[:2], *counts), lowest, x.dtype)
        if len(self.output) == 1:
            for _, seen in windows.taps(counts):
                np.maximum(y, padded[seen], out=y)
            return (y,)
        if storage_order:
            raise NotImplementedError("MaxPool with column-major indices")
        places = _padded(np.arange(x.size).reshape(x.shape), windows, counts, -1)
        where = np.full(y.shape, -1, np.int64)
        for _, seen in windows.taps(counts):
            better = padded[seen] > y
            y, where = np.where(better, padded[seen], y), np.where(better, places[seen], where)
        return y, where


class AveragePool(OpRun):
    """AveragePool; onnx's own visits each window in Python."""

    def _run(
        self,
        x: Array,
        *,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        count_include_pad: int | None = None,
        dilations: Ints = None,
        kernel_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        size = x.shape[2:]
        windows = Windows.of(size, kernel_shape or (), strides, dilations, pads, auto_pad)
        counts = windows.counts(size, ceil_mode=bool(ceil_mode))
        ends = windows.fit(size, counts)
        inside, begins = np.ones((1, 1, *size), x.dtype), windows.begin
        if count_include_pad:
            # The declared padding counts; positions that ceil_mode adds after it do not.
            inside = _framed(inside, begins, windows.end, 1)
            ends = [end - declared for end, declared in zip(ends, windows.end, strict=True)]
            begins = (0,) * len(size)
        inside = _framed(inside, begins, ends)
        padded = _padded(x, windows, counts)
        total = np.zeros((*x.shape[:2], *counts), x.dtype)
        count = np.zeros((1, 1, *counts), x.dtype)
        for _, seen in windows.taps(counts):
            total += padded[seen]
            count += inside[seen]
        return (total / count,)


class BatchNormalization(OpRun):
    """BatchNormalization; onnx's own treats each node of opset 7 to 13 as training."""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        mean: Array,
        var: Array,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        training_mode: int | None = None,
        is_test: int | None = None,
        spatial: int | None = None,
        consumed_inputs: Ints = None,
    ) -> tuple[Array, ...]:
        opset = self.run_params["opsets"].get("", 0)
        trains = bool(training_mode) if opset >= 14 else len(self.output) > 1
        if (opset < 7 and not is_test) or (opset < 14 and trains) or spatial == 0:
            raise NotImplementedError("BatchNormalization in training mode before opset 14")
        used_mean, used_var = mean, var
        if trains:
            axes = tuple(axis for axis in range(x.ndim) if axis != 1)
            used_mean, used_var = x.mean(axis=axes), x.var(axis=axes)
        factor = scale / np.sqrt(used_var + float(epsilon))
        y = (x - _per_channel(used_mean, x.ndim)) * _per_channel(factor, x.ndim)
        y = y + _per_channel(bias, x.ndim)
        if not trains:
            return (y,)
        kept = float(momentum)
        moved = [
            old * kept + new * (1 - kept) for old, new in ((mean, used_mean), (var, used_var))
        ]
        return (y, *moved)


class Erf(OpRun):
    """Erf; onnx's own computes in float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x) if x.size else x,)


class Gelu(OpRun):
    """Gelu; onnx's own has float32 constants."""

    def _run(self, x: Array, *, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return (x * (1 + np.tanh(inner)) / 2,)
        # 1 + erf would cancel far below zero, where erfc does not.
        return (x * _erfc(-x / math.sqrt(2)) / 2 if x.size else x,)


class HardSwish(OpRun):
    """HardSwish; onnx's own has 1/6 in float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x * np.clip(x / 6 + 0.5, 0, 1),)


KERNELS: list[type[OpRun]] = [
    *(Conv, ConvTranspose, MaxPool, AveragePool, BatchNormalization, Erf, Gelu, HardSwish),
    *SEMANTICS,
]


def _product(left: Array, right: Array) -> Array:
    """Multiply [g, m, c] by [n, g, c, p]; elementwise if c is 1, which is faster."""
    if left.shape[2] == 1:
        return left[None] * right
    product: Array = np.matmul(left[None], right)
    return product


def _padded(x: Array, windows: Windows, counts: Sequence[int], fill: float = 0) -> Array:
    """Pad an input exactly as far as these numbers of windows reach."""
    return _framed(x, windows.begin, windows.fit(x.shape[2:], counts), fill)


def _framed(x: Array, begins: Sequence[int], ends: Sequence[int], fill: float = 0) -> Array:
    """Pad the spatial axes of `x`; negative amounts crop."""
    pairs = list(zip(x.shape[2:], begins, ends, strict=True))
    kept: Any = (..., *(slice(max(-begin, 0), size + min(end, 0)) for size, begin, end in pairs))
    widths = [(max(begin, 0), max(end, 0)) for _, begin, end in pairs]
    return np.pad(x[kept], [(0, 0), (0, 0), *widths], constant_values=fill)


def _tap(weight: Array, tap: tuple[int, ...]) -> Array:
    """Return one tap [g, m, c] of a weight [g, m, c, ...]."""
    index: Any = (..., *tap)
    part: Array = weight[index]
    return part


def _per_channel(vector: Array, rank: int) -> Array:
    return vector.reshape(-1, *(1,) * (rank - 2))
