"""ONNX's own node tests between linear neighbours, with symbolic axes, at several opsets.

Each operator, with the attributes, ranks and types that its authors thought worth a test, is put
behind a scale, a bias, a matrix, a convolution or a normalization, and before another one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tests.support.onnx_nodes import FLOATS, array_of, cases

__all__ = ["count", "wrapped"]

Array = npt.NDArray[Any]
_OPSETS = (0, 0, 0, 7, 9, 11, 13, 15, 17, 18, 20)  # 0: that of the test
_LARGEST = 20_000  # elements


@functools.cache
def _cases() -> tuple[Any, ...]:
    return tuple(case for case in cases() if _largest(case) <= _LARGEST)


def _largest(case: Any) -> int:
    return max(array_of(value).size for side in case.data_sets[0] for value in side)


def count() -> int:
    """Return the number of node tests."""
    return len(_cases())


def wrapped(seed: int) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """Wrap one node test.

    Args:
        seed: The seed of the neighbours; the test is the one with this index, modulo their number.

    Returns:
        The model and its inputs, or None if the test has no floating-point output.
    """
    case = _cases()[seed % count()]
    rng = np.random.default_rng(seed)
    opset = int(rng.choice(_OPSETS))
    wrapping = _Wrapping(case, rng)
    model = wrapping.model()
    if model is None:
        return None
    return _at(model, opset) if opset else model, wrapping.feeds


def _at(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a valid model at an opset, if there is one; it need not compute the same."""
    renumbered = onnx.ModelProto()
    renumbered.CopyFrom(model)
    for own in renumbered.opset_import:
        own.version = opset if own.domain in {"", "ai.onnx"} else own.version
    # The errors of ONNX's checker and converter have no common type.
    with contextlib.suppress(Exception):
        onnx.checker.check_model(renumbered, full_check=True)
        return renumbered
    with contextlib.suppress(Exception):
        return onnx.version_converter.convert_version(model, opset)
    return model


