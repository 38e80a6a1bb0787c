"""Read and validate models."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnx_expand.errors import ModelError, OnnxExpandError, UnsupportedError, first_line, one_line
from onnx_expand.model.collector import rare_collections
from onnx_expand.model.comparing import difference, oddity
from onnx_expand.model.decoded import decode_once, is_external
from onnx_expand.model.fidelity import attach, quiet, remember, restore
from onnx_expand.model.files import holders
from onnx_expand.model.outline import graphs, is_small, outline, tensors
from onnx_expand.model.payload import check_payloads
from onnx_expand.model.scopes import refuse_ambiguous, unite_initializers
from onnx_expand.model.tidying import tidy
from onnx_expand.model.types import drop_types
from onnx_expand.model.validity import ALIAS, DEFAULT, default_version, validate

__all__ = ["CHECKSUMS", "EXTERNAL", "admit", "load"]

CHECKSUMS = "onnx_expand.checksums"
"""Says of a main graph that the external data of its model had checksums."""

EXTERNAL = "onnx_expand.external"
"""Says of a main graph that its model had external data."""

_TOO_LARGE = 1 << 31
_LOG = logging.getLogger("onnx_expand.model")
_KEEP = "which onnx-expand cannot keep; remove it from the model first"


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read and validate a model file; external data is memory-mapped at its first use.

    Args:
        path: A binary ONNX file, or one of ONNX's text formats by its extension.

    Raises:
        ModelError: The file is missing, is not ONNX, is truncated, or breaks ONNX's rules.
        UnsupportedError: It holds something that onnx-expand cannot keep.
    """
    if not os.fspath(path):
        raise ModelError("the path of a model is empty; name a file")
    path = Path(path)
    model = admit(_parse(path), str(path), path.parent)
    _LOG.debug("read %s: %d nodes", path, len(model.graph))
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if path.is_dir():
            raise ModelError(f"{path}: is a directory, not an ONNX file")
        if path.exists() and not path.is_file():  # may be endless; it is read twice
            raise ModelError(f"{path}: is no regular file")
        if path.stat().st_size >= _TOO_LARGE:
            raise ModelError(
                f"{path}: is larger than a file of protobuf can be (2 GiB); save the model with "
                "its weights as external data"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # onnx warns that a text format is experimental
            return onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX file, or a truncated one") from None
    except OnnxExpandError:
        raise
    except Exception as error:  # the parsers of the text formats raise many exception types
        raise ModelError(f"{path}: not an ONNX file: {one_line(error)}") from None


@rare_collections()
def admit(proto: onnx.ModelProto, label: str, base: Path | None = None) -> ir.Model:
    """Validate a proto and convert it to `onnx_ir.Model`.

    Args:
        proto: The model; it becomes part of the result.
        label: The model's name in messages.
        base: The directory of its external data, if it was read from a file.

    Raises:
        ModelError: It is not valid.
        UnsupportedError: It holds something that onnx-expand cannot keep.
    """
    # Any file of zero bytes, and many short ones, parse as an empty message.
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{label}: not an ONNX model, or a truncated one: it holds no graph")
    problem = oddity(proto, "model")
    if problem:
        raise UnsupportedError(f"{label}: holds {problem}, {_KEEP}")
    tidy(proto)
    unite_initializers(proto)
    stored = list(tensors(proto))
    check_payloads(stored, label, base)
    light = outline(proto)
    validate(light, label)
    refuse_ambiguous(light, label)
    bare = outline(proto) if drop_types(proto) else light
    twin = _deserialize(bare, label)
    _check_fidelity(twin, light, label)
    is_whole = all(is_small(tensor) for _, tensor in stored)
    model = twin if is_whole else _deserialize(proto, label)
    try:
        attach(twin, model, proto)
    except UnsupportedError as error:
        raise UnsupportedError(f"{label}: {error}") from None
    entries = [entry for _, tensor in stored for entry in tensor.external_data]
    for holder in holders(model) if entries else ():
        if is_external(holder.tensor):
            holder.tensor.base_dir = base or ""
    model.graph.meta[EXTERNAL] = bool(entries)
    model.graph.meta[CHECKSUMS] = any(entry.key == "checksum" for entry in entries)
    return model


def _deserialize(proto: onnx.ModelProto, label: str) -> ir.Model:
    for what in (*_not_held(proto), *_contradictions(proto)):
        raise UnsupportedError(f"{label}: holds {what}, {_KEEP}")
    try:
        with quiet():
            model = ir.serde.deserialize_model(proto)
    except Exception as error:
        # onnx-ir reports unsupported content by several nested exception types.
        raise ModelError(f"{label}: cannot be read: {_cause(error)}") from error
    for graph in model.graphs():
        decode_once(graph)
    _settle_imports(model.graph.opset_imports, proto.opset_import)
    for function, source in zip(model.functions.values(), proto.functions, strict=False):
        _settle_imports(function.opset_imports, source.opset_import)
    return model


def _settle_imports(
    imports: MutableMapping[str, int], source: Iterable[onnx.OperatorSetIdProto]
) -> None:
    """Normalize the default domain to one spelling and one opset import."""
    version = default_version(source)
    if imports.pop(ALIAS, None) is not None or imports.get("", version) != version:
        imports[""] = version


def _check_fidelity(model: ir.Model, light: onnx.ModelProto, label: str) -> None:
    """Refuse a model that would not be written as it was read."""
    try:
        written = remember(model, light)
        restore(model, written)
    except OnnxExpandError:
        raise
    except Exception as error:  # see `_deserialize`
        raise ModelError(f"{label}: cannot be written again: {_cause(error)}") from error
    lost = difference(light, written)
    if lost:
        raise UnsupportedError(f"{label}: holds '{lost}', {_KEEP}")


def _not_held(proto: onnx.ModelProto) -> Iterator[str]:
    """Yield the content that onnx-ir is known not to represent."""
    nodes = [node for graph in graphs(proto) for node in graph.node]
    nodes += [node for function in proto.functions for node in function.node]
    kinds = onnx.AttributeProto
    for node in nodes:
        for attribute in node.attribute:
            where = f"attribute '{attribute.name}' of node '{node.name or node.op_type}'"
            if attribute.type in {kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS}:
                yield f"a sparse tensor ({where})"
            elif attribute.type == kinds.UNDEFINED:
                yield f"an attribute without a type ({where})"
            elif attribute.type == kinds.STRINGS and not all(map(_is_text, attribute.strings)):
                yield f"text that is not UTF-8 ({where})"


def _contradictions(proto: onnx.ModelProto) -> Iterator[str]:
    """Yield the domains that are imported in several versions."""
    holders: list[onnx.ModelProto | onnx.FunctionProto] = [proto, *proto.functions]
    for holder in holders:
        versions: dict[str, int] = {}
        for entry in holder.opset_import:
            domain = "" if entry.domain in DEFAULT else entry.domain
            if versions.setdefault(domain, entry.version) != entry.version:
                text = f"{versions[domain]} and {entry.version}"
                yield f"the domain '{domain}' in the versions {text} (opset_import)"


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _cause(error: BaseException) -> str:
    """Return the message of the innermost of nested errors, which names the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
