"""Draw random inputs from a model's signature; equal seeds give equal inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.inputs.demand import Demand
from onnx_expand.equivalence.inputs.integers import draw_factors, draw_integers
from onnx_expand.equivalence.inputs.signature import Port, Signature
from onnx_expand.equivalence.inputs.sizes import Sizes, extents_at
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.stored import nodes_of
from onnx_expand.graph.tensors import read_tensor

__all__ = [
    "REACHES",
    "SCALES",
    "Limits",
    "Regime",
    "compared_extents",
    "draw",
    "jumps",
    "landmarks",
    "nudge",
]

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = dict[str, Array]

_WORDS = ("", "a", "b", "word", "two words", "\u00e4\u4e2d")
REACHES = (1 << 63, 1 << 31, 1 << 15, 256, 128, 4, 2, 1)
"""Bounds on the magnitude of unconstrained integers, tried in order until A runs."""
SCALES = (100.0, 10.0, 1.0)
"""Scales of the large regime, tried in order until A does not overflow."""
_REACH = 1 << 15  # of integers in the regimes other than large
# Where common functions have kinks, jumps and rounding ties.
_LANDMARKS = (0.0, -0.0, 0.5, 1.5, 2.5, 3.5, 1.0, 2.0, 3.0, 6.0, 1e-3, 1e-2, 10.0, 100.0)
_FEW = 64  # elements; a larger constant is not taken as a limit or threshold
_MOST = 256  # landmarks
_JUMPS = 32
_FEWEST = 4  # integers that are tried as extents
_LONGEST = 1 << 12
_NEAR = 1e4  # larger values would hide everything beside them
_COMPARING = frozenset(
    {"Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod"}
)
_SPREAD = (-4.0, 4.5)  # powers of ten of the values between the landmarks


@dataclass(frozen=True)
class Limits:
    """Known and requested constraints on the inputs of a model.

    Attributes:
        demands: The constraints on integer inputs, by name.
        ranges: The smallest and largest value of inputs by name; "" applies to all inputs.
        landmarks: Values at which the models may have kinks or jumps.
        jumps: Values that the models compare with, which are drawn exactly.
        extents: Numbers that the models may compare extents with, which are tried as sizes.
    """

    demands: Mapping[str, Demand] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    landmarks: tuple[float, ...] = ()
    jumps: tuple[float, ...] = ()
    extents: tuple[int, ...] = ()


class Regime(StrEnum):
    """A distribution of inputs."""

    NORMAL = "normal"
    """Mean 0, standard deviation 1."""
    UNIFORM = "uniform"
    """Uniform from 0.5 to 1.5, as of images: without sign changes nothing cancels."""
    LARGE = "large"
    """The normal values scaled up, which saturates functions; integers over their whole type."""
    EDGES = "edges"
    """Values at which functions have kinks, jumps or ties, and some of every magnitude."""
    FINE = "fine"
    """Values of every magnitude up to one, where no large values hide small ones."""
    ZEROS = "zeros"
    """All zeros, which leaves the effect of biases and borders."""
    DENORMAL = "denormal"
    """Subnormal values, which some devices flush to zero."""


def jumps(models: Sequence[ir.Model]) -> tuple[float, ...]:
    """Return the small constants that nodes of models compare values with."""
    found = (number for tensor in _compared(models) for number in _numbers(tensor))
    return tuple(sorted(set(found), key=abs)[:_JUMPS])


def compared_extents(models: Sequence[ir.Model]) -> tuple[int, ...]:
    """Return integers that nodes may compare extents with, and those just above them."""
    tensors = (tensor for tensor in _compared(models) if tensor.dtype.is_integer())
    whole = {int(number) for tensor in tensors for number in _numbers(tensor)}
    near = sorted(number for number in whole if 0 < number <= _LONGEST)[:_FEWEST]
    return tuple(sorted({extent for number in near for extent in (number, number + 1)}))


def _compared(models: Sequence[ir.Model]) -> Iterator[ir.TensorProtocol]:
    for model in models:
        for node in nodes_of(model):
            for value in node.inputs if node.op_type in _COMPARING and not node.domain else ():
                tensor = None if value is None else ir.convenience.get_const_tensor(value)
                if tensor is not None:
                    yield tensor


def landmarks(models: Sequence[ir.Model]) -> tuple[float, ...]:
    """Return the values in small constants and attributes of models: limits, thresholds, steps."""
    found: dict[float, None] = {}
    for model in models:
        for tensor in _tensors(model):
            found |= dict.fromkeys(_numbers(tensor))
    return tuple(sorted(found, key=abs)[:_MOST])


def _numbers(tensor: ir.TensorProtocol) -> list[float]:
    """Return the finite numbers of a tensor if they are few."""
    is_number = tensor.dtype.is_floating_point() or tensor.dtype.is_integer()
    if tensor.size > _FEW or not is_number:
        return []
    array = np.asarray(read_tensor(tensor), np.float64).reshape(-1)
    return [float(number) for number in array if np.isfinite(number)]


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    found = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                found.append(attribute.value)
            elif attribute.type == ir.AttributeType.FLOAT:
                found.append(ir.tensor(np.asarray(attribute.value, np.float32)))
    return [tensor for tensor in found if tensor is not None]


def draw(
    signature: Signature,
    sizes: Sizes,
    regime: Regime,
    rng: np.random.Generator,
    *,
    scale: float = SCALES[0],
    reach: int = REACHES[0],
    turn: int = 0,
    limits: Limits | None = None,
) -> Feeds:
    """Draw an array for every input.

    Args:
        signature: The signature of the model.
        sizes: The extents of the symbolic dimensions.
        regime: The distribution.
        rng: The source of randomness.
        scale: The scale of the regimes large and edges.
        reach: The bound on the magnitude of unconstrained integers.
        turn: The index of the draw; consecutive draws cover consecutive rows of tables.
        limits: Known and requested constraints on the inputs.

    Raises:
        UnsupportedError: An input is not a tensor, has no known rank, or has a type that numpy and
            onnxruntime cannot exchange.
    """
    known = limits or Limits()
    feeds = {}
    for port in signature.inputs.values():
        if port.dtype is None or port.shape is None:
            raise UnsupportedError(
                f"input '{port.name}' has no tensor type or no shape; state both in the model, or "
                f"give --shape {port.name}:1,2,3"
            )
        shape = extents_at(port.symbols(), sizes)
        span = known.ranges.get(port.name, known.ranges.get(""))
        if port.dtype.is_integer() and port.dtype.bitwidth >= 8 and span is None:
            own = reach if regime in {Regime.LARGE, Regime.EDGES} else min(reach, _REACH)
            feeds[port.name] = draw_integers(
                port.dtype.numpy(), shape, known.demands.get(port.name, Demand()), rng,
                sizes=sizes, reach=own, turn=turn, least=regime == Regime.ZEROS,
                landmarks=known.jumps or known.landmarks if regime == Regime.EDGES else (),
            )  # fmt: skip
            continue
        demand = known.demands.get(port.name)
        if demand is not None and span is None and port.dtype.is_floating_point():
            factors = draw_factors(shape, demand, rng)
            feeds[port.name] = np.asarray(factors, port.dtype.numpy())
            continue
        array = _array(port, shape, regime, rng, scale, known.landmarks, turn)
        if regime == Regime.EDGES and array.dtype.kind == "f" and scale == SCALES[0]:
            array = _with_jumps(array, known.jumps, rng, turn)
        # 0-d arrays become scalars in arithmetic.
        feeds[port.name] = np.asarray(array if span is None else _within(array, span, rng))
    return feeds


def _within(array: Array, span: tuple[float, float], rng: np.random.Generator) -> Array:
    """Map values to a range, both ends included, in the same type and shape."""
    low, high = span
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        ends = max(int(low), info.min), min(int(high), info.max)
        return rng.integers(*ends, array.shape, endpoint=True, dtype=array.dtype)
    if array.dtype.kind != "f":
        return array
    return rng.uniform(low, high, array.shape).astype(array.dtype)


def nudge(feeds: Mapping[str, Array], rng: np.random.Generator) -> Feeds:
    """Return the inputs with each value moved up or down by about one ulp.

    An array of zeros moves by one ulp of 1.
    """
    return {name: np.asarray(_nudged(array, rng)) for name, array in feeds.items()}


def _nudged(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    unit = np.finfo(array.dtype).eps
    size = np.abs(array) if np.any(array) else np.ones_like(array)
    signs = rng.integers(0, 2, array.shape) * 2 - 1
    moved: Array = (array + signs * size * unit).astype(array.dtype)
    return moved


def _array(
    port: Port,
    shape: tuple[int, ...],
    regime: Regime,
    rng: np.random.Generator,
    scale: float,
    bends: Sequence[float],
    turn: int,
) -> Array:
    assert port.dtype is not None
    if port.dtype == ir.DataType.STRING:
        return np.asarray(_WORDS, object)[rng.integers(0, len(_WORDS), shape)]
    if port.dtype == ir.DataType.BOOL:
        # Many elements would always contain both values, so that "all" and "any" would never vary.
        share = {Regime.ZEROS: 0.0, Regime.DENORMAL: 1.0, Regime.EDGES: 0.05}.get(regime, 0.5)
        return rng.random(shape) < share
    if port.dtype.is_integer() and port.dtype.bitwidth >= 8:
        return np.zeros(shape, port.dtype.numpy())
    if port.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}:
        raise UnsupportedError(
            f"input '{port.name}' is of type {port.dtype}; check cannot draw such inputs"
        )
    kind = port.dtype.numpy()
    if regime == Regime.ZEROS:
        return np.zeros(shape, kind)
    if regime == Regime.EDGES:
        return _edges(shape, np.dtype(kind), rng, scale, bends)
    if regime == Regime.FINE:
        signs = rng.choice([-1.0, 1.0], shape)
        return np.asarray(_spread(shape, rng, _SPREAD[0], 0.0) * signs, kind)
    if regime == Regime.DENORMAL:
        values = rng.normal(size=shape) * float(np.finfo(kind).tiny) / 8
    elif regime == Regime.UNIFORM:
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(size=shape)
        if regime == Regime.LARGE:
            # Also draw values of mostly one sign, so that sums grow and thresholds are passed.
            values = scale * (values, np.abs(values), values - 0.5)[turn // 3 % 3]
    return np.asarray(values, kind)


def _spread(shape: tuple[int, ...], rng: np.random.Generator, low: float, high: float) -> Array:
    """Return values whose decimal logarithms are uniformly distributed."""
    return np.asarray(10.0 ** rng.uniform(low, high, shape))


def _edges(
    shape: tuple[int, ...],
    kind: np.dtype[Any],
    rng: np.random.Generator,
    scale: float,
    bends: Sequence[float],
) -> Array:
    """Return landmarks, their neighbours, and values of every magnitude."""
    most = float(np.finfo(kind).max) / 8
    places = np.asarray([*_LANDMARKS, *(-mark for mark in _LANDMARKS), *bends])
    places = places[np.abs(places) < min(most, 1e6)]
    marks = places[rng.integers(0, len(places), shape)]
    beside = rng.choice([0.0, 0.0, 1.0, -1.0, 0.25, -0.25], shape)
    spread = _spread(shape, rng, *_SPREAD) * rng.choice([-1.0, 1.0], shape)
    values = np.where(rng.random(shape) < 0.6, marks + beside, spread)
    # A smaller scale also limits the largest values.
    limit = min(most, 10.0**4.5 if scale == SCALES[0] else scale)
    return np.asarray(np.clip(values, -limit, limit), kind)


def _with_jumps(
    array: Array, values: Sequence[float], rng: np.random.Generator, turn: int
) -> Array:
    """Put values and their neighbours into half of the elements; consecutive draws take turns."""
    exact = np.asarray([v for v in values if abs(v) <= _NEAR], array.dtype)
    if not exact.size or not array.size:
        return array
    beside = [np.nextafter(exact, array.dtype.type(end)) for end in (np.inf, -np.inf)]
    marks = np.stack([exact, *beside, exact * 4], axis=1).reshape(-1)
    count = -(-array.size // 2)
    flat = array.reshape(-1)
    flat[rng.permutation(array.size)[:count]] = marks[(turn + np.arange(count)) % marks.size]
    return flat.reshape(array.shape)
