"""Generators of nodes with subgraphs (If, Loop, Scan) and of calls of local functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.random_models.builder import Builder, Dims, Value
from tests.support.random_models.joins import join
from tests.support.random_models.linear import arithmetic, batch_norm, conv, matmul
from tests.support.random_models.moves import activation, nothing

__all__ = ["CONTROL", "DOMAIN", "call"]

DOMAIN = "own"
_MAPS = (batch_norm, arithmetic, arithmetic, activation, nothing, nothing)


def _keeping(b: Builder, x: Value) -> Value | None:
    """Append one or a few nodes that keep extents."""
    draw = b.rng.random()
    if draw < 0.25:
        return conv(b, x, x.fixed[1], same=True) if x.rank > 2 else None
    if draw < 0.4 and x.rank > 1 and x.fixed[-1] > 0:
        wide = matmul(b, x, int(b.pick(x.fixed[-1], 3)))
        return matmul(b, wide, x.fixed[-1]) if wide is not None else None
    if draw < 0.5 and x.rank > 1:
        perm = [int(i) for i in b.rng.permutation(x.rank)]
        back = [int(i) for i in np.argsort(perm)]
        turned = b.add("Transpose", [x.name], tuple(x.dims[i] for i in perm), perm=perm)
        mapped = b.pick(*_MAPS)(b, turned) or turned
        return b.add("Transpose", [mapped.name], x.dims, perm=back)
    if draw < 0.6 and b.formal is None:
        found = join(b, x)
        return found if found is not None and found.dims == x.dims else None
    found = b.pick(*_MAPS)(b, x)
    assert found is None or isinstance(found, Value)
    return found


def chain(b: Builder, x: Value, length: int) -> Value:
    """Append a chain of nodes, from a value to one of the same extents."""
    start = x
    for _ in range(length):
        if b.depth < 2 and b.chance(0.06) and b.formal is None:
            x = b.pick(branch, loop)(b, x) or x
        x = _keeping(b, x) or x
    if x is start or all(x.name not in node.output for node in b.nodes):
        x = b.add("Identity", [x.name], x.dims)
    return x


def _info(b: Builder, name: str, dims: Dims, known: bool = True) -> onnx.ValueInfoProto:
    shape = [None if extent < 0 else extent for extent in Value(name, dims).fixed]
    return helper.make_tensor_value_info(name, b.kind, shape if known else None)


def _body(inner: Builder, name: str, inputs: list[Any], outputs: list[Any]) -> onnx.GraphProto:
    return helper.make_graph(inner.nodes, name, inputs, outputs, inner.initializers)


def _condition(b: Builder) -> str:
    """Return a condition: an input, constant, or computed from a shape."""
    root = b
    while root.parent is not None:
        root = root.parent
    if b.opset < 9 or b.chance(0.6):
        name = "flag"
        if all(port.name != name for port in root.extra_inputs):
            root.extra_inputs.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
        return name
    name = b.fresh("k")
    value = helper.make_tensor(name, TensorProto.BOOL, [], [bool(b.pick(0, 1))])
    b.nodes.append(helper.make_node("Constant", [], [name], value=value))
    return name


def branch(b: Builder, x: Value) -> Value | None:
    """Append an If whose branches compute values of the same extents from outer values."""
    condition = _condition(b)
    bodies = []
    for _ in range(2):
        inner = Builder(b.scope, b)
        result = chain(inner, x, int(b.rng.integers(1, 5)))
        known = b.chance(0.7)
        output = _info(b, result.name, result.dims, known)
        bodies.append(_body(inner, b.fresh("branch"), [], [output]))
    (name,) = b.node("If", [condition], then_branch=bodies[0], else_branch=bodies[1])
    value = Value(name, x.dims)
    b.values.append(value)
    return value


def loop(b: Builder, x: Value) -> Value | None:
    """Append a Loop that maps a value a few times and collects the intermediate values."""
    inner = Builder(b.scope, b)
    step, going, state = (b.fresh("s") for _ in range(3))
    carried = Value(state, x.dims)
    inner.values.append(carried)
    result = chain(inner, carried, int(b.rng.integers(1, 5)))
    collects = b.chance(0.4) and x.rank < 4
    (still,) = inner.node("Identity", [going])
    outputs = [
        helper.make_tensor_value_info(still, TensorProto.BOOL, []),
        _info(b, result.name, x.dims),
    ]
    if collects:
        (copy,) = inner.node("Identity", [result.name])
        outputs.append(_info(b, copy, x.dims))
    inputs = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
        _info(b, state, x.dims),
    ]
    body = _body(inner, b.fresh("loop"), inputs, outputs)
    trips = int(b.pick(1, 2, 3))
    names = b.node("Loop", [b.integers(trips), "", x.name], 2 if collects else 1, body=body)
    value = Value(names[0], x.dims)
    b.values.append(value)
    if collects:
        b.values.append(Value(names[1], ((trips,) * b.scope.sizes, *x.dims)))
    return value


def scan(b: Builder, x: Value) -> Value | None:
    """Append a Scan over the first axis."""
    if x.rank < 2 or b.opset < 9:
        return None
    inner = Builder(b.scope, b)
    state, part = b.fresh("s"), b.fresh("s")
    row = x.dims[1:]
    first, own = Value(state, row), Value(part, row)
    inner.values += [first, own]
    total = inner.add("Add", [state, part], row)
    result = chain(inner, total, int(b.rng.integers(1, 3)))
    mapped = chain(inner, own, int(b.rng.integers(1, 4)))
    outputs = [_info(b, result.name, row), _info(b, mapped.name, row)]
    body = _body(inner, b.fresh("scan"), [_info(b, state, row), _info(b, part, row)], outputs)
    if -1 in Value("", row).fixed:
        return None
    start = b.constant(np.zeros(Value("", row).fixed))
    names = b.node("Scan", [start, x.name], 2, body=body, num_scan_inputs=1)
    b.values += [Value(names[0], row), Value(names[1], x.dims)]
    return b.values[-1]


def call(b: Builder, x: Value) -> Value | None:
    """Append a call of a local function, new or existing."""
    if b.formal is not None:
        return None
    known = [(name, own) for name, own in b.scope.calls.items() if own[0] == x.dims]
    if known and b.chance(0.6):
        name, (_, arrays) = b.pick(*known)
    else:
        name, arrays = _function(b, x)
    weights = [b.constant(b.numbers(array.shape) if b.chance(0.5) else array) for array in arrays]
    made = helper.make_node(
        name, [x.name, *weights], [b.fresh()], domain=DOMAIN, name=b.fresh("n")
    )
    b.nodes.append(made)
    value = Value(made.output[0], x.dims)
    b.values.append(value)
    return value


def _function(b: Builder, x: Value) -> tuple[str, list[Any]]:
    """Define a function of one value and weights; return its name, and arrays for the weights."""
    inner = Builder(b.scope, None, formal={})
    start = Value(b.fresh("p"), x.dims)
    inner.values.append(start)
    result = chain(inner, start, int(b.rng.integers(2, 6)))
    name = b.fresh("block")
    assert inner.formal is not None
    inputs = [start.name, *inner.formal]
    opsets = [helper.make_opsetid("", b.opset)]
    made = helper.make_function(DOMAIN, name, inputs, [result.name], inner.nodes, opsets)
    b.scope.functions.append(made)
    arrays = list(inner.formal.values())
    b.scope.calls[name] = (x.dims, arrays)
    return name, arrays


CONTROL = (branch, branch, loop, scan, call, call)
"""The makers, as often as they are to be drawn."""
