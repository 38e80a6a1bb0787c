"""Ensure that conversion to `onnx_ir.Model` and back loses nothing; refuse the model otherwise.

onnx-ir drops some content of a proto: training_info, sparse initializers, value_info of values
that do not exist. To find what is dropped, each model is serialized again after reading, without
its tensor data, and compared field by field. Content that can be restored is recorded with its
graph, and restored when the model is written. Any other difference refuses the model and names the
lost field.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError
from onnx_expand.model.outline import tensors
from onnx_expand.model.sparse import Sparse, hold
from onnx_expand.model.types import is_odd
from onnx_expand.model.validity import ALIAS

__all__ = [
    "DESCRIBED",
    "attach",
    "quiet",
    "remember",
    "restore",
    "serialize",
    "untyped",
]

_ORIGIN = "onnx_expand.origin"
DESCRIBED = "onnx_expand.described"
"""Metadata key of the value descriptions (value_info) that onnx-ir would change."""
_SPELLED = "onnx_expand.domain"
_STATED = "onnx_expand.stated"  # the names of the values of a graph that have a value_info
_Holder = onnx.GraphProto | onnx.FunctionProto
_Pair = tuple[ir.Graph, _Holder]


@dataclass(frozen=True)
class _Origin:
    """Content of one graph, or of one function body, that onnx-ir drops.

    Attributes:
        infos: value_info entries that describe no value of the graph.
        types: The types of inputs and outputs that onnx-ir does not represent: empty types, and
            those that hold a map or an opaque value. `drop_types` removes the latter beforehand.
        annotations: quantization_annotation entries that onnx-ir does not write.
        sparse: Sparse initializers.
        held: The names of the sparse initializers that became initializers of the graph.
        imports: The opset imports; a domain may occur several times.
        rest: Fields of the model itself; empty except for the main graph.
        is_described: Whether onnx-ir changes the value_info of any graph of the model, which
            values take with them to other graphs.
    """

    infos: tuple[onnx.ValueInfoProto, ...]
    types: Mapping[str, onnx.TypeProto]
    annotations: tuple[onnx.TensorAnnotation, ...]
    sparse: tuple[onnx.SparseTensorProto, ...]
    imports: tuple[onnx.OperatorSetIdProto, ...]
    rest: onnx.ModelProto
    is_described: bool
    held: frozenset[str] = frozenset()


def remember(model: ir.Model, source: onnx.ModelProto) -> onnx.ModelProto:
    """Record with a model the content of its source proto that onnx-ir drops.

    Returns:
        The proto that onnx-ir writes, without the recorded content.
    """
    sources = list(_all_pairs(model, source))
    for graph, old in sources:
        graph.meta[_STATED] = frozenset(info.name for info in old.value_info)
    written = serialize(model)
    rest = onnx.ModelProto()
    rest.training_info.extend(source.training_info)
    for name in ("producer_name", "producer_version", "domain", "doc_string"):
        if source.HasField(name) and not getattr(source, name):
            setattr(rest, name, "")
    pairs = list(zip(sources, _all_pairs(model, written), strict=True))
    described = [_describe(graph, old, new) for (graph, old), (_, new) in pairs]
    is_described = any(changed for _, changed in described)
    for ((graph, old), (_, new)), (values, _) in zip(pairs, described, strict=True):
        _note_domains(graph, old)
        own = old if isinstance(old, onnx.GraphProto) else onnx.GraphProto()
        annotated = {note.tensor_name for note in getattr(new, "quantization_annotation", ())}
        is_main = graph is model.graph
        graph.meta[_ORIGIN] = _Origin(
            tuple(info for info in old.value_info if info.name not in values),
            {i.name: i.type for i in (*own.input, *own.output) if _is_empty(i) or is_odd(i)},
            tuple(n for n in own.quantization_annotation if n.tensor_name not in annotated),
            tuple(own.sparse_initializer),
            tuple(source.opset_import if is_main else getattr(old, "opset_import", ())),
            rest if is_main else onnx.ModelProto(),
            is_described,
        )
    return written


def _describe(graph: ir.Graph, old: _Holder, new: _Holder) -> tuple[dict[str, ir.Value], bool]:
    """Record the value descriptions that onnx-ir changes.

    Returns:
        The graph's values by name, if it describes any, and whether onnx-ir changes one.
    """
    if not old.value_info:
        return {}, False
    given, kept = _by_name(old.value_info), _by_name(new.value_info)
    values = {value.name or "": value for value in _values(graph)}
    changed = False
    for name, infos in given.items():
        if name in values and infos != kept.get(name, []):
            values[name].meta[DESCRIBED] = tuple(infos)
            changed = True
    return values, changed


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    yield from graph.inputs
    yield from graph.outputs
    for node in graph:
        yield from node.outputs


def _by_name(infos: Iterable[onnx.ValueInfoProto]) -> dict[str, list[onnx.ValueInfoProto]]:
    found: dict[str, list[onnx.ValueInfoProto]] = {}
    for info in infos:
        found.setdefault(info.name, []).append(info)
    return found


def _note_domains(graph: ir.Graph, proto: _Holder) -> None:
    """Record which nodes spell out the default domain."""
    for node, written in zip(graph, proto.node, strict=True):
        if written.domain == ALIAS:
            node.meta[_SPELLED] = ALIAS


def _is_empty(info: onnx.ValueInfoProto) -> bool:
    return info.HasField("type") and info.type.WhichOneof("value") is None


def serialize(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model without onnx-ir's log of the content that it omits.

    Initializers that had no value_info get none.
    """
    unstated = [
        value
        for graph in model.graphs()
        if (stated := graph.meta.get(_STATED)) is not None
        for name, value in graph.initializers.items()
        if name not in stated
    ]
    with quiet(), untyped(unstated):
        return ir.serde.serialize_model(model)


