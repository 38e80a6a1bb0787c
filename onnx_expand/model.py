"""The door: models come in as files, protos, onnx-ir models or graphsurgeon graphs, and leave so.

Inside, every pass works on `onnx_ir.Model`. What is handed in is never changed: files are only
read, and objects are copied before the first rewrite. Files are written beside their destination
and renamed, so that a reader sees the old file or the new one and never half of one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnx_expand.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = [
    "ModelLike",
    "Visit",
    "check_output",
    "load",
    "read",
    "replacing",
    "save",
    "to_proto",
    "visit",
]

ModelLike: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model | gs.Graph"
Caller = TypeVar("Caller")

# protobuf cannot hold a message of 2 GiB; larger weights go to one file beside the model.
_ORIGIN = "onnx_expand.origin"
_INLINE_LIMIT = (1 << 31) - (1 << 24)


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read and validate a model file; external weights are mapped when they are first used.

    Args:
        path: A binary ONNX file, or one of ONNX's text formats by its extension.

    Raises:
        ModelError: The file is missing, is not ONNX, is truncated, or breaks ONNX's rules.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path}: is a directory, not an ONNX file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX file, or a truncated one") from None
    except (ValueError, onnx.parser.ParseError) as error:
        raise ModelError(f"{path}: not an ONNX file: {_one_line(error)}") from None
    _validate(proto, str(path), path)
    model = _deserialize(proto, str(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model file, whole or not at all.

    Weights go to `<file name>.data` beside it when the model has external weights already or is
    too large for one protobuf message.

    Raises:
        UsageError: The directory does not exist or cannot be written.
    """
    path = check_output(path)
    with replacing(path) as partial:
        if _needs_external_data(model):
            ir.save(model, partial, format="protobuf", external_data=path.name + ".data")
        else:
            partial.write_bytes(to_proto(model).SerializeToString())


def check_output(path: str | os.PathLike[str]) -> Path:
    """The path, when a file can be written there.

    Raises:
        UsageError: Its directory does not exist or cannot be written, or it is a directory.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the directory {path.parent} does not exist; create it first")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; name a file")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: the directory {path.parent} cannot be written")
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto that shares nothing with it."""
    proto = ir.serde.serialize_model(model)
    origin: _Origin = model.meta.get(_ORIGIN, _Origin())
    _drop_descriptions(proto.graph, origin.described)
    for name in origin.empty:
        setattr(proto, name, "")
    return proto


@dataclass(frozen=True)
class Visit(Generic[Caller]):
    """A model on its way through a pass.

    Attributes:
        model: A private copy that passes may rewrite.
        leave: Turns the rewritten model into the kind that the caller handed in.
        label: How messages name the model.
    """

    model: ir.Model
    leave: Callable[[ir.Model], Caller]
    label: str


def read(source: ModelLike) -> ir.Model:
    """A private copy of a model of any kind, or the model in a file.

    Raises:
        ModelError: The source is not a valid model.
        UsageError: The source is of no known kind.
    """
    if isinstance(source, str | os.PathLike):
        return load(source)
    model: ir.Model = visit(source).model
    return model


