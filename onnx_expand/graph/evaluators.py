"""Evaluate single nodes in onnxruntime, or in ONNX's reference where both are known to agree.

The two differ: the reference implements some operators for one opset only, and has errors of its
own. If onnxruntime is installed, it evaluates nodes, without optimizations. Otherwise the
reference does, for the operators, versions and types that a table lists as compared with
onnxruntime.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.graph.aborts import abort_reason
from onnx_expand.graph.attributes import schema_of
from onnx_expand.graph.proven import proven

__all__ = ["by_onnxruntime", "by_reference", "compute", "is_proven", "signature"]

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Sequence[Array | None]

# Opsets that every supported onnxruntime implements; an op version serves all opsets until the
# next.
_FAMILIAR = 17
_FATAL = 4
_SESSIONS = 256
_NARROW_IR = 10  # the first IR version with all narrow types

# Types without a numpy name: passed to and from onnxruntime as wider types, which is exact.
_CARRIERS = {
    **dict.fromkeys(
        (
            *(ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ),
            *(ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ),
        ),
        ir.DataType.FLOAT,
    ),
    ir.DataType.INT4: ir.DataType.INT8,
    ir.DataType.UINT4: ir.DataType.UINT8,
}
_REFUSED = {ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}


def compute(node: ir.Node, inputs: Arrays, opset: int) -> list[Array] | None:
    """Evaluate a node of the default domain.

    Args:
        node: The node.
        inputs: One array for each of its inputs, None for an omitted one.
        opset: The opset of the default domain.

    Returns:
        One array for each named output; None if no trustworthy evaluator has a result.
    """
    if _onnxruntime() is not None:
        return by_onnxruntime(node, inputs, opset)  # nodes that it refuses could not be compared
    return by_reference(node, inputs, opset) if is_proven(node, inputs, opset) else None


def by_onnxruntime(node: ir.Node, inputs: Arrays, opset: int) -> list[Array] | None:
    """Evaluate a node in onnxruntime; None if it is not installed or refuses the node."""
    schema = schema_of(node.op_type, opset)
    if schema is None or _onnxruntime() is None or abort_reason(node, node.attributes):
        return None
    types = [None if array is None else _type_of(array) for array in inputs]
    if any(dtype in _REFUSED for dtype in types):
        return None
    proto = _bare(node, types)
    version = max(schema.since_version, min(opset, _FAMILIAR))
    kernel = _kernel(proto.SerializeToString(deterministic=True), tuple(types), version)
    if kernel is None:
        return None
    session, narrow = kernel
    feeds = {
        _carried_name(f"i{index}", _type_of(array)): _carried(array)
        for index, array in enumerate(inputs)
        if array is not None
    }
    try:
        results = session.run(None, feeds)
    except Exception:  # onnxruntime's exceptions have no common base of their own
        return None
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        return None
    return [
        np.asarray(result) if dtype is None else np.asarray(result).astype(dtype.numpy())
        for result, dtype in zip(results, narrow, strict=True)
    ]


def is_proven(node: ir.Node, inputs: Arrays, opset: int) -> bool:
    """Return whether the reference was compared with onnxruntime for such a node."""
    key = signature(node, inputs, opset)
    return key is not None and key[1] in proven().get(key[0], ())


def signature(node: ir.Node, inputs: Arrays, opset: int) -> tuple[str, str] | None:
    """Return the operator with its version, and the types of inputs and conversions."""
    schema = schema_of(node.op_type, opset)
    if schema is None:
        return None
    types = dict.fromkeys(_type_of(array).name for array in inputs if array is not None)
    words = list(types)
    attribute = node.attributes.get("to")
    if attribute is not None and attribute.type == ir.AttributeType.INT:
        words += [ir.DataType(attribute.as_int()).name]
    return f"{node.op_type}-{schema.since_version}", " ".join(words).lower()


def by_reference(node: ir.Node, inputs: Arrays, opset: int) -> list[Array] | None:
    """Evaluate a node in ONNX's reference implementation; None if it fails."""
    from onnx.reference import ReferenceEvaluator  # imports every op, and few models need it

    proto = _bare(node, [None if array is None else _type_of(array) for array in inputs])
    feeds = {f"i{index}": array for index, array in enumerate(inputs) if array is not None}
    given = {name: _type_of(array) for name, array in feeds.items()}
    model = _model([proto], given, [name for name in proto.output if name], opset)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # any failure means that there is no result
        return None
    return [np.asarray(result) for result in results]


