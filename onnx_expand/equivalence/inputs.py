"""Inputs to try a model on, drawn from its signature; the same seed gives the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.signature import Port, Signature
from onnx_expand.errors import UnsupportedError

__all__ = ["Limits", "Regime", "Sizes", "draw", "nudge", "plan_sizes"]

Sizes: TypeAlias = Mapping[str, int]
Feeds: TypeAlias = dict[str, npt.NDArray[Any]]

_WORDS = ("", "a", "b", "word", "two words", "\u00e4\u4e2d")
# One batch of one, where broadcasting hides mistakes, and one of an odd number.
_BATCHES = (1, 3)
# Odd and different first: an extent that a graph has baked in by mistake shows. Then what networks
# with many strides, or with axes that must agree, can run at.
_EXTENTS = (
    (33, 40),
    (64, 64),
    (96, 128),
    (224, 224),
    (320, 320),
    (16, 16),
    (8, 8),
    (2, 2),
    (1, 1),
)


@dataclass(frozen=True)
class Limits:
    """What is known, or wanted, of the inputs of a model.

    Attributes:
        below: Exclusive upper bounds of integer inputs, by name.
        ranges: Smallest and largest number of inputs, by name; "" is all inputs.
        shapes: Extents of inputs, by name; a string is a symbolic one.
    """

    below: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)


class Regime(StrEnum):
    """A distribution of inputs."""

    NORMAL = "normal"
    """Mean 0, standard deviation 1."""
    UNIFORM = "uniform"
    """From 0.5 to 1.5, as of images: no sign changes, so that nothing cancels."""
    LARGE = "large"
    """The normal ones, scaled up: saturates what saturates."""
    ZEROS = "zeros"
    """All zeros: what remains is the biases and the borders."""
    DENORMAL = "denormal"
    """Numbers below the smallest normal one, which some devices take for zero."""


def plan_sizes(signature: Signature) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Pairs of sizes to try, best first: the symbolic dimensions of the inputs, by name.

    A symbol that occurs on a first axis counts as a batch. The two of a pair differ wherever a
    dimension is symbolic.
    """
    first: dict[str, None] = {}
    others: dict[str, None] = {}
    for port in signature.inputs.values():
        for axis, symbol in enumerate(port.symbols()):
            if isinstance(symbol, str):
                (others if axis else first)[symbol] = None
    names = [symbol for symbol in others if symbol not in first]
    for batches in (_BATCHES, (1, 1)):
        for extents in _EXTENTS if names else _EXTENTS[:1]:
            one = dict.fromkeys(first, batches[0])
            two = dict.fromkeys(first, batches[1])
            for place, symbol in enumerate(names):
                one[symbol], two[symbol] = extents[place % 2], extents[(place + 1) % 2]
            yield one, two
        if not first:
            return


def draw(
    signature: Signature,
    sizes: Sizes,
    regime: Regime,
    rng: np.random.Generator,
    *,
    scale: float = 100.0,
    integers: int = 4,
    limits: Limits | None = None,
) -> Feeds:
    """Draw an array for every input.

    Args:
        signature: Of the model.
        sizes: The symbolic dimensions.
        regime: The distribution of floating-point inputs.
        rng: The source of randomness.
        scale: Of the large regime.
        integers: Integer inputs are below this where nothing else is known.
        limits: What is known or wanted of inputs.

    Raises:
        UnsupportedError: An input is no tensor, has no known rank, or is of a type that numpy and
            onnxruntime cannot exchange.
    """
    feeds = {}
    for port in signature.inputs.values():
        if port.dtype is None or port.shape is None:
            raise UnsupportedError(
                f"input '{port.name}' has no tensor type or no shape; state both in the model"
            )
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in port.symbols())
        known = limits or Limits()
        wanted = known.shapes.get(port.name)
        if wanted is not None:
            shape = tuple(sizes[d] if isinstance(d, str) else d for d in wanted)
        below = min(known.below.get(port.name, integers), 1 << 31)
        array = _array(port, shape, regime, rng, scale, below)
        span = known.ranges.get(port.name, known.ranges.get(""))
        # Without axes, arithmetic makes numbers of arrays.
        feeds[port.name] = np.asarray(array if span is None else _within(array, span, rng))
    return feeds


def _within(
    array: npt.NDArray[Any], span: tuple[float, float], rng: np.random.Generator
) -> npt.NDArray[Any]:
    """Numbers of the same type and shape from a range, both ends included."""
    low, high = span
    if array.dtype.kind in "iu":
        return rng.integers(int(low), int(high), array.shape, endpoint=True).astype(array.dtype)
    if array.dtype.kind != "f":
        return array
    return rng.uniform(low, high, array.shape).astype(array.dtype)


def nudge(feeds: Mapping[str, npt.NDArray[Any]], rng: np.random.Generator) -> Feeds:
    """The inputs, each number moved up or down by about one unit in its last place.

    An array of zeros moves by what would be one unit in the last place of a one.
    """
    return {name: np.asarray(_nudged(array, rng)) for name, array in feeds.items()}


def _nudged(array: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    unit = np.finfo(array.dtype).eps
    size = np.abs(array) if np.any(array) else np.ones_like(array)
    signs = rng.integers(0, 2, array.shape) * 2 - 1
    moved: npt.NDArray[Any] = (array + signs * size * unit).astype(array.dtype)
    return moved


def _array(
    port: Port,
    shape: tuple[int, ...],
    regime: Regime,
    rng: np.random.Generator,
    scale: float,
    integers: int,
) -> npt.NDArray[Any]:
    assert port.dtype is not None
    if port.dtype == ir.DataType.STRING:
        return np.asarray(_WORDS, object)[rng.integers(0, len(_WORDS), shape)]
    if port.dtype == ir.DataType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if port.dtype.is_integer() and port.dtype.bitwidth >= 8:
        return rng.integers(0, integers, shape).astype(port.dtype.numpy())
    if port.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}:
        raise UnsupportedError(f"input '{port.name}' is of type {port.dtype}; check has none such")
    if regime == Regime.ZEROS:
        values = np.zeros(shape)
    elif regime == Regime.DENORMAL:
        tiny = float(np.finfo(port.dtype.numpy()).tiny)
        values = rng.normal(size=shape) * tiny / 8
    elif regime == Regime.UNIFORM:
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(size=shape) * (scale if regime == Regime.LARGE else 1.0)
    return np.asarray(values, port.dtype.numpy())
