"""The door: convert models of several kinds to `onnx_ir.Model`, and results back to that kind.

Every pass works on `onnx_ir.Model`. The caller's model is never changed: files are only read, and
objects are copied before the first rewrite. A model is validated when it is read, and it is
refused if it contains anything that would be lost when it is written again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import onnx
import onnx_ir as ir

from onnx_expand.errors import UsageError
from onnx_expand.model.collector import rare_collections
from onnx_expand.model.decoded import is_external
from onnx_expand.model.fidelity import DESCRIBED, restore, serialize, untyped
from onnx_expand.model.files import (
    check_output,
    checksum,
    data_file,
    holders,
    keep_weights,
    make_folder,
    movable,
    reopened,
    replacing,
    weight_files,
)
from onnx_expand.model.graphsurgeon import export_graph, import_graph
from onnx_expand.model.outline import inner_graphs, tensors
from onnx_expand.model.reading import CHECKSUMS, EXTERNAL, admit, load
from onnx_expand.model.validity import ALIAS, default_version, settle_domains

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = [
    "DESCRIBED",
    "ModelLike",
    "Visit",
    "check_output",
    "is_external",
    "keep_weights",
    "load",
    "make_folder",
    "rare_collections",
    "read",
    "replacing",
    "save",
    "to_proto",
    "untyped",
    "visit",
    "weight_files",
]


class Program(Protocol):
    """The return value of `torch.onnx.export`, a `torch.onnx.ONNXProgram`."""

    model: ir.Model
    exported_program: Any


ModelLike: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model | gs.Graph | Program"
Caller = TypeVar("Caller")

# The first IR version in which an initializer need not be a graph input.
_PLAIN_INITIALIZERS = 4
# The first opset in which a Constant may hold other than floating-point numbers.
_CONSTANTS_OF_ANY_TYPE = 9
_EXACT = 1 << 53  # integers up to here are exact in double
_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
# A protobuf message must be smaller than 2 GiB; larger models need external data.
_INLINE_LIMIT = (1 << 31) - (1 << 24)


@rare_collections()
def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model file atomically.

    Weights are written to `<file name>.data` beside it if the model already has external data or
    is too large for one protobuf message.

    Raises:
        UsageError: The directory does not exist or cannot be written.
        UnsupportedError: The model contains something that contradicts the rewrite.
    """
    path = check_output(path, is_model=True)
    large = _inline_size(model) > _INLINE_LIMIT
    moving = movable(model, all_large=large) if large or _is_external(model) else []
    if not moving:
        with replacing(path) as partial:
            partial.write_bytes(to_proto(model).SerializeToString())
        return
    with data_file(moving, path) as data:
        proto = to_proto(model)
        if model.graph.meta.get(CHECKSUMS):
            digest = checksum(data)
            for _, tensor in tensors(proto):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    tensor.external_data.add(key="checksum", value=digest)
        with replacing(path) as partial:
            partial.write_bytes(proto.SerializeToString())


@rare_collections()
def to_proto(model: ir.Model, *, plain: bool = False) -> onnx.ModelProto:
    """Convert a model to a proto that shares no memory with it.

    Args:
        model: The model.
        plain: Spell the default domain as the empty string, however the model spells it.
    """
    proto = serialize(model)
    restore(model, proto)
    if plain:
        settle_domains(proto)
    if proto.ir_version < _PLAIN_INITIALIZERS:
        for graph in inner_graphs(proto.graph):
            _hold_in_nodes(graph, default_version(proto.opset_import))
    return proto


def _hold_in_nodes(graph: onnx.GraphProto, opset: int) -> None:
    """Turn initializers that are no inputs into nodes, as old IR versions require."""
    inputs = {info.name for info in graph.input}
    plain = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    if not plain:
        return
    taken = {name for node in graph.node for name in node.output}
    made = [node for tensor in plain for node in _constant_nodes(tensor, opset, taken)]
    nodes, tensors = list(graph.node), [t for t in graph.initializer if t.name in inputs]
    del graph.node[:], graph.initializer[:]
    graph.node.extend([*made, *nodes])
    graph.initializer.extend(tensors)