def visit(
    source: ModelLike, output: str | os.PathLike[str] | None = None, *, suffix: str = "out"
) -> Visit[Any]:
    """Take in a model of any kind.

    Args:
        source: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`.
        output: For a path, the file to write; `<stem>.<suffix>.onnx` beside it when missing.
        suffix: See `output`.

    Raises:
        ModelError: The source is not a valid model.
        UsageError: The source is of no known kind, or `output` goes with no path.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        target = path.with_name(f"{path.stem}.{suffix}.onnx") if output is None else Path(output)
        check_output(target)
        kind: Any = type(source) if isinstance(source, str | Path) else Path

        def write(model: ir.Model) -> Any:
            save(model, target)
            return kind(target)

        return Visit(load(path), write, str(path))
    if output is not None:
        raise UsageError("`output` names a file, which goes with a model that is given by path")
    if isinstance(source, ir.Model):
        return Visit(source.clone(), lambda model: model, source.graph.name or "model")
    if isinstance(source, onnx.ModelProto):
        label = source.graph.name or "model"
        _validate(source, label)
        own = onnx.ModelProto()
        own.CopyFrom(source)
        return Visit(_deserialize(own, label), to_proto, label)
    return _visit_graphsurgeon(source)


def _visit_graphsurgeon(source: Any) -> Visit[Any]:
    import onnx_graphsurgeon as gs  # slow to import, and only its users need it

    if not isinstance(source, gs.Graph):
        raise UsageError(
            f"a {type(source).__name__} is no model; give a path, onnx.ModelProto, "
            "onnx_ir.Model or onnx_graphsurgeon.Graph"
        )
    proto = gs.export_onnx(source, do_type_check=False)
    label = source.name or "graph"
    _restore_metadata(proto, source)
    _validate(proto, label)

    def leave(model: ir.Model) -> Any:
        result = to_proto(model)
        graph = gs.import_onnx(result)
        _keep_metadata(result, graph)
        return graph

    return Visit(_deserialize(proto, label), leave, label)


# graphsurgeon has no place for metadata_props, in which expansions are recorded; its objects take
# further Python attributes, so the properties travel there between two of our own calls.
_PROPS = "metadata_props"


def _keep_metadata(proto: onnx.ModelProto, graph: Any) -> None:
    by_output = {node.output[0]: node for node in proto.graph.node if node.output}
    setattr(graph, _PROPS, {entry.key: entry.value for entry in proto.metadata_props})
    for node in graph.nodes:
        origin = by_output.get(node.outputs[0].name) if node.outputs else None
        if origin is not None and origin.metadata_props:
            setattr(node, _PROPS, {entry.key: entry.value for entry in origin.metadata_props})


def _restore_metadata(proto: onnx.ModelProto, graph: Any) -> None:
    by_output = {node.output[0]: node for node in proto.graph.node if node.output}
    # graphsurgeon takes a missing attribute for a missing layer and says so: ask `vars`.
    onnx.helper.set_model_props(proto, vars(graph).get(_PROPS, {}))
    for node in graph.nodes:
        target = by_output.get(node.outputs[0].name) if node.outputs else None
        if target is not None and _PROPS in vars(node):
            onnx.helper.set_metadata_props(target, vars(node)[_PROPS])


@dataclass(frozen=True)
class _Origin:
    """What onnx-ir does not remember of a proto.

    Attributes:
        described: Names of values that have a value_info.
        empty: Texts of the model that are there but empty.
    """

    described: frozenset[str] = frozenset()
    empty: tuple[str, ...] = ()

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> _Origin:
        names = {info.name for graph in _graphs(proto.graph) for info in graph.value_info}
        texts = ("producer_name", "producer_version", "domain", "doc_string")
        empty = tuple(t for t in texts if proto.HasField(t) and not getattr(proto, t))
        return cls(frozenset(names), empty)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _drop_descriptions(graph: onnx.GraphProto, described: frozenset[str]) -> None:
    """Remove the value_info that onnx-ir adds for every initializer."""
    for body in _graphs(graph):
        held = {tensor.name for tensor in body.initializer} - described
        infos = [info for info in body.value_info if info.name not in held]
        del body.value_info[:]
        body.value_info.extend(infos)


def _deserialize(proto: onnx.ModelProto, label: str) -> ir.Model:
    try:
        model = ir.serde.deserialize_model(proto)
        model.meta[_ORIGIN] = _Origin.of(proto)
        return model
    except Exception as error:
        # onnx-ir reports what it cannot hold by several exception types.
        cause = error.__cause__ or error
        raise ModelError(f"{label}: cannot be read: {_one_line(cause)}") from error


def _validate(proto: onnx.ModelProto, label: str, path: Path | None = None) -> None:
    # Any file of zero bytes, and many short ones, parse as an empty message.
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{label}: not an ONNX model, or a truncated one: it holds no graph")
    try:
        if path is not None and path.suffix in {"", ".onnx", ".pb"}:
            onnx.checker.check_model(os.fspath(path))
        elif not _has_external_data(proto) and proto.ByteSize() < _INLINE_LIMIT:
            onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{label}: not a valid ONNX model: {_one_line(error)}") from None


def _has_external_data(proto: onnx.ModelProto) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in proto.graph.initializer)


def _needs_external_data(model: ir.Model) -> bool:
    total = 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                return True
            total += value.const_value.nbytes if value.const_value is not None else 0
    return total > _INLINE_LIMIT


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