@contextlib.contextmanager
def untyped(initializers: Iterable[ir.Value]) -> Iterator[None]:
    """Take away the types of initializers, for which onnx-ir would write value_info.

    Their tensors state the same. Those of inputs and outputs stay.
    """
    held = [
        (value, value.type, value.shape)
        for value in initializers
        if value.const_value is not None
        and not value.is_graph_input()
        and not value.is_graph_output()
    ]
    for value, _, _ in held:
        value.type = value.shape = None
    try:
        yield
    finally:
        for value, kind, shape in held:
            value.type, value.shape = kind, shape


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence onnx-ir's log; the content that it omits is found by comparing what it writes."""
    logger = logging.getLogger("onnx_ir.serde")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def attach(source: ir.Model, target: ir.Model, proto: onnx.ModelProto) -> None:
    """Copy the recorded content of a model to its copy.

    Raises:
        UnsupportedError: A sparse initializer is too large to be stored densely.
    """
    olds = list(_all_pairs(source, proto))
    news = olds if target is source else list(_all_pairs(target, proto))
    for (old, described), (new, _) in zip(olds, news, strict=True):
        held = frozenset[str]()
        if isinstance(described, onnx.GraphProto):
            held = hold(new, described)
        if new is old and not held:
            continue
        new.meta[_ORIGIN] = replace(old.meta[_ORIGIN], held=held)
        new.meta[_STATED] = old.meta[_STATED]
        values = {value.name: value for value in _values(new)}
        for value in _values(old):
            if DESCRIBED in value.meta and value.name in values:
                values[value.name].meta[DESCRIBED] = value.meta[DESCRIBED]
        _note_domains(new, described)


