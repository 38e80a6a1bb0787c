"""Merge nodes that compute the same values.

Two nodes are duplicates if they have the same op, bitwise equal attributes, and the same inputs or
constant inputs of equal bytes. Only deterministic nodes of ops that ONNX defines are merged: two
random draws differ, and the semantics of other domains are unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

import onnx
import onnx_ir as ir

from onnx_expand.graph.attributes import NEWEST
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.ops import Trait, op_of
from onnx_expand.graph.stored import stated_constant
from onnx_expand.graph.tensors import read_tensor

__all__ = ["merge_duplicates"]

_SMALL = 1 << 10  # bytes up to which constants are compared by content
_BODIES = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
_TENSORS = {ir.AttributeType.TENSOR, ir.AttributeType.TENSORS}
_DOMAINS = {"": "", "ai.onnx.ml": "ai.onnx.ml"}


def merge_duplicates(graph: ir.Graph, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Merge the duplicate nodes of a graph; yield the labels of the removed nodes."""
    first: dict[Hashable, ir.Node] = {}
    nodes = list(graph)
    alike = Counter(map(_stem, nodes))  # the rest need not have their constants read
    for node in nodes:
        key = _key(node, facts) if alike[_stem(node)] > 1 else None
        if key is None:
            continue
        kept = first.setdefault(key, node)
        if kept is node:
            continue
        pairs = list(zip(kept.outputs, node.outputs, strict=True))
        if all(rewriter.can_stand_in(new, old) for new, old in pairs):
            yield label(node)
            rewriter.stand_in(node, kept.outputs)


def _stem(node: ir.Node) -> Hashable:
    """Return a cheap key that duplicate nodes share."""
    reads = tuple(v if v is None or v.producer() is not None else None for v in node.inputs)
    return (node.domain, node.op_type, *(None if _is_constant(v) else v for v in reads))


def _is_constant(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "Constant"


def _key(node: ir.Node, facts: Facts) -> Hashable | None:
    """Return the key that duplicate nodes share, or None for a node that must not be merged."""
    if not node.outputs or not _is_deterministic(node, facts):
        return None
    attributes = []
    for name in sorted(node.attributes):
        content = _content(node.attributes[name])
        if content is None:
            return None
        attributes.append((name, content))
    named = tuple(bool(out.name) for out in node.outputs)  # ops may depend on which are present
    operands = tuple(map(_operand, node.inputs))
    return (node.domain, node.op_type, tuple(attributes), named, operands)


def _is_deterministic(node: ir.Node, facts: Facts) -> bool:
    if node.domain not in _DOMAINS or Trait.VARIES in op_of(node).traits:
        return False
    if node.overload:
        return False
    version = min(facts.opset, NEWEST) if node.domain == "" else 1
    return onnx.defs.has(node.op_type, version, node.domain)


def _operand(value: ir.Value | None) -> Hashable:
    """Return the value itself, or the content of a small constant."""
    if value is None:
        return None
    is_stored = value.is_initializer() and not value.is_graph_input()
    tensor = value.const_value if is_stored else stated_constant(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes > _SMALL:
        return value
    return _bytes(tensor)


def _bytes(tensor: ir.TensorProtocol) -> Hashable:
    return (tensor.dtype, tuple(tensor.shape), read_tensor(tensor).tobytes())


def _content(attribute: ir.Attr) -> Hashable | None:
    """Return the bitwise content of an attribute, or None where it is not compared."""
    kind = attribute.type
    if attribute.is_ref():
        return (kind, "given", attribute.ref_attr_name)
    if kind in _BODIES:
        return None
    if kind not in _TENSORS:
        return (kind, repr(attribute.value))  # distinguishes -0.0 from 0.0
    tensors = attribute.value if kind == ir.AttributeType.TENSORS else [attribute.value]
    if any(t.dtype == ir.DataType.STRING or t.nbytes > _SMALL for t in tensors):
        return None
    return (kind, tuple(map(_bytes, tensors)))
