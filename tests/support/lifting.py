"""Lift single nodes and compare the maps with what the nodes compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnx_expand.errors import Refusal
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import Linear, lift
from tests.support.graphs import Array
from tests.support.graphs_text import graph


def normal(*shape: int, seed: int = 0) -> Array:
    """Draw normal random values in float64."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def lifted(model: onnx.ModelProto) -> Linear | Refusal | None:
    """Lift the last node of a model."""
    own = ir.serde.deserialize_model(model)
    return lift(own.graph[-1], Facts(own))


def reads_its_operands(linear: Linear) -> None:
    """Assert that `numbers`, used in training, computes the same from the constants as `load`."""
    assert linear.numbers is not None
    constants = [ir.convenience.get_const_tensor(value) for value in linear.operands]
    weight, bias = linear.numbers(*(c.numpy() for c in constants if c is not None))
    affine = linear.load()
    given = np.ones(1) if weight is None else weight
    own = given if given.size == 1 else given.reshape(affine.weight.shape)
    np.testing.assert_array_equal(np.broadcast_to(own, affine.weight.shape), affine.weight)
    expected = np.zeros(len(affine.weight)) if affine.bias is None else affine.bias
    shift = np.zeros(1) if bias is None else bias.reshape(-1)
    np.testing.assert_array_equal(np.broadcast_to(shift, expected.shape), expected)


def acts_as_its_node(model: onnx.ModelProto, x: Array) -> Linear:
    """Assert that the last node of a model lifts to a map that computes the same as the node."""
    linear = lifted(model)
    assert isinstance(linear, Linear), linear
    assert linear.x.name == "x"
    outputs: Any = ReferenceEvaluator(model).run(None, {"x": x})
    expected = np.asarray(outputs[0])
    if linear.axes is None:
        linear = linear.on(x.ndim - 1, x.shape[-1])
    affine = linear.load()
    assert linear.axes is not None
    read, written = (axis % x.ndim for axis in linear.axes)
    if affine.rank:
        actual = affine(x)
    else:
        columns = np.moveaxis(x, read, -1)
        flat = affine(columns.reshape(-1, columns.shape[-1]))
        # The axes other than the channel axis keep their order.
        actual = np.moveaxis(flat.reshape(*columns.shape[:-1], -1), -1, written)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    assert affine.geometry == linear.geometry
    if linear.numbers is not None:
        reads_its_operands(linear)
    weighted = linear.weight is not None or linear.bias is not None
    assert weighted == (linear.numbers is not None) or linear.node.op_type == "BatchNormalization"
    return linear


def dims(x: Array) -> str:
    """Return the shape of an array as text, with a symbolic first axis."""
    return ",".join(["N", *map(str, x.shape[1:])])


def one_node(text: str, x: Array, opset: int = 17, /, **constants: Any) -> onnx.ModelProto:
    """Build a float64 model of one node, written as text, that maps x to y."""
    axes = ",".join("ABCDE"[: x.ndim])
    return graph(
        f"g (double[{dims(x)}] x) => (double[{axes}] y) {{ {text} }}",
        {name: np.asarray(array) for name, array in constants.items()},
        opset=opset,
    )
