"""Products and conversions of grouped weights, [n, m / group, ...] for n outputs of m inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["contract", "regroup", "split"]

Array = npt.NDArray[np.float64]


def contract(w2: Array, group2: int, w1: Array, group1: int) -> Array:
    """Contract [n, p / group2, *k2] with [p, m / group1, *k1] over p; one of k1, k2 is empty.

    Returns:
        The weight with gcd(group1, group2) groups, [n, m / gcd(group1, group2), *k].
    """
    group = math.gcd(group1, group2)
    if group1 > group and group2 > group:
        w1, group1 = regroup(w1, group1, group), group
    kernel = w2.shape[2:] + w1.shape[2:]
    n, p, m = w2.shape[0], w1.shape[0], w1.shape[1] * group1
    left: npt.NDArray[Any] = np.moveaxis(
        w2.reshape(n, p // group2, -1), 1, 2
    )  # [n, k2, p / group2]
    taps2, right = left.shape[1], w1.reshape(p, -1)
    if group1 == group:  # every block of w2 reads some rows of one block of w1
        left = left.reshape(group2, -1, p // group2)
        product = left @ right.reshape(group2, p // group2, -1)
    else:  # every block of w2 reads several whole blocks of w1
        ratio = group1 // group
        left = left.reshape(group, -1, ratio, p // group1).swapaxes(1, 2)
        product = left @ right.reshape(group, ratio, p // group1, -1)
        product = product.reshape(group, ratio, n // group * taps2, m // group1, -1)
        product = np.moveaxis(product, 1, 2)
    product = product.reshape(n, taps2, m // group, -1)
    return np.moveaxis(product, 1, 2).reshape(n, m // group, *kernel)


def regroup(weight: npt.NDArray[Any], group: int, coarser: int) -> npt.NDArray[Any]:
    """Convert [n, m / group, ...] to fewer groups, with zeros between the blocks of `group`."""
    if group == coarser:
        return weight
    (n, width), ratio = weight.shape[:2], group // coarser
    blocks = weight.reshape(coarser, ratio, n // group, width, -1)
    out = np.zeros((coarser, ratio, n // group, ratio, width, blocks.shape[-1]), weight.dtype)
    block = np.arange(ratio)
    out[:, block, :, block] = blocks.swapaxes(0, 1)
    return out.reshape(n, width * ratio, *weight.shape[2:])


def split(weight: Array, group: int, finer: int) -> Array:
    """Convert a weight to more groups, where the other blocks are zero: inverse of `regroup`."""
    ratio, (n, width) = finer // group, weight.shape[:2]
    blocks = weight.reshape(group, ratio, n // finer, ratio, width // ratio, -1)
    block = np.arange(ratio)
    return blocks[:, block, :, block].swapaxes(0, 1).reshape(n, width // ratio, *weight.shape[2:])
