"""Merge a node with the one before it, or leave out an operand that is the default.

Each rule preserves every element of the result, infinities included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_expand.graph.attributes import has_references, int_of, ints_of, text_of
from onnx_expand.graph.editing import Rewriter, label
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.operands import integers
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.linear.terms.noops import WIDER

__all__ = ["join_pairs"]

_IDEMPOTENT = {"Abs", "Ceil", "Floor", "Relu", "Round", "Sign"}
_REDUCING = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"}
_RECURRENT = {"GRU": (5,), "LSTM": (5, 6), "RNN": (5,)}
"""The inputs of recurrent ops that are states at the start, which are zero if omitted."""
_MOVING = {
    *("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze"),
}
"""Ops whose outputs contain nothing but elements of their first input."""
_AXES_READ = 13  # the first opset in which Squeeze and Unsqueeze read their axes


def join_pairs(graph: ir.Graph, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Merge pairs of nodes of a graph; yield the labels of the nodes that are gone."""
    for node in list(graph):
        rules = _RULES.get(node.op_type, ()) if node.domain == "" else ()
        if not rules or node.graph is not graph or has_references(node):
            continue
        for rule in rules:
            yield from rule(node, facts, rewriter)
            if node.graph is not graph:
                break


def _before(
    node: ir.Node, op_types: str | set[str], slot: int = 0, *, own: bool = True
) -> ir.Node | None:
    """Return the node of some op that computes an input; None for other ops.

    Args:
        node: The node.
        op_types: The ops.
        slot: The input.
        own: Whether nothing else may read it.
    """
    value = node.inputs[slot] if slot < len(node.inputs) else None
    before = None if value is None else value.producer()
    wanted = {op_types} if isinstance(op_types, str) else op_types
    if value is None or before is None or before.op_type not in wanted or before.domain:
        return None
    if before.graph is not node.graph or has_references(before):
        return None
    if before.inputs[0] is None or value is not before.outputs[0]:
        return None
    return None if own and (value.is_graph_output() or len(value.uses()) > 1) else before


