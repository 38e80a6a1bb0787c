"""Any node that a schema allows, between linear neighbours: every op in each of its versions.

The values of its operands are drawn without regard to the op, so that many of these models cannot
be run. All must be folded, left alone or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

__all__ = ["schema_model", "schemas"]

_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32,
    "tensor(bool)": TensorProto.BOOL,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(string)": TensorProto.STRING,
}
_SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (2,),
    (4,),
    (8,),
    (4, 1, 1),
    (4, 4),
    (2, 4, 6, 6),
)
_TEXTS = ("", "FLOAT", "SAME_UPPER", "constant", "linear", "nc,cd->nd", "DCR", "strange")
_EMPTY = helper.make_graph([], "body", [], [])


def schemas() -> Iterator[tuple[OpSchema, int]]:
    """Return every op of the default domain in each version, with an opset that has it."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            yield schema, schema.since_version


def schema_model(schema: OpSchema, opset: int, seed: int) -> onnx.ModelProto | None:
    """Build a model of one node between two convolutions, or None if no operand fits."""
    rng = np.random.default_rng([seed, opset, *map(ord, schema.name)])
    constants: list[onnx.TensorProto] = []
    inputs = _inputs(schema, rng, constants)
    if inputs is None:
        return None
    attributes = _attributes(schema, rng)
    count = int(rng.integers(max(1, schema.min_output), 1 + max(1, min(schema.max_output, 3))))
    outputs = [f"o{i}" for i in range(count)]
    node = helper.make_node(schema.name, inputs, outputs, "middle")
    node.attribute.extend(attributes)
    ends = [rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for _ in range(2)]
    constants += [numpy_helper.from_array(w, name) for w, name in zip(ends, "pq", strict=True)]
    nodes = [
        helper.make_node("Conv", ["x", "p"], ["a"]),
        node,
        helper.make_node("Conv", ["o0", "q"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _inputs(
    schema: OpSchema, rng: np.random.Generator, constants: list[onnx.TensorProto]
) -> list[str] | None:
    most = min(schema.max_input, len(schema.inputs) + 2)
    count = int(rng.integers(schema.min_input, most + 1)) if most >= schema.min_input else 0
    found: list[str] = []
    for i in range(count):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        types = [_TYPES[name] for name in sorted(formal.types) if name in _TYPES]
        if not types:
            return None
        if TensorProto.FLOAT in types and (not found or rng.random() < 0.3):
            found.append("a")
            continue
        if i >= schema.min_input and rng.random() < 0.2:
            found.append("")
            continue
        kind = types[int(rng.integers(len(types)))]
        name = f"c{len(constants)}"
        constants.append(_constant(name, kind, rng))
        found.append(name)
    return found


def _constant(name: str, kind: int, rng: np.random.Generator) -> onnx.TensorProto:
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    if kind == TensorProto.STRING:
        size = int(np.prod(shape, dtype=int))
        return helper.make_tensor(name, kind, shape, np.full(size, b"text"))
    values = rng.integers(-2, 7, shape)
    return numpy_helper.from_array(np.asarray(values, helper.tensor_dtype_to_np_dtype(kind)), name)


def _attributes(schema: OpSchema, rng: np.random.Generator) -> list[onnx.AttributeProto]:
    found = []
    for name, attribute in sorted(schema.attributes.items()):
        if not attribute.required and rng.random() < 0.5:
            continue
        value = _value(attribute, rng)
        if value is not None:
            found.append(helper.make_attribute(name, value))
    return found


def _value(attribute: OpSchema.Attribute, rng: np.random.Generator) -> Any:
    """Draw the value of an attribute, or None for a type that is not covered."""
    kinds = OpSchema.AttrType
    count = int(rng.choice([1, 2, 2, 4, 4, 8]))
    text = _TEXTS[int(rng.integers(len(_TEXTS)))]
    if attribute.default_value.type == onnx.AttributeProto.STRING and rng.random() < 0.5:
        text = attribute.default_value.s.decode()
    makers: dict[Any, Callable[[], Any]] = {
        kinds.FLOAT: lambda: float(rng.choice([-1.0, 0.0, 0.5, 1.0])),
        kinds.INT: lambda: int(rng.integers(-2, 4)),
        kinds.STRING: lambda: text,
        kinds.FLOATS: lambda: [float(v) for v in rng.choice([0.0, 1.0, 2.0], count)],
        kinds.INTS: lambda: [int(v) for v in rng.integers(-1, 4, count)],
        kinds.STRINGS: lambda: [text] * count,
        kinds.TENSOR: lambda: _constant("", TensorProto.FLOAT, rng),
        kinds.GRAPH: lambda: _EMPTY,
    }
    return makers[attribute.type]() if attribute.type in makers else None