class _Wrapping:
    """A model under construction around the nodes of a test."""

    def __init__(self, case: Any, rng: np.random.Generator) -> None:
        self.source: onnx.ModelProto = case.model
        self.rng = rng
        given, wanted = case.data_sets[0]
        graph = self.source.graph
        self.given = {p.name: array_of(v) for p, v in zip(graph.input, given, strict=False)}
        self.wanted = {p.name: array_of(v) for p, v in zip(graph.output, wanted, strict=False)}
        self.feeds: dict[str, Array] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def model(self) -> onnx.ModelProto | None:
        """Return the wrapped model, or None without a floating-point output."""
        weights = self.rng.random() < 2 / 3  # of the further inputs
        renamed = {port.name: self._input(port, weights) for port in self.source.graph.input}
        for given in self.source.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(given)
            node.input[:] = [renamed.get(name, name) for name in given.input]
            self.nodes.append(node)
        for port in self.source.graph.output:
            self._output(port)
        if not any(v.type.tensor_type.elem_type in FLOATS for v in self.outputs):
            return None
        graph = helper.make_graph(self.nodes, "wrapped", self.inputs, self.outputs, self.constants)
        return helper.make_model(
            graph,
            opset_imports=list(self.source.opset_import),
            ir_version=min(self.source.ir_version, 11),
            functions=list(self.source.functions),
        )

    def _input(self, port: onnx.ValueInfoProto, weights: bool) -> str:
        """Make an input a constant, or give it a neighbour; return what the node reads."""
        kind = port.type.tensor_type.elem_type
        array = self.given[port.name].astype(helper.tensor_dtype_to_np_dtype(kind))
        is_float = kind in FLOATS
        if self.inputs and (weights or not is_float) and self.rng.random() < 0.8:
            self.constants.append(numpy_helper.from_array(array, port.name))
            return port.name
        self.feeds[port.name] = array
        self.inputs.append(self._symbolic(port))
        if not is_float:
            return port.name
        found = self._neighbour(port.name, array, array.shape[-1] if array.ndim else 1)
        if self.rng.random() < 0.1:  # another reader
            self.nodes.append(helper.make_node("Relu", [found], [f"{port.name}_r"]))
            self.outputs.append(helper.make_tensor_value_info(f"{port.name}_r", kind, None))
        return found

    def _output(self, port: onnx.ValueInfoProto) -> None:
        kind = port.type.tensor_type.elem_type
        if kind not in FLOATS:
            self.outputs.append(port)
            return
        array = self.wanted[port.name].astype(helper.tensor_dtype_to_np_dtype(kind))
        name = self._neighbour(port.name, array, 3)
        shape = None if self.rng.random() < 0.3 else [None] * array.ndim
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def _symbolic(self, port: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        """Return the port with some extents as symbols."""
        found = onnx.ValueInfoProto()
        found.CopyFrom(port)
        if self.rng.random() < 0.5:
            for i, axis in enumerate(found.type.tensor_type.shape.dim):
                if self.rng.random() < 0.5 and axis.HasField("dim_value"):
                    axis.dim_param = f"{port.name}_{i}"
        return found

    def _neighbour(self, name: str, array: Array, width: int) -> str:
        """Append a linear node, or two, that reads a value; return its result.

        Args:
            name: The value.
            array: The value in the test, for its shape and type.
            width: The columns of a matrix.
        """
        form = str(self.rng.choice(["scale", "affine", "matrix", "conv", "bn"]))
        kept = {
            "matrix": array.ndim > 1,
            "conv": 3 <= array.ndim <= 5 and array.dtype != np.float64,
            "bn": array.ndim > 1 and array.dtype != np.float64,
        }
        made: Mapping[str, Any] = {
            "scale": self._scale,
            "affine": self._affine,
            "matrix": self._matrix,
            "conv": self._conv,
            "bn": self._bn,
        }
        return str(made[form if kept.get(form, True) else "affine"](name, array, width))

    def _scale(self, name: str, array: Array, width: int) -> str:
        op = str(self.rng.choice(["Mul", "Div"]))
        return self._node(op, name, array, self.rng.choice([0.5, -2.0, 1.5, 3.0]))

    def _affine(self, name: str, array: Array, width: int) -> str:
        shape = [1] * array.ndim
        if array.ndim:
            axis = min(1, array.ndim - 1)
            shape[axis] = array.shape[axis]
        scale, shift = self.rng.uniform(0.5, 2, shape), self.rng.standard_normal(shape)
        if self.rng.random() < 0.5:
            return self._node("Add", self._node("Mul", name, array, scale), array, shift)
        return self._node("Mul", self._node("Add", name, array, shift), array, scale)

    def _matrix(self, name: str, array: Array, width: int) -> str:
        rows = array.shape[-1]
        weight = self.rng.standard_normal((rows, width)) / max(1, rows) ** 0.5
        return self._node("MatMul", name, array, weight)

    def _conv(self, name: str, array: Array, width: int) -> str:
        channels = array.shape[1]
        # An input must keep its channels; an output need not.
        rows = 2 if name in self.wanted else channels
        shape = (rows, channels) + (1,) * (array.ndim - 2)
        weight = self.rng.standard_normal(shape) / max(1, channels) ** 0.5
        return self._node("Conv", name, array, weight, self.rng.standard_normal(rows))

    def _bn(self, name: str, array: Array, width: int) -> str:
        numbers = (self.rng.uniform(0.5, 2, array.shape[1]) for _ in range(4))
        return self._node("BatchNormalization", name, array, *numbers)

    def _node(self, op: str, name: str, array: Array, *numbers: Any) -> str:
        """Append a node that reads a value and constants of its type; return its result."""
        names = [f"_c{len(self.constants) + i}" for i in range(len(numbers))]
        for own, number in zip(names, numbers, strict=True):
            values = np.asarray(number).astype(array.dtype)
            self.constants.append(numpy_helper.from_array(values, own))
        found = f"_v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [name, *names], [found]))
        return found
