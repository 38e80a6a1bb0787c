"""Products with a batch of matrices, which are not maps of channels: `x @ W`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.errors import RefusedError
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.terms.base import Homogeneous, Price
from onnx_expand.linear.terms.scaling import Scaling
from onnx_expand.linear.terms.tensors import Tensor

__all__ = ["BatchedProduct", "batched_matmul", "product_price", "product_scaling"]

Array = npt.NDArray[np.float64]


@dataclass(eq=False)
class BatchedProduct(Homogeneous):
    """A product with a batch of matrices that no node of the source computes.

    Attributes:
        right: Whether it is `x @ W`; else `W @ x`.
        shape: The shape of W, of rank 3 or more.
        numbers: Returns W.
    """

    right: bool
    shape: tuple[int, ...]
    numbers: Callable[[], Array]

    @property
    def inner(self) -> int:
        """The length of the sums."""
        return self.shape[-2] if self.right else self.shape[-1]

    def price(self) -> Price:
        """The cost of computing it from its argument."""
        return product_price(self.tensor, self.shape, self.inner)


def product_scaling(x: Tensor, result: Tensor, *, right: bool) -> Scaling:
    """Return how factors of its argument pass a product with a batch of matrices."""
    own, out = x.extents, result.extents
    channels: dict[int, int] = {}
    if own is not None and out is not None and len(own) == len(out):
        batch = range(len(own) - 2)
        channels = {axis: axis for axis in batch if isinstance(own[axis], int)}
        channels = {axis: axis for axis in channels if own[axis] == out[axis]}
        kept = len(own) - (2 if right else 1)
        channels[kept] = kept
    return Scaling({0: 1}, channels={0: channels})


def product_price(result: Tensor, shape: tuple[int, ...], inner: int) -> Price:
    """Return the cost of a product with a batch of matrices.

    `inner` is the length of the sums.
    """
    products = tuple(count * inner for count in result.positions(None))
    return Price(Cost(products[0], math.prod(shape), 1), products)


def batched_matmul(node: ir.Node, facts: Facts) -> tuple[ir.Value, bool] | None:
    """Return the batch of constant matrices that a MatMul alone reads; None for other nodes.

    Returns:
        The matrices, and whether they are the right operand.
    """
    if node.domain or node.op_type != "MatMul" or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None or facts.is_constant(a) == facts.is_constant(b):
        return None
    right = facts.is_constant(b)
    x, weight = (a, b) if right else (b, a)
    rank = facts.rank(x)
    try:
        shape = facts.dims(weight)
        facts.array(weight)
    except RefusedError:
        return None
    if rank is None or min(rank, len(shape) - 1) < 2 or 0 in shape or set(shape[:-2]) == {1}:
        return None
    is_own = list(facts.readers(weight)) == [node] and not weight.is_graph_output()
    return (weight, right) if is_own else None
