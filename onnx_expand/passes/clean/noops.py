"""Remove nodes that do nothing, or whose outputs nothing reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import has_references, int_of
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.linear.terms.noops import forwarded
from onnx_expand.linear.terms.scaling.base import is_of_maps

__all__ = ["drop_dead", "drop_noops"]

_NO_NUMBERS = {ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}


def drop_dead(graph: ir.Graph, rewriter: Rewriter) -> Iterator[str]:
    """Remove the nodes of a graph whose outputs nothing reads; yield their labels."""
    for node in reversed(graph):
        if node.graph is graph and not any(map(_is_read, node.outputs)):
            yield label(node)
            rewriter.remove(node)


def drop_noops(graph: ir.Graph, facts: Facts, rewriter: Rewriter, *, maps: bool) -> Iterator[str]:
    """Bypass the nodes that return an input unchanged; yield their labels.

    Without `maps`, nodes whose output is in a type that linear maps process stay.
    """
    for node in list(graph):
        value = _handed_on(node, facts)
        if value is None or (not maps and is_of_maps(node.outputs[0], facts)):
            continue
        if rewriter.can_stand_in(value, node.outputs[0]):
            yield label(node)
            rewriter.stand_in(node, [value])


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _handed_on(node: ir.Node, facts: Facts) -> ir.Value | None:
    """Return the input that a node returns unchanged, or None for other nodes."""
    if node.domain == "" and node.op_type == "Identity" and len(node.inputs) == 1:
        return node.inputs[0]
    if node.domain == "" and node.op_type == "Dropout" and _is_inference(node, facts):
        return node.inputs[0]
    return forwarded(node, facts) or _combined_with_neutral(node, facts) or _chosen(node, facts)


def _is_inference(node: ir.Node, facts: Facts) -> bool:
    """Return whether a Dropout is in inference mode and its mask is unused."""
    if any(map(_is_read, node.outputs[1:])) or has_references(node):
        return False
    if facts.opset < 7:
        return bool(int_of(node, "is_test", facts.opset))
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    return facts.is_constant(mode) and not np.any(read_tensor(facts.tensor(mode)))


_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1, "And": 1, "Or": 0}
_SYMMETRIC = {"Add", "And", "Mul", "Or"}


def _combined_with_neutral(node: ir.Node, facts: Facts) -> ir.Value | None:
    """Return the operand x of x + 0, x - 0, 1 x, x / 1, x ** 1, x and true, x or false.

    It is None for other nodes.

    For x = -0, x + 0 is 0 rather than -0, which compare as equal.
    """
    neutral = _NEUTRAL.get(node.op_type) if node.domain == "" and facts.opset >= 7 else None
    if neutral is None or len(node.inputs) != 2:
        return None
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op_type in _SYMMETRIC:
        pairs.append((node.inputs[1], node.inputs[0]))
    for x, constant in pairs:
        if x is None or constant is None or not facts.is_constant(constant):
            continue
        if _keeps_shape(x, constant, facts) and _is_all(facts.tensor(constant), neutral):
            return x
    return None


def _chosen(node: ir.Node, facts: Facts) -> ir.Value | None:
    """Return the value that a Where takes all of its elements from, or None for other nodes."""
    given = node.inputs[0] if node.domain == "" and node.op_type == "Where" else None
    if given is None or not facts.is_constant(given):
        return None
    condition = read_tensor(facts.tensor(given))
    if not condition.size or condition.any() != condition.all():
        return None
    value = node.inputs[1 if condition.any() else 2]
    same = facts.extents(value) == facts.extents(node.outputs[0]) is not None
    return value if same else None


def _keeps_shape(x: ir.Value, constant: ir.Value, facts: Facts) -> bool:
    """Return whether broadcasting a value against a constant keeps the shape of the value."""
    extents, shape = facts.dims(constant), facts.shape(x)
    if not extents:
        return True
    if shape is None or len(extents) > len(shape):
        return False
    ends = shape[len(shape) - len(extents) :]
    return all(extent in (1, size) for extent, size in zip(extents, ends, strict=True))


def _is_all(tensor: ir.TensorProtocol, number: int) -> bool:
    if tensor.dtype in _NO_NUMBERS or tensor.size == 0:
        return False
    array = read_tensor(tensor)
    return bool(array.flat[0] == number) and bool(np.all(array == number))
