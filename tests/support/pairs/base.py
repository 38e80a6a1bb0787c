"""Pairs of models for `check`, written as ONNX text with their initializers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

__all__ = [
    "IDS", "IMAGE", "ROWS", "SQUARE", "Numbers", "Pair", "changed", "int64", "normal", "pair",
    "scalar", "together",
]  # fmt: skip

Array = npt.NDArray[Any]
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two models.

    Attributes:
        name: What B does otherwise, or in another way.
        a: The model that is right.
        b: The other one.
    """

    name: str
    a: onnx.ModelProto
    b: onnx.ModelProto


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal float32 numbers."""
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * scale).astype(np.float32)


def changed(array: Array, place: int | tuple[int, ...], step: float = 0.5) -> Array:
    """A copy with a step added at one place, or to one row."""
    copy = np.array(array)
    copy[place] += np.asarray(step, array.dtype)
    return copy


def model(text: str, numbers: Numbers, opset: int = 18) -> onnx.ModelProto:
    """A model from ONNX text and its initializers, of which it keeps those that it reads."""
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    computed = {out for node in made.graph.node for out in node.output}
    reads = set(_reads(made.graph))
    for name, array in numbers.items():
        if name in reads - computed:
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    ports = (*made.graph.input, *made.graph.output)
    if all(value.type.tensor_type.HasField("shape") for value in ports):
        onnx.checker.check_model(made)
    return made


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _reads(attribute.g)


def pair(
    name: str,
    ports: str,
    a: str,
    b: str = "",
    numbers: Numbers | None = None,
    others: Numbers | None = None,
    opset: int = 18,
) -> Pair:
    """A pair with the same inputs and outputs.

    Args:
        name: Of the pair.
        ports: Inputs and outputs as ONNX text, such as `float[N] x -> float[N] y`.
        a: The nodes of A.
        b: Those of B; A's own when empty.
        numbers: The initializers.
        others: Those that are others in B.
        opset: Of both.
    """
    inputs, outputs = ports.split(" -> ")
    head = f"({inputs}) => ({outputs}) "
    left = numbers or {}
    right = {**left, **(others or {})}
    return Pair(
        name,
        model(f"{head}{{ {a} }}", left, opset),
        model(f"{head}{{ {b or a} }}", right, opset),
    )


IMAGE = "float[N,3,H,W] x -> float[a,b,c,d] y"
ROWS = "float[N,8] x -> float[a,b] y"
SQUARE = "float[N,8,8] x -> float[a,b,c] y"
IDS = "int64[N,S] x -> float[a,b,c] y"


def int64(*values: int) -> Array:
    """A list of integers."""
    return np.asarray(values, np.int64)


def scalar(value: float, kind: Any = np.float32) -> Array:
    """A number without axes."""
    return np.asarray(value, kind)


def _unique(pairs: Iterator[Pair]) -> Iterator[Pair]:
    seen = set()
    for made in pairs:
        assert made.name not in seen, made.name
        seen.add(made.name)
        yield made


def together(*parts: Callable[[], Iterator[Pair]]) -> list[Pair]:
    """All pairs, whose names must differ."""
    return list(_unique(made for part in parts for made in part()))