def _idempotent(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """f(f(x)) = f(x)."""
    before = _before(node, node.op_type, own=False)
    if before is not None and rewriter.can_stand_in(before.outputs[0], node.outputs[0]):
        yield label(node)
        rewriter.stand_in(node, before.outputs[:1])


def _not_not(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Not(Not(x)) = x."""
    before = _before(node, "Not", own=False)
    x = None if before is None else before.inputs[0]
    if x is not None and rewriter.can_stand_in(x, node.outputs[0]):
        yield label(node)
        rewriter.stand_in(node, [x])


def _where_not(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Where(Not(c), a, b) = Where(c, b, a)."""
    before = _before(node, "Not")
    if before is not None and len(node.inputs) == 3:
        yield label(before)
        rewriter.feed(node, [before.inputs[0], node.inputs[2], node.inputs[1]])


def _clip_relu(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Clip(Relu(x), low, high) = Clip(x, low, high) for low >= 0."""
    before = _before(node, "Relu")
    if before is None or facts.opset < 11 or len(node.inputs) < 2:
        return
    low = node.inputs[1]
    if low is not None and facts.is_constant(low) and np.all(read_tensor(facts.tensor(low)) >= 0):
        yield label(before)
        rewriter.feed(node, [before.inputs[0], *node.inputs[1:]])


def _concat(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Concat(Concat(a, b), c) = Concat(a, b, c) along one axis."""
    axis = _axis(node, facts)
    inputs: list[ir.Value | None] = []
    gone = []
    for slot, value in enumerate(node.inputs):
        before = _before(node, "Concat", slot)
        if before is None or axis is None or _axis(before, facts) != axis:
            inputs.append(value)
            continue
        inputs += before.inputs
        gone.append(label(before))
    if gone:
        yield from gone
        rewriter.feed(node, inputs)


def _axis(node: ir.Node, facts: Facts) -> int | None:
    """Return the axis of a Concat, not negative."""
    axis, rank = int_of(node, "axis", facts.opset, 1), facts.rank(node.outputs[0])
    if axis >= 0:
        return axis
    return None if rank is None else axis + rank


def _cast(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Cast(Cast(x)) = Cast(x) if the type between represents all values of the first."""
    before = _before(node, "Cast")
    x = None if before is None else before.inputs[0]
    if before is None or x is None:
        return
    dtype, between = facts.dtype(x), ir.DataType(int_of(before, "to"))
    if dtype is not None and between in WIDER.get(dtype, ()):
        yield label(before)
        rewriter.feed(node, [x])


def _same_view(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Two Squeezes, or two Unsqueezes, are one."""
    before = _before(node, node.op_type)
    first = None if before is None else _axes_of(before, facts)
    second = _axes_of(node, facts)
    if before is None or first is None or second is None:
        return
    if node.op_type == "Unsqueeze":
        whole = range(len(second) + (facts.rank(node.inputs[0]) or 0))
        rest = [axis for axis in whole if axis not in second]
        axes = {*second, *(rest[axis] for axis in first)}
    else:
        whole = range(facts.rank(before.inputs[0]) or 0)
        rest = [axis for axis in whole if axis not in first]
        axes = {*first, *(rest[axis] for axis in second)}
    yield label(before)
    if facts.opset < _AXES_READ:
        node.attributes["axes"] = ir.AttrInt64s("axes", sorted(axes))
        rewriter.feed(node, before.inputs[:1])
    else:
        given = rewriter.integers(_graph_of(node), f"{label(node)}.axes", sorted(axes))
        rewriter.feed(node, [before.inputs[0], given])


def _reshape(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Reshape(Reshape(x, s), t) = Reshape(x, t) if each extent that t copies is one that s copies.

    A zero copies the extent in its place; all other targets depend on the number of elements only.
    """
    before = _before(node, "Reshape")
    target = integers(node, "shape", facts)
    if before is None or target is None or len(node.inputs) < 2:
        return
    if int_of(node, "allowzero", facts.opset) or int_of(before, "allowzero", facts.opset):
        return
    first = integers(before, "shape", facts) or []
    copied = [axis for axis, extent in enumerate(target) if extent == 0]
    if all(axis < len(first) and first[axis] == 0 for axis in copied):
        yield label(before)
        rewriter.feed(node, [before.inputs[0], node.inputs[1]])


def _kept_axes(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Unsqueeze(Reduce(x)) and Squeeze(Reduce(x)) of the same axes only keep or drop these."""
    before = _before(node, _REDUCING)
    if before is None or int_of(before, "keepdims", facts.opset, 1) != (node.op_type == "Squeeze"):
        return
    reduced, axes = _axes_of(before, facts), _axes_of(node, facts)
    if not axes or reduced != axes:
        return
    attributes = {name: a for name, a in before.attributes.items() if name != "keepdims"}
    new = ir.Node(
        "",
        before.op_type,
        before.inputs,
        [*attributes.values(), ir.AttrInt64("keepdims", int(node.op_type == "Unsqueeze"))],
        name=before.name,
    )
    facts.transfer(node.outputs[0], new.outputs[0])
    yield label(node)
    rewriter.replace([before, node], [new])


def _axes_of(node: ir.Node, facts: Facts) -> list[int] | None:
    """Return the axes of a Reduce, Squeeze or Unsqueeze, in order and not negative."""
    rank, axes = facts.rank(node.inputs[0]), integers(node, "axes", facts)
    if rank is None or not axes:
        return None
    rank += len(axes) if node.op_type == "Unsqueeze" else 0
    return sorted(axis + rank if axis < 0 else axis for axis in axes)


def _padded_maximum(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """MaxPool(Pad(x)) with -inf is a MaxPool with these pads, which are never its maximum."""
    before = _before(node, "Pad")
    if before is None or facts.opset < 11 or len(node.outputs) > 1 or len(before.inputs) != 3:
        return
    pads, value = before.inputs[1:]
    if not (facts.is_constant(pads) and facts.is_constant(value)) or pads is None or value is None:
        return
    kernel = ints_of(node, "kernel_shape")
    given = read_tensor(facts.tensor(pads)).reshape(2, -1)
    sums = given[:, 2:] + np.reshape(ints_of(node, "pads") or [0] * (2 * len(kernel)), (2, -1))
    is_plain = text_of(before, "mode", facts.opset) == "constant"
    is_plain &= text_of(node, "auto_pad", facts.opset) == "NOTSET"
    is_plain &= not int_of(node, "ceil_mode", facts.opset)
    if not is_plain or np.any(read_tensor(facts.tensor(value)) != -np.inf):
        return
    if np.any(given[:, :2]) or np.any(given < 0) or np.any(sums >= kernel):
        return  # runtimes refuse windows that may consist of padding
    yield label(before)
    node.attributes["pads"] = ir.AttrInt64s("pads", sums.ravel().tolist())
    rewriter.feed(node, before.inputs[:1])


def _turned_operand(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """Gemm(Transpose(a), b) = Gemm(a, b, transA=1), where fold has no weight to turn instead."""
    if any(map(facts.is_constant, node.inputs[:2])):
        return
    for slot, name in enumerate(("transA", "transB")):
        before = _before(node, "Transpose", slot)
        if before is not None and node.inputs[0] is not node.inputs[1]:
            yield label(before)
            turned = 1 - int_of(node, name, facts.opset)
            node.attributes[name] = ir.AttrInt64(name, turned)
            inputs = list(node.inputs)
            inputs[slot] = before.inputs[0]
            rewriter.feed(node, inputs)


def _zero_states(node: ir.Node, facts: Facts, rewriter: Rewriter) -> Iterator[str]:
    """A recurrent op that starts from zeros may omit its initial states."""
    inputs = list(node.inputs)
    for slot in _RECURRENT[node.op_type]:
        if slot < len(inputs) and inputs[slot] is not None and _is_zero(inputs[slot], facts):
            inputs[slot] = None
    if inputs == list(node.inputs):
        return
    while inputs[-1] is None:
        inputs.pop()
    made = [value.producer() for value in node.inputs if value not in inputs and value is not None]
    rewriter.feed(node, inputs)
    yield from (label(one) for one in made if one is not None and one.graph is None)


def _is_zero(value: ir.Value | None, facts: Facts) -> bool:
    """Return whether all elements of a value are zero, however many there are."""
    if facts.is_constant(value):
        assert value is not None
        return not np.any(read_tensor(facts.tensor(value)))
    node = None if value is None else value.producer()
    if node is None or node.domain or has_references(node):
        return False
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get_tensor("value")
        return filled is None or not np.any(read_tensor(filled))
    if node.op_type == "Concat":
        return all(_is_zero(part, facts) for part in node.inputs)
    return node.op_type in _MOVING and _is_zero(node.inputs[0], facts)


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


Rule: TypeAlias = Callable[[ir.Node, Facts, Rewriter], Iterator[str]]
_RULES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(_IDEMPOTENT, (_idempotent,)),
    **dict.fromkeys(_RECURRENT, (_zero_states,)),
    "Cast": (_cast,),
    "Clip": (_clip_relu,),
    "Concat": (_concat,),
    "Gemm": (_turned_operand,),
    "MaxPool": (_padded_maximum,),
    "Not": (_not_not,),
    "Reshape": (_reshape,),
    "Squeeze": (_same_view, _kept_axes),
    "Unsqueeze": (_same_view, _kept_axes),
    "Where": (_where_not,),
}