def _constant_nodes(
    tensor: onnx.TensorProto, opset: int, taken: set[str]
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that compute a constant; old Constants hold only floating-point numbers."""
    name, node = tensor.name, onnx.helper.make_node
    is_old = opset < _CONSTANTS_OF_ANY_TYPE and tensor.data_type in _INTEGERS
    numbers = onnx.numpy_helper.to_array(tensor) if is_old else None
    if numbers is None or np.any(np.abs(numbers) > _EXACT):
        yield node("Constant", [], [name], name=name, value=tensor)
        return
    wide = f"{name}.double"
    while wide in taken:
        wide += "_"
    taken.add(wide)
    value = onnx.numpy_helper.from_array(numbers.astype(np.float64), wide)
    yield node("Constant", [], [wide], name=wide, value=value)
    yield node("Cast", [wide], [name], name=name, to=tensor.data_type)


@dataclass(frozen=True)
class Visit(Generic[Caller]):
    """A model while a pass rewrites it.

    Attributes:
        model: A private copy that passes may rewrite.
        leave: Converts the rewritten model to the kind that the caller passed.
        label: The model's name in messages.
    """

    model: ir.Model
    leave: Callable[[ir.Model], Caller]
    label: str


def read(source: ModelLike) -> ir.Model:
    """Return a private copy of a model of any kind, or load a file.

    Raises:
        ModelError: The source is not a valid model.
        UnsupportedError: It holds something that onnx-expand cannot keep.
        UsageError: The source is of no known kind.
    """
    if isinstance(source, str | os.PathLike):
        return load(source)
    model: ir.Model = visit(source).model
    return model


def visit(
    source: ModelLike, output: str | os.PathLike[str] | None = None, *, suffix: str = "out"
) -> Visit[Any]:
    """Read a model of any kind, and prepare the conversion of the result back to it.

    Args:
        source: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`.
        output: For a path, the file to write; `<stem>.<suffix>.onnx` beside it when missing.
        suffix: See `output`.

    Raises:
        ModelError: The source is not a valid model.
        UnsupportedError: It holds something that onnx-expand cannot keep.
        UsageError: The source is of no known kind, or `output` is given without a path.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        target = path.with_name(f"{path.stem}.{suffix}.onnx") if output is None else Path(output)
        check_output(target, is_model=True)
        kind: Any = type(source) if isinstance(source, str | Path) else Path

        def write(model: ir.Model) -> Any:
            save(model, target)
            return kind(target)

        model = load(path)
        keep_weights(model, target)
        return Visit(model, write, str(path))
    if output is not None:
        raise UsageError("`output` names a file; pass the model as a path, or leave `output` out")
    if isinstance(source, ir.Model):
        return _visit_ir(source)
    if isinstance(source, onnx.ModelProto):
        label = source.graph.name or "model"
        own = onnx.ModelProto()
        own.CopyFrom(source)
        return Visit(admit(own, label), to_proto, label)
    if _is_program(source):
        return _visit_program(source)
    return _visit_graphsurgeon(source)


def _is_program(source: Any) -> bool:
    """Return whether a model is a `torch.onnx.ONNXProgram`, without importing torch."""
    kinds = ((kind.__module__, kind.__name__) for kind in type(source).__mro__)
    return any(m.startswith("torch.onnx") and n == "ONNXProgram" for m, n in kinds)


def _visit_program(source: Any) -> Visit[Any]:
    guest = _visit_ir(source.model)

    def leave(result: ir.Model) -> Any:
        return type(source)(guest.leave(result), source.exported_program)

    return Visit(guest.model, leave, guest.label)


def _visit_ir(source: ir.Model) -> Visit[ir.Model]:
    model, spelled = _copy(source), dict(source.graph.opset_imports)
    imports = model.graph.opset_imports
    renamed = imports.pop(ALIAS, None)
    if renamed is not None:
        imports[""] = renamed

    def leave(result: ir.Model) -> ir.Model:
        own = result.graph.opset_imports
        if ALIAS in spelled and own.get("") == renamed:
            own[ALIAS] = own[""] if "" in spelled else own.pop("")
        return result

    return Visit(model, leave, source.graph.name or "model")


def _copy(source: ir.Model) -> ir.Model:
    """Copy a model with its own tensors for external data, so that the caller's stay closed."""
    model = source.clone()
    copies: dict[int, ir.ExternalTensor] = {}
    for holder in holders(model):
        tensor = holder.tensor
        if is_external(tensor):
            if id(tensor) not in copies:
                copies[id(tensor)] = reopened(tensor)
            holder.put(copies[id(tensor)])
    return model


def _visit_graphsurgeon(source: Any) -> Visit[Any]:
    import onnx_graphsurgeon as gs  # imported here because it is slow and rarely needed

    if not isinstance(source, gs.Graph):
        raise UsageError(
            f"a {type(source).__name__} is no model; give a path, onnx.ModelProto, "
            "onnx_ir.Model, onnx_graphsurgeon.Graph or torch.onnx.ONNXProgram"
        )
    label = source.name or "graph"
    model = admit(export_graph(source), label)
    return Visit(model, lambda result: import_graph(to_proto(result)), label)


def _is_external(model: ir.Model) -> bool:
    """Return whether some weights are, or were when the model was read, external data."""
    if model.graph.meta.get(EXTERNAL):
        return True
    return any(is_external(holder.tensor) for holder in holders(model))


def _inline_size(model: ir.Model) -> int:
    """Return how many bytes of weights are stored in the model file itself."""
    size = 0
    for holder in holders(model):
        if holder.tensor.dtype == ir.DataType.STRING:
            size += sum(map(len, holder.tensor.numpy().flat))
        elif not is_external(holder.tensor):
            size += holder.tensor.nbytes
    return size
