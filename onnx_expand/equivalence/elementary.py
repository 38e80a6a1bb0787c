"""Measure the errors of a runtime's elementary functions, and their effect on a model's outputs.

Most kernels are accurate to a few ulps of their result. Some are only accurate to one ulp of their
largest value: onnxruntime's Sigmoid returns 1.3e-7 instead of 2e-9. The error of a kernel beyond a
few ulps is its *excess*. It is measured where the model runs, with the node's own attributes, so
that no table can become outdated.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir import convenience

from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.facts import Facts
from onnx_expand.runtimes.base import Runtime
from onnx_expand.runtimes.reference import Reference

__all__ = ["FUNCTIONS", "UNITS", "excess", "with_kernel_noise", "with_other_roundings"]

UNITS = 4.0
"""The error of a kernel, in ulps of its result, below which it does not count."""

FUNCTIONS = {
    **dict.fromkeys(("Sigmoid", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Mish"), 90.0),
    **dict.fromkeys(("Tanh", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Asinh", "Gelu"), 20.0),
    **dict.fromkeys(("HardSigmoid", "HardSwish", "Erf", "Swish"), 9.0),
    **dict.fromkeys(("Exp", "Softmax", "LogSoftmax"), 30.0),
    **dict.fromkeys(("Asin", "Acos", "Atanh", "Tan"), 0.99),
}
"""Functions of one element, or along one axis, and the magnitude up to which they are sampled."""

_AXES = {"Softmax", "LogSoftmax"}
_ROWS, _COLUMNS = 128, 48
_LEAST = 0.01  # of eps: errors of results below the smallest normal value do not matter
_FREQUENCY = 100.0  # of the sine wave that varies the errors between elements
_TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


def excess(node: ir.Node, dtype: ir.DataType, opset: int, runtime: Runtime) -> float:
    """Measure the error of a kernel beyond a few ulps of its results.

    Returns:
        The largest error over the function's range; 0 if one of the runtimes lacks it.
    """
    if node.op_type not in FUNCTIONS or node.domain or dtype not in _TYPES:
        return 0.0
    proto = ir.serde.serialize_node(node)
    attributes = sorted(a.SerializeToString() for a in proto.attribute if a.name != "axis")
    return _measured(node.op_type, tuple(attributes), int(dtype), opset, runtime)


@cache
def _measured(
    op_type: str, attributes: tuple[bytes, ...], dtype: int, opset: int, runtime: Runtime
) -> float:
    node = onnx.helper.make_node(op_type, ["x"], ["y"])
    node.attribute.extend(onnx.AttributeProto.FromString(text) for text in attributes)
    if op_type in _AXES:
        node.attribute.append(onnx.helper.make_attribute("axis", 1))
    ports = [onnx.helper.make_tensor_value_info(n, dtype, [_ROWS, _COLUMNS]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "kernel", ports[:1], ports[1:])
    opsets = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = ir.serde.deserialize_model(proto)
    feeds = {"x": _points(op_type).astype(onnx.helper.tensor_dtype_to_np_dtype(dtype))}
    try:
        own = runtime.session(model, op_type).run(feeds)["y"]
        exact = Reference().session(model, op_type).run(feeds)["y"]
    except UnsupportedError:
        return 0.0
    eps = float(np.finfo(own.dtype).eps)
    known = np.isfinite(own) & np.isfinite(exact)
    error = np.abs(np.where(known, own.astype(np.float64) - exact, 0.0))
    beyond = error - UNITS * eps * np.where(known, np.abs(exact), 0.0)
    worst = float(np.max(beyond, initial=0.0))
    return worst if worst > _LEAST * eps else 0.0


def _points(op_type: str) -> npt.NDArray[np.float64]:
    """Return sample points over the range of a function, evenly spaced and denser near zero."""
    span = FUNCTIONS[op_type]
    wide = np.linspace(-span, span, _ROWS * _COLUMNS // 2)
    near = np.geomspace(1e-4 * span, span, _ROWS * _COLUMNS // 4)
    points = np.concatenate([wide, near, -near])
    return np.random.default_rng(0).permutation(points).reshape(_ROWS, _COLUMNS)


def with_kernel_noise(model: ir.Model, runtime: Runtime, seed: int) -> ir.Model | None:
    """Return a copy of a model whose elementary functions have errors as large as their kernels'.

    Args:
        model: A model, which is not modified.
        runtime: The runtime that provides the kernels.
        seed: Seed of the signs of the errors.

    Returns:
        The copy, or None if all kernels of the model are accurate to a few ulps.
    """
    opset = model.graph.opset_imports.get("", 0)
    if not any(node.op_type in FUNCTIONS and not node.domain for node in model.graph):
        return None
    facts = Facts(model)
    found = {}
    for place, node in enumerate(model.graph):
        out = node.outputs[0]
        dtype = facts.dtype(out)
        if dtype is not None and not facts.is_constant(out):
            size = excess(node, dtype, opset, runtime)
            if size > 0:
                found[place] = (size, dtype)
    if not found:
        return None
    copy = model.clone()
    nodes = list(copy.graph)
    rng = np.random.default_rng(seed)
    for place, (size, dtype) in found.items():
        _disturb(copy.graph, nodes[place], size, dtype, float(rng.uniform(0, 2 * np.pi)))
    return copy


def with_other_roundings(model: ir.Model, seed: int) -> ir.Model:
    """Return a copy of a model with each weight moved by one ulp, up or down."""
    copy = model.clone()
    rng = np.random.default_rng(seed)
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _TYPES:
            continue
        array = tensor.numpy()
        toward = np.where(rng.integers(0, 2, array.shape) == 1, np.inf, -np.inf)
        moved = np.nextafter(array, toward.astype(array.dtype))
        moved = np.where((array == 0) | ~np.isfinite(moved), array, moved)
        value.const_value = ir.Tensor(np.asarray(moved, array.dtype), name=name)
    return copy


def _disturb(
    graph: ir.Graph, node: ir.Node, size: float, dtype: ir.DataType, phase: float
) -> None:
    """Add an error of a given size to a node's output, with signs that vary between elements."""
    clean = node.outputs[0]
    name = clean.name or ""
    given = node.inputs[0]
    assert given is not None
    steps: list[tuple[str, list[Any]]] = [
        ("Mul", [given, _FREQUENCY]),
        ("Add", [None, phase]),
        ("Sin", [None]),
        ("Mul", [None, size]),
        ("Add", [clean, None]),
    ]
    made: list[ir.Node] = []
    for turn, (op_type, operands) in enumerate(steps):
        inputs: list[ir.Value] = []
        for operand in operands:
            if operand is None:
                inputs.append(made[-1].outputs[0])
            elif isinstance(operand, float):
                inputs.append(_scalar(graph, f"{name} noise {turn}", operand, dtype))
            else:
                inputs.append(operand)
        step = ir.Node("", op_type, inputs, num_outputs=1)
        step.outputs[0].name = f"{name} disturbed {turn}"
        step.outputs[0].type = clean.type or ir.TensorType(dtype)
        made.append(step)
    last = made[-1].outputs[0]
    convenience.replace_all_uses_with(clean, last, replace_graph_outputs=True)
    made[-1].replace_input_with(0, clean)
    clean.name, last.name = f"{name} undisturbed", name
    last.shape = clean.shape
    graph.insert_after(node, made)


def _scalar(graph: ir.Graph, name: str, number: float, dtype: ir.DataType) -> ir.Value:
    array = np.asarray(number, dtype.numpy())
    value = ir.Value(
        name=name,
        type=ir.TensorType(dtype),
        shape=ir.Shape(()),
        const_value=ir.Tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value
