"""Validate models with ONNX's checker."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import onnx

from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.model.outline import without_data

__all__ = ["ALIAS", "DEFAULT", "default_version", "settle_domains", "validate"]

ALIAS = "ai.onnx"
"""The other name of the domain of ONNX's own operators, which is called by none."""

DEFAULT = {"", ALIAS}
"""The two spellings of the domain of ONNX's own operators."""

_STRANGE = "onnx_expand.unknown"

_LARGEST = 5_000
"""Nodes of a model, those of its functions counted at each call, that are never too many."""

_REPEATED = 100
"""So many times as many nodes as are written down may calls make of them."""

_AT_NODE = re.compile(r"Bad node spec for node\. Name: (.*) OpType: (.*)")


def validate(light: onnx.ModelProto, label: str) -> None:
    """Check the outline of a model with ONNX's checker.

    Ops of the default domain that the model's opset does not define, such as ops of newer opsets
    or of a runtime, stay as they are, with a warning, and do not make the model invalid.

    Raises:
        ModelError: It is not valid.
        UnsupportedError: Its functions call each other too often for any runtime.
    """
    _bound_calls(light, label)
    copy = onnx.ModelProto()
    copy.CopyFrom(light)
    without_data(copy)
    _complete(copy)
    strange = _rename_unknown(copy)
    try:
        onnx.checker.check_model(copy)
    except Exception as error:  # ValidationError, or any exception of the C++ code
        raise ModelError(f"{label}: not a valid ONNX model: {_complaint(error)}") from None
    if strange:
        message = f"ONNX has no {', '.join(strange)} in the opset of the model; left as it is"
        warnings.warn(f"{label}: {message}", stacklevel=2)


def _complaint(error: Exception) -> str:
    """Return the complaint of ONNX's checker as one line that names the node."""
    complaint, *context = str(error).split("==> Context: ")
    line = " ".join(complaint.split()) or type(error).__name__
    node = _AT_NODE.search(context[0]) if context else None
    if node is None or not node[1]:
        return line
    return f"{line.rstrip('.')} (node '{node[1]}', {node[2]})"


def _complete(model: onnx.ModelProto) -> None:
    """Add declarations that ONNX's checker requires and runtimes do not."""
    model.graph.name = model.graph.name or "graph"
    for info in model.graph.output:
        if info.type.WhichOneof("value") is None:
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for info in (*model.graph.input, *model.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()
    settle_domains(model)


def settle_domains(model: onnx.ModelProto) -> None:
    """Spell the default domain as the empty string, and import it once."""
    holders = [(model.graph.node, model.opset_import)]
    holders += [(function.node, function.opset_import) for function in model.functions]
    for nodes, imports in holders:
        version = default_version(imports)
        others = [entry for entry in imports if entry.domain not in DEFAULT]
        copies = onnx.ModelProto(opset_import=others)
        del imports[:]
        imports.extend(copies.opset_import)
        if version:
            imports.add(domain="", version=version)
        for node in _nodes(nodes):
            if node.domain in DEFAULT:
                node.domain = ""


def default_version(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """Return the opset of the default domain, in either spelling; 0 if it is not imported."""
    versions = [entry.version for entry in imports if entry.domain in DEFAULT]
    return versions[-1] if versions else 0


def _rename_unknown(model: onnx.ModelProto) -> list[str]:
    """Move ops that ONNX does not define to a domain that it does not check; return them."""
    own = {(f.domain, f.name) for f in model.functions}
    found = set()
    bodies = [(model.graph.node, model.opset_import)]
    bodies += [(function.node, function.opset_import) for function in model.functions]
    for nodes, imports in bodies:
        version = max((o.version for o in imports if o.domain in DEFAULT), default=0)
        unknown = [
            node
            for node in _nodes(nodes)
            if node.domain in DEFAULT
            and (node.domain, node.op_type) not in own
            and node.op_type
            and not _is_known(node.op_type, version)
        ]
        if not unknown or not 0 < version <= onnx.defs.onnx_opset_version():
            continue
        found |= {node.op_type for node in unknown}
        imports.add(domain=_STRANGE, version=1)
        for node in unknown:
            node.domain = _STRANGE
    if found and all(o.domain != _STRANGE for o in model.opset_import):
        model.opset_import.add(domain=_STRANGE, version=1)
    return sorted(found)


def _is_known(op_type: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version, "").deprecated
    except Exception:  # onnx does not export the exception type that it raises
        return False


_Key = tuple[str, str, str]
_UNCOUNTED = 1 << 900  # larger numbers of nodes would exceed the floats, and are not distinguished


def _bound_calls(model: onnx.ModelProto, label: str) -> None:
    """Refuse recursive functions, and functions whose calls expand to too many nodes.

    ONNX's checker, shape inference and runtimes visit the nodes of every call.
    """
    calls = {
        (f.domain, f.name, f.overload): Counter(map(_key, _nodes(f.node))) for f in model.functions
    }
    if not calls:
        return
    try:
        order = [*TopologicalSorter(calls).static_order()]
    except CycleError as error:
        name = min(key[1] for key in error.args[1])
        raise ModelError(f"{label}: the function '{name}' calls itself") from None
    sizes: dict[_Key, int] = {}
    for key in order:
        if key in calls:
            total = sum(n * sizes.get(k, 1) for k, n in calls[key].items())
            sizes[key] = min(total, _UNCOUNTED)
    nodes = [_key(node) for node in _nodes(model.graph.node)]
    written = len(nodes) + sum(called.total() for called in calls.values())
    total, limit = sum(sizes.get(key, 1) for key in nodes), max(_LARGEST, _REPEATED * written)
    if total > limit:
        many = total if total < 10**6 else f"{total:.3g}"
        raise UnsupportedError(
            f"{label}: with every call of its functions it has {many} nodes, more than "
            f"{limit}; write repeated calls as a Loop"
        )


def _key(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)
