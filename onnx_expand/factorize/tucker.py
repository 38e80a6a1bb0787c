"""Fit 1x1, kernel, 1x1, and matrices, to a given composition.

The outer factors F1 and F3 are orthogonal, and a random
middle factor F2o is moved by the least amount that makes the composition right,

    F2 = F2o + pinv(F3) (W - F3 F2o F1) pinv(F1),

which is exact if no inner width is below the adjacent outer one. Otherwise the outer factors span
the leading singular directions (Tucker's decomposition), which is optimal up to a small factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_expand.factorize.kernels import SMALLEST, Array, norm, product, relative, rotation

__all__ = ["fit_tucker"]

_STALLED = 0.98  # a pass that leaves more than this fraction of the residual is the last


def fit_tucker(
    widths: Sequence[int],
    wanted: Array,
    rng: np.random.Generator,
    rounded: Callable[[Array], Array],
) -> tuple[tuple[Array, ...], float]:
    """Fit a pointwise kernel, the kernel, and perhaps another pointwise one to a composition.

    Args:
        widths: Channels per group before, between and after the kernels.
        wanted: [g, n, m, *taps], the composition.
        rng: The source of randomness for free parameters.
        rounded: Rounds to the type of the values.

    Returns:
        The kernels, and their relative residual before the middle one was rounded.
    """
    (g, n, m), taps = wanted.shape[:3], wanted.shape[3:]
    ones = (1,) * len(taps)
    gain = _gain(wanted)
    rows = np.moveaxis(wanted, 2, 1).reshape(g, m, -1)
    first = gain * _outer(rows, widths[1], rng).swapaxes(1, 2)  # [g, p, m]
    first = rounded(first.reshape(g, widths[1], m, *ones))
    last = None
    q = n
    if len(widths) == 4:
        q = widths[2]
        last = gain * _outer(wanted.reshape(g, n, -1), q, rng)  # [g, n, q]
        last = rounded(last.reshape(g, n, q, *ones))
    right = _inverse(first.reshape(g, -1, m).swapaxes(1, 2)).swapaxes(1, 2)
    left = None if last is None else _inverse(last.reshape(g, n, -1))

    def moved(kernel: Array) -> Array:
        """pinv(F3) kernel pinv(F1)."""
        flat = np.moveaxis(kernel.reshape(g, n, m, -1), 2, 3).reshape(g, -1, m) @ right
        inner = np.moveaxis(flat.reshape(g, n, -1, widths[1]), 2, 3)
        if left is not None:
            inner = left @ inner.reshape(g, n, -1)
        return inner.reshape(g, q, widths[1], *taps)

    def composed(middle: Array) -> Array:
        chain = [first, middle] if last is None else [first, middle, last]
        whole = product(chain)
        assert whole is not None
        return whole

    start = rng.standard_normal((g, q, widths[1], *taps))
    share = norm(moved(wanted)) or norm(start) / np.sqrt(start[0, :, 0].size)
    middle = start * (share / norm(start))
    residual = np.inf
    for _ in range(3):  # after the first pass only rounding errors remain
        rest = wanted - composed(middle)
        before, residual = residual, relative(rest, wanted)
        if residual <= SMALLEST or residual > _STALLED * before:
            break
        middle = middle + moved(rest)
    kernels = (first, rounded(middle), *(() if last is None else (last,)))
    return kernels, residual


def _gain(wanted: Array) -> float:
    """Return a gain of the outer factors for which all factors learn at about the same rate.

    With orthogonal factors of gain a, the middle one scales a gradient by a^4 and each outer one
    by up to (s / a)^2, where s is the largest singular value; they are equal for a = s^(1/3).
    """
    g, n = wanted.shape[:2]
    rows = wanted.reshape(g, n, -1)
    largest = np.linalg.eigvalsh(rows @ rows.swapaxes(1, 2)).max()
    return float(largest ** (1 / 6)) if largest > 0 else 1.0


def _inverse(wide: Array) -> Array:
    """Return the pseudo-inverse of wide or tall matrices that are nearly orthogonal."""
    tall = wide.swapaxes(1, 2)
    if wide.shape[1] <= wide.shape[2]:
        return np.asarray(tall @ np.linalg.inv(wide @ tall))
    return np.asarray(np.linalg.inv(tall @ wide) @ tall)


def _outer(rows: Array, width: int, rng: np.random.Generator) -> Array:
    """Return [g, m, width] with orthonormal rows, or columns spanning the leading directions."""
    g, m = rows.shape[:2]
    if width >= m:
        return np.linalg.qr(rng.standard_normal((g, width, m)))[0].swapaxes(1, 2)
    leading = np.linalg.svd(rows, full_matrices=False)[0][:, :, :width]
    if leading.shape[2] < width:  # fewer directions than columns: any directions complete them
        more = rng.standard_normal((g, m, width - leading.shape[2]))
        leading = np.linalg.qr(np.concatenate([leading, more], axis=2))[0]
    return leading @ rotation(g, width, rng)
