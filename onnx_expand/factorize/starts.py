"""Alternative initial values for chains of layers.

The framework's default (`initial.random_init`) has the variance 1 / (3 fan-in), so that each layer
attenuates a signal by the square root of three: for three layers the result is three times weaker
than for the single layer that they replace. With batch normalization this only affects the size of
steps relative to the weights; otherwise it is where training starts. The starts here apply to
linear chains only, with inner biases of zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.factorize.kernels import Array, blocks, norm, unblocked

__all__ = ["CHAIN_STARTS"]

Start = Callable[[Sequence[Geometry], np.random.Generator], list[Array]]


def _variance(layers: Sequence[Geometry], rng: np.random.Generator) -> list[Array]:
    """Draw uniform weights of variance 1 / fan-in, with which layers preserve a signal's variance.

    LeCun et al., "Efficient BackProp" (1998), sec. 4.6.
    """
    bounds = [math.sqrt(3 / _products(layer)) for layer in layers]
    return [
        rng.uniform(-bound, bound, layer.weight_shape)
        for layer, bound in zip(layers, bounds, strict=True)
    ]


def _matched(layers: Sequence[Geometry], rng: np.random.Generator) -> list[Array]:
    """Draw as `_variance`, scaled so that the chain has the variance of one default layer."""
    gain = 3 ** (-0.5 / len(layers))
    return [gain * weight for weight in _variance(layers, rng)]


def _orthogonal(layers: Sequence[Geometry], rng: np.random.Generator) -> list[Array]:
    """Draw orthonormal rows, or columns scaled so that a signal's variance is preserved.

    Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks" (2014), sec. 3; the taps of a kernel count as inputs.
    """
    return [_isometry(layer, rng) for layer in layers]


def _balanced(layers: Sequence[Geometry], rng: np.random.Generator) -> list[Array]:
    """Draw the framework's default weights, scaled to equal norms with the same composition.

    Gradient flow preserves the differences of these norms (Arora et al., "On the optimization of
    deep networks", 2018, theorem 1).
    """
    weights = []
    for layer in layers:
        bound = 1 / math.sqrt(_products(layer))
        weights.append(rng.uniform(-bound, bound, layer.weight_shape))
    mean = math.exp(sum(math.log(norm(weight)) for weight in weights) / len(weights))
    return [weight * (mean / norm(weight)) for weight in weights]


CHAIN_STARTS: Mapping[str, Start] = {
    "variance": _variance,
    "matched": _matched,
    "orthogonal": _orthogonal,
    "balanced": _balanced,
}
"""The starts by name: functions from the layers of a chain, first to last, to their weights."""


def _products(layer: Geometry) -> float:
    """Return the products per output, for transposed convolutions on average without borders."""
    products = math.prod(layer.weight_shape[1:])
    return products / math.prod(layer.strides) if layer.transposed else products


def _isometry(layer: Geometry, rng: np.random.Generator) -> Array:
    shape = blocks(np.empty(layer.weight_shape), layer.group).shape  # [g, n, m, *taps]
    rows, columns = shape[1], math.prod(shape[2:])
    tall = rng.standard_normal((shape[0], max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    matrix = q if rows >= columns else q.swapaxes(1, 2)
    # A row of length one preserves the variance; the rows of a tall isometry are shorter.
    gain = math.sqrt(max(1.0, rows / columns))
    if layer.transposed:
        gain *= math.sqrt(math.prod(layer.strides))
    return unblocked(np.ascontiguousarray(gain * matrix).reshape(shape))