def restore(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Restore in a proto the content that `remember` recorded with its model.

    Raises:
        UnsupportedError: The model was rewritten in a way that its training_info does not allow.
    """
    for _, tensor in tensors(proto):
        _once(tensor.metadata_props)  # onnx-ir writes them a second time
    for graph, written in _all_pairs(model, proto):
        for node, node_proto in zip(graph, written.node, strict=True):
            if _SPELLED in node.meta:  # an empty string would be written as well
                node_proto.domain = node.meta[_SPELLED]
        origin = graph.meta.get(_ORIGIN)
        if not isinstance(origin, _Origin):
            continue
        _restore_descriptions(origin, graph, written)
        if isinstance(written, onnx.GraphProto):
            _restore_graph(origin, graph, written)
        holder = proto if graph is model.graph else written
        if isinstance(holder, onnx.ModelProto | onnx.FunctionProto):
            _restore_imports(origin, holder.opset_import)
        if graph is model.graph:
            proto.MergeFrom(origin.rest)
    for training in proto.training_info:
        _check_training(training, proto.graph)


def _restore_imports(origin: _Origin, imports: Any) -> None:
    """Restore the spelling of the original opset imports; imports added since stay."""
    versions = {_domain(entry): entry.version for entry in imports}
    given = {_domain(entry): entry.version for entry in origin.imports}
    if any(versions.get(domain) != version for domain, version in given.items()):
        return  # changed by a pass
    new = [(d, v) for d, v in versions.items() if d not in given]
    del imports[:]
    imports.extend(origin.imports)
    for domain, version in new:
        imports.add(domain=domain, version=version)


def _domain(entry: onnx.OperatorSetIdProto) -> str:
    return "" if entry.domain == ALIAS else entry.domain


def _restore_descriptions(origin: _Origin, graph: ir.Graph, proto: _Holder) -> None:
    """Restore value_info that onnx-ir changes, and value_info that describes no value."""
    if not origin.is_described and not origin.infos:
        return
    values = {value.name or "": value for value in _values(graph)}
    own = {name: value for name, value in values.items() if DESCRIBED in value.meta}
    infos = [info for info in proto.value_info if info.name not in own]
    for name, value in own.items():
        for given in value.meta[DESCRIBED]:
            info = onnx.ValueInfoProto()
            info.CopyFrom(given)
            info.name = name
            infos.append(info)
    # A value added since may have the name of an entry that described no value; and onnx-ir itself
    # writes value_info for functions, whose entries describe no value here.
    taken = {info.name for info in infos} | values.keys()
    infos += [info for info in origin.infos if info.name not in taken]
    del proto.value_info[:]
    proto.value_info.extend(infos)


def _restore_graph(origin: _Origin, graph: ir.Graph, proto: onnx.GraphProto) -> None:
    values = graph.initializers.values() if origin.held else ()
    still = {v.name for v in values if isinstance(v.const_value, Sparse)}
    folded = origin.held - still
    sparse = [tensor for tensor in origin.sparse if tensor.values.name not in folded]
    held = graph.initializers.keys() - graph.meta[_STATED] if proto.value_info else set()
    for index in reversed(range(len(proto.value_info))):
        if proto.value_info[index].name in held:
            del proto.value_info[index]
    for info in (*proto.input, *proto.output):
        if info.name in origin.types and not info.HasField("type"):
            info.type.CopyFrom(origin.types[info.name])
    proto.quantization_annotation.extend(origin.annotations)
    proto.sparse_initializer.extend(sparse)
    for index in reversed(range(len(proto.initializer) if still else 0)):
        if proto.initializer[index].name in still:
            del proto.initializer[index]
    if not proto.quantization_annotation:
        return
    present = {tensor.name for tensor in proto.initializer}
    present |= {value.name or "" for value in _values(graph)}
    present |= {tensor.values.name for tensor in sparse}
    # Annotations of removed values do not keep their scales and zero points alive.
    notes = [
        n
        for n in proto.quantization_annotation
        if n in origin.annotations or n.tensor_name in present
    ]
    del proto.quantization_annotation[:]
    proto.quantization_annotation.extend(notes)


def _check_training(training: onnx.TrainingInfoProto, graph: onnx.GraphProto) -> None:
    bound = {entry.key for entry in (*training.initialization_binding, *training.update_binding)}
    lost = bound - {tensor.name for tensor in graph.initializer}
    lost -= {tensor.values.name for tensor in graph.sparse_initializer}
    lost -= {name for tensor in training.algorithm.initializer for name in [tensor.name]}
    if lost:
        raise UnsupportedError(
            f"graph '{graph.name}': its training_info updates '{min(lost)}', which was merged "
            "into other weights; remove training_info from the model first"
        )


def _all_pairs(model: ir.Model, proto: onnx.ModelProto) -> Iterator[_Pair]:
    """Yield all graphs of a model, function bodies included, each with its proto."""
    yield from _pairs(model.graph, proto.graph)
    for function, written in zip(model.functions.values(), proto.functions, strict=True):
        yield from _pairs(function.graph, written)


def _pairs(graph: ir.Graph, proto: _Holder) -> Iterator[_Pair]:
    """Yield a graph and its subgraphs, each with its proto."""
    yield graph, proto
    for node, written in zip(graph, proto.node, strict=True):
        for attribute in written.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH and not attribute.ref_attr_name:
                yield from _pairs(node.attributes[attribute.name].as_graph(), attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS and not attribute.ref_attr_name:
                inner = node.attributes[attribute.name].as_graphs()
                for part, written_part in zip(inner, attribute.graphs, strict=True):
                    yield from _pairs(part, written_part)


def _once(entries: Any) -> None:
    unique = {entry.key: entry.value for entry in entries}
    if len(unique) < len(entries):
        del entries[:]
        for key, value in unique.items():
            entries.add(key=key, value=value)
