"""Matrix products with more than one added value per channel: `y = L x + C`.

A Gemm adds its C to each row, or a whole matrix. If the number of rows is static, a constant added
after a matrix product can be that matrix, or one column of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.errors import RefusedError
from onnx_expand.graph.attributes import float_of
from onnx_expand.graph.facts import Facts
from onnx_expand.lift import Linear
from onnx_expand.lift.matrix import gemm_product
from onnx_expand.linear.terms.base import Map, Price, Term
from onnx_expand.lower import Form

__all__ = ["Added", "MatrixBias", "added_constant", "with_matrix_bias"]

Array = npt.NDArray[np.float64]


@dataclass(eq=False)
class MatrixBias(Term):
    """A matrix product plus a constant that differs from row to row.

    Attributes:
        layer: The product without a bias, of the current argument of the term; None if it only
        adds.
        numbers: Returns the added values, in two axes that broadcast to the result.
    """

    layer: Map | None
    numbers: Callable[[], Array]
    is_opaque: ClassVar[bool] = True

    def price(self) -> Price:
        """The cost of computing it from its argument."""
        size = self.numbers().size
        if self.layer is None:
            return Price(Cost(0, size, 1, self.tensor.positions(None)[0]))
        return replace(self.layer, node=None, form=Form.GEMM).price() + Price(Cost(0, size))


Added = tuple[ir.Value, Linear | None, Array]
"""The input of a node, the product that it computes if it does, and the values that it adds."""


def added_constant(node: ir.Node, facts: Facts) -> Added | None:
    """Return the constant that a node adds if it differs between rows; else None."""
    shape = facts.shape(node.outputs[0]) if node.domain == "" and node.outputs else None
    if shape is None or len(shape) != 2 or any(size is None or size < 2 for size in shape):
        return None
    if facts.opset < _BROADCASTS:
        return None
    if node.op_type == "Gemm":
        return _of_gemm(node, facts, shape)
    return _of_sum(node, facts, shape) if node.op_type in {"Add", "Sub"} else None


def _of_gemm(node: ir.Node, facts: Facts, shape: tuple[int | None, ...]) -> Added | None:
    c = node.inputs[2] if len(node.inputs) > 2 else None
    try:
        product = gemm_product(node, facts)
    except RefusedError:
        return None
    if c is None or not facts.is_constant(c) or not facts.is_constant(product.weight):
        return None
    numbers = _aligned(facts, c, shape)
    if numbers is None:
        return None
    return product.x, product, numbers * float_of(node, "beta", facts.opset)


def _of_sum(node: ir.Node, facts: Facts, shape: tuple[int | None, ...]) -> Added | None:
    known = [facts.is_constant(value) for value in node.inputs]
    if known not in ([False, True], [True, False]):
        return None
    x, c = node.inputs[known.index(False)], node.inputs[known.index(True)]
    if x is None or c is None or facts.shape(x) != shape:
        return None
    numbers = _aligned(facts, c, shape)
    if numbers is None or numbers.shape != shape or (node.op_type == "Sub" and known[0]):
        return None
    return x, None, -numbers if node.op_type == "Sub" else numbers


_BROADCASTS = 7  # the first opset in which Add and Gemm broadcast as numpy does


def _aligned(facts: Facts, c: ir.Value, shape: tuple[int | None, ...]) -> Array | None:
    """Return a constant in two axes that broadcast to a shape."""
    try:
        array = facts.array(c)
    except RefusedError:
        return None
    if array.ndim > 2:
        return None
    array = array.reshape((1,) * (2 - array.ndim) + array.shape)
    fits = all(have in {1, want} for have, want in zip(array.shape, shape, strict=True))
    return array if fits else None


def with_matrix_bias(node: ir.Node, added: ir.Value) -> ir.Node:
    """Copy a Gemm that is removed, with a matrix instead of its C."""
    inputs = [*node.inputs[:2], added]
    for slot in range(len(node.inputs)):
        node.replace_input_with(slot, None)
    attributes = list(node.attributes.values())
    return ir.Node("", "Gemm", inputs, attributes, name=node.name, num_outputs=1)
