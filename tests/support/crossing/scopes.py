"""Place the nodes of a crossing in the main graph, a branch, a loop or a function."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.crossing.cell import Cell

__all__ = ["finished"]

_DOMAIN = "own"


def finished(cell: Cell) -> onnx.ModelProto:
    """Return the model of a cell."""
    outputs = list(dict.fromkeys([cell.current, *cell.outputs]))
    outputs = [name for name in outputs if name != "x"] or [cell.current]
    cell.need(outputs != ["x"])
    ports, functions = [_input(cell)], []
    nodes, made = cell.nodes, outputs
    if cell.scope == "If":
        nodes = [_branch(cell, outputs)]
        ports.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    elif cell.scope == "Loop":
        nodes = _loop(cell, outputs)
    elif cell.scope == "function":
        call, function = _function(cell, outputs)
        nodes, functions = [call], [function]
    if cell.scope != "main":
        made = list(nodes[-1].output)
    for name in cell.overridable:
        ports.append(helper.make_tensor_value_info(name, cell.kind, cell.held[name].shape))
    results = [_result(cell, name) for name in [*made, *cell.tied]]
    tensors = {**cell.held, **cell.given}
    graph = helper.make_graph(
        nodes,
        "crossing",
        ports,
        results,
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    opsets = [helper.make_opsetid("", cell.opset)]
    if functions:
        opsets.append(helper.make_opsetid(_DOMAIN, 1))
    version = 8 if cell.opset < 21 else 10
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=version)


def _input(cell: Cell) -> onnx.ValueInfoProto:
    """Declare the input, and note the axes whose extents may differ."""
    how = cell.pick("static", "static", "free", "free", "mixed", "mixed", "mixed", "nothing")
    dims: list[int | str | None] = list(cell.x)
    for i in range(len(dims)):
        if how in {"free", "nothing"} or (how == "mixed" and cell.chance()):
            if i == 1 and cell.chance(0.8):
                continue  # the channels
            cell.free.append(i)
            dims[i] = cell.pick(f"D{i}", f"D{i}", None)
    return helper.make_tensor_value_info("x", cell.kind, None if how == "nothing" else dims)


def _result(cell: Cell, name: str) -> onnx.ValueInfoProto:
    if name in cell.tied:
        return helper.make_tensor_value_info(name, cell.kind, cell.held[name].shape)
    rank = len(cell.shapes[name.removesuffix("_o")]) + (cell.scope == "Loop")
    is_known = cell.scope != "If" or rank == len(cell.x)
    return helper.make_tensor_value_info(name, cell.kind, [None] * rank if is_known else None)


def _branch(cell: Cell, outputs: list[str]) -> onnx.NodeProto:
    """Place the nodes in one branch of an If; the other returns its input."""
    then = _body(cell, [], outputs)
    others = [f"{name}_e" for name in outputs]
    copies = [helper.make_node("Identity", ["x"], [name], f"n{name}") for name in others]
    other = helper.make_graph(copies, "else", [], [_typed(cell, name) for name in others])
    pair = [then, other] if cell.chance() else [other, then]
    results = [f"{name}_o" for name in outputs]
    return helper.make_node("If", ["flag"], results, then_branch=pair[0], else_branch=pair[1])


def _loop(cell: Cell, outputs: list[str]) -> list[onnx.NodeProto]:
    """Place the nodes in a Loop of two steps, which reads the input and collects the results."""
    going = helper.make_node("Identity", ["go"], ["going"])
    ports = [
        helper.make_tensor_value_info("step", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
    ]
    body = _body(cell, ports, outputs, going)
    trips = helper.make_tensor("trips", TensorProto.INT64, [], [2])
    results = [f"{name}_o" for name in outputs]
    return [
        helper.make_node("Constant", [], ["trips"], value=trips),
        helper.make_node("Loop", ["trips", ""], results, body=body),
    ]


def _body(cell: Cell, ports: list[Any], outputs: list[str], *first: onnx.NodeProto) -> Any:
    """Return the graph of the nodes; a value read by nothing in it is copied to be an output."""
    results = [
        onnx.ValueInfoProto.FromString(_typed(cell, n).SerializeToString()) for n in outputs
    ]
    if first:
        results.insert(0, helper.make_tensor_value_info("going", TensorProto.BOOL, []))
    tensors = [numpy_helper.from_array(array, name) for name, array in cell.inner.items()]
    return helper.make_graph([*first, *cell.nodes], "body", ports, results, tensors)


def _typed(cell: Cell, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, cell.kind, None)


def _function(cell: Cell, outputs: list[str]) -> tuple[onnx.NodeProto, onnx.FunctionProto]:
    opsets = [helper.make_opsetid("", cell.opset)]
    inputs = ["x", *cell.given]
    function = helper.make_function(_DOMAIN, "block", inputs, outputs, cell.nodes, opsets)
    results = [f"{name}_o" for name in outputs]
    call = helper.make_node("block", inputs, results, "call", domain=_DOMAIN)
    return call, function
