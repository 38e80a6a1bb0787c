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
        name: The difference of B, or its other form.
        a: The reference model.
        b: The model to compare.
    """

    name: str
    a: onnx.ModelProto
    b: onnx.ModelProto


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Draw normal float32 values."""
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * scale).astype(np.float32)


def changed(array: Array, place: int | tuple[int, ...], step: float = 0.5) -> Array:
    """Return a copy with a step added to one element, or to one row."""
    copy = np.array(array)
    copy[place] += np.asarray(step, array.dtype)
    return copy


def model(text: str, numbers: Numbers, opset: int = 18) -> onnx.ModelProto:
    """Build a model from ONNX text and those of the initializers that it reads."""
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
    """Build a pair with the same inputs and outputs.

    Args:
        name: The name of the pair.
        ports: Inputs and outputs as ONNX text, such as `float[N] x -> float[N] y`.
        a: The nodes of A.
        b: The nodes of B; A's own if empty.
        numbers: The initializers.
        others: The initializers that differ in B.
        opset: The opset of both.
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
    """Return a list of integers as an array."""
    return np.asarray(values, np.int64)


def scalar(value: float, kind: Any = np.float32) -> Array:
    """Return a scalar as an array."""
    return np.asarray(value, kind)


def _unique(pairs: Iterator[Pair]) -> Iterator[Pair]:
    seen = set()
    for made in pairs:
        assert made.name not in seen, made.name
        seen.add(made.name)
        yield made


def together(*parts: Callable[[], Iterator[Pair]]) -> list[Pair]:
    """Combine lists of pairs, whose names must be unique."""
    return list(_unique(made for part in parts for made in part()))