def _bare(node: ir.Node, types: Sequence[ir.DataType | None]) -> onnx.NodeProto:
    """Convert a node to a proto with canonical names, so that equal nodes compare equal."""
    proto = ir.serde.serialize_node(node)
    proto.ClearField("name")
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    outputs = [f"o{i}" if name else "" for i, name in enumerate(proto.output)]
    del proto.input[:], proto.output[:]
    proto.input.extend("" if dtype is None else f"i{i}" for i, dtype in enumerate(types))
    proto.output.extend(outputs)
    return proto


def _type_of(array: Array) -> ir.DataType:
    if array.dtype.kind in "OUS":
        return ir.DataType.STRING
    return ir.DataType.from_numpy(array.dtype)


def _carried(array: Array) -> Array:
    carrier = _CARRIERS.get(_type_of(array))
    return array if carrier is None else array.astype(carrier.numpy())


def _carried_name(name: str, dtype: ir.DataType | None) -> str:
    """Return the name of the wider value that carries one of a type without a numpy name."""
    return f"{name}w" if dtype in _CARRIERS else name


@functools.cache
def _onnxruntime() -> Any:
    try:
        import onnxruntime  # only models that compute constants need it
    except ImportError:
        return None
    return onnxruntime


@functools.lru_cache(maxsize=_SESSIONS)
def _kernel(
    content: bytes, types: tuple[ir.DataType | None, ...], version: int
) -> tuple[Any, list[ir.DataType | None]] | None:
    """Return a session for one node, and the types of outputs that it returns as wider ones."""
    node = onnx.NodeProto.FromString(content)
    names = [name for name in node.output if name]
    given = {f"i{i}": dtype for i, dtype in enumerate(types) if dtype is not None}
    found = _inferred(node, given, names, version)
    nodes, narrow = [node], [dtype if dtype in _CARRIERS else None for dtype in found]
    for name, own in given.items():
        if own in _CARRIERS:
            cast = onnx.helper.make_node("Cast", [f"{name}w"], [name], to=int(own))
            if own.name.startswith("FLOAT8"):
                cast.attribute.append(onnx.helper.make_attribute("saturate", 0))  # keep infinity
            nodes.insert(0, cast)
    for name, dtype in zip(names, narrow, strict=True):
        if dtype is not None:
            carrier = int(_CARRIERS[dtype])
            nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}w"], to=carrier))
    inputs = {_carried_name(name, own): _CARRIERS.get(own, own) for name, own in given.items()}
    outputs = [_carried_name(name, dtype) for name, dtype in zip(names, narrow, strict=True)]
    session = _session(nodes, inputs, outputs, version)
    return None if session is None else (session, narrow)


def _session(
    nodes: list[onnx.NodeProto],
    given: dict[str, ir.DataType],
    names: Sequence[str],
    version: int,
) -> Any:
    """Create a session of nodes without optimizations; None if onnxruntime refuses them."""
    ort = _onnxruntime()
    model = _model(nodes, given, names, version)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # A session that runs once needs no memory arena.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # onnxruntime's exceptions have no common base of their own
        return None


def _inferred(
    node: onnx.NodeProto, given: dict[str, ir.DataType], names: Sequence[str], version: int
) -> list[ir.DataType | None]:
    """Infer the types of a node's outputs, None where ONNX does not."""
    model = _model([node], given, names, version)
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # the node is inconsistent
        return [None] * len(names)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.output}
    return [ir.DataType(types[name]) if types.get(name) else None for name in names]


def _model(
    nodes: list[onnx.NodeProto],
    given: dict[str, ir.DataType],
    names: Sequence[str],
    version: int,
) -> onnx.ModelProto:
    """Build a model of nodes, with inputs of these types and outputs of unknown ones."""
    make = onnx.helper.make_tensor_value_info
    inputs = [make(name, int(dtype), None) for name, dtype in given.items()]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in names]
    graph = onnx.helper.make_graph(nodes, "constant", inputs, outputs)
    opset = onnx.helper.make_opsetid("", version)
    form = _NARROW_IR if version > _FAMILIAR else 8
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=form)
