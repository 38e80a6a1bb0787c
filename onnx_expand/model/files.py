"""Write files atomically.

A write that is interrupted (full disk, Ctrl-C, kill) leaves the previous file in place. A model
with external data is two files, which no system replaces in one step: the new weights get a file
name that the old model does not use, and the old weights are deleted after the model is replaced.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import onnx
import onnx_ir as ir

from onnx_expand.errors import UsageError
from onnx_expand.model.decoded import is_external
from onnx_expand.model.sparse import Sparse

__all__ = [
    "check_output",
    "checksum",
    "data_file",
    "holders",
    "keep_weights",
    "make_folder",
    "movable",
    "reopened",
    "replacing",
    "weight_files",
]

_THRESHOLD = 256  # bytes; smaller tensors, such as shapes, stay in the model file


def check_output(path: str | os.PathLike[str], *, is_model: bool = False) -> Path:
    """Return the path if a file can be written there.

    Args:
        path: The path.
        is_model: Whether a model will be written, in binary form.

    Raises:
        UsageError: Its directory does not exist or cannot be written, it is no regular file, or
            the model could not be read again, since its name states a text format.
    """
    path = Path(path)
    form = onnx.serialization.registry.get_format_from_file_extension(path.suffix)
    if is_model and form not in {None, "protobuf"}:
        raise UsageError(
            f"{path}: the ending {path.suffix} states a text format, and models are written in "
            f"binary form; name a file such as {path.stem}.onnx"
        )
    try:
        problem = _unwritable(path)
    except (OSError, ValueError) as error:  # the name is too long or contains a zero byte
        problem = f"cannot be written: {error}"
    if problem:
        raise UsageError(f"{path}: {problem}")
    return path


def _unwritable(path: Path) -> str:
    """Return why no file can be written at a path; empty if one can."""
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist; create it first"
    if path.is_dir():
        return "is a directory; name a file"
    if path.exists() and not path.is_file():
        return "is no regular file, which writing would replace"
    if not os.access(path.parent, os.W_OK):
        return f"the directory {path.parent} cannot be written"
    return ""


def make_folder(path: Path) -> bool:
    """Create a folder, and return True, unless it exists.

    Raises:
        UsageError: It cannot be created.
    """
    try:
        is_new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made: {error.strerror or error}") from error
    return is_new


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    Raises:
        UsageError: It cannot be written.
    """
    with _partial(path) as partial:
        yield partial
        _finish(partial, path)
        partial.replace(path)
        _sync_directory(path.parent)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that is deleted after the block."""
    partial = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        partial = Path(name)
        os.close(handle)
        yield partial
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _finish(partial: Path, path: Path) -> None:
    """Flush a file to disk and give it the permissions of the one that it replaces."""
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())


def _sync_directory(directory: Path) -> None:
    """Flush a rename to disk where the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


# -- External data ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A place in a model that holds a tensor."""

    tensor: ir.TensorProtocol
    put: Callable[[ir.TensorProtocol], None]


def holders(model: ir.Model) -> Iterator[Holder]:
    """Yield all initializers and the tensors in attributes."""
    graphs = [*model.graphs()]
    for function in model.functions.values():
        graphs += [function.graph, *function.graph.subgraphs()]
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield Holder(value.const_value, _put_initializer(value))
        for node in graph:
            for attribute in list(node.attributes.values()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield Holder(attribute.as_tensor(), _put_attribute(node, attribute, None))
                elif attribute.type == ir.AttributeType.TENSORS:
                    for index, tensor in enumerate(attribute.as_tensors()):
                        yield Holder(tensor, _put_attribute(node, attribute, index))


def _put_initializer(value: ir.Value) -> Callable[[ir.TensorProtocol], None]:
    def put(tensor: ir.TensorProtocol) -> None:
        value.const_value = tensor

    return put


def _put_attribute(
    node: ir.Node, attribute: ir.Attr, index: int | None
) -> Callable[[ir.TensorProtocol], None]:
    def put(tensor: ir.TensorProtocol) -> None:
        doc, name = attribute.doc_string, attribute.name
        if index is None:
            node.attributes[name] = ir.AttrTensor(name, tensor, doc_string=doc)
            return
        tensors = list(node.attributes[name].as_tensors())
        tensors[index] = tensor
        node.attributes[name] = ir.AttrTensors(name, tensors, doc_string=doc)

    return put


@contextlib.contextmanager
def data_file(tensors: Sequence[Holder], path: Path) -> Iterator[Path]:
    """Write tensors of a model to a file beside `path`, and make the model refer to it.

    The file is yielded. Within the block the tensors are external data in that file, and the block
    must write a model that refers to it to `path`. The file is called `<name>.data`, unless the
    model already there refers to a file of this name with other content; then it is
    `<name>.1.data`, and the old file is deleted after the block. A lock serializes writers in one
    directory.

    Args:
        tensors: The result of `movable`; the model's tensors are restored after the block.
        path: The file of the model.

    Raises:
        UsageError: It cannot be written.
    """
    with _partial(path.with_name(path.name + ".data")) as partial:
        with partial.open("wb") as stream:
            places = _write(tensors, stream)
        with _alone(path.parent):
            target = _choose(path, partial)
            if target.exists() and filecmp.cmp(partial, target, shallow=False):
                partial.unlink()
            else:
                _finish(partial, target)
                partial.replace(target)
            try:
                for holder, offset, length in places:
                    holder.put(_reference(holder.tensor, target.name, offset, length))
                yield target
            finally:
                for holder, _, _ in places:
                    holder.put(holder.tensor)
            for old in _names(path):
                if old != target and old.is_file():
                    old.unlink()


def checksum(path: Path) -> str:
    """Compute the checksum that ONNX defines for external data: SHA-1, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha1").hexdigest()


def weight_files(model: ir.Model) -> set[Path]:
    """Return the files of a model's external data."""
    return {Path(h.tensor.path) for h in holders(model) if is_external(h.tensor)}


def keep_weights(model: ir.Model, *outputs: str | os.PathLike[str]) -> None:
    """Refuse outputs that would overwrite the external data of a model that is read.

    Raises:
        UsageError: An output is a file of the model's external data.
    """
    files = {path.resolve() for path in weight_files(model)}
    for output in outputs:
        if Path(output).resolve() in files:
            raise UsageError(f"{output}: holds weights of a model that is read; name another file")


def movable(model: ir.Model, *, all_large: bool) -> list[Holder]:
    """Return the tensors to store externally: those that already are, and large new ones.

    Args:
        model: The model.
        all_large: Whether large tensors of the model file itself are moved as well.
    """
    return [
        holder
        for holder in holders(model)
        if is_external(holder.tensor)
        or (
            holder.tensor.dtype != ir.DataType.STRING
            and not isinstance(holder.tensor, Sparse)
            and holder.tensor.nbytes > _THRESHOLD
            and (all_large or not isinstance(holder.tensor, ir.serde.TensorProtoTensor))
        )
    ]


def _write(movable: Sequence[Holder], stream: IO[bytes]) -> list[tuple[Holder, int, int]]:
    """Write tensors in sequence, shared ones once; return the offset and length of each."""
    places: dict[int, tuple[int, int]] = {}
    result = []
    for holder in movable:
        tensor = holder.tensor
        if id(tensor) not in places:
            offset = stream.tell()
            if hasattr(tensor, "tofile"):
                tensor.tofile(stream)
            else:
                stream.write(tensor.tobytes())
            places[id(tensor)] = offset, stream.tell() - offset
        result.append((holder, *places[id(tensor)]))
    return result


def _reference(
    tensor: ir.TensorProtocol,
    location: str | os.PathLike[str],
    offset: int | None,
    length: int | None,
    base: str | os.PathLike[str] = "",
) -> ir.ExternalTensor:
    """Return a tensor that refers to its contents in a file."""
    return ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=base,
    )


def reopened(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
    """Return a tensor with the same contents in the same file, which is not open."""
    return _reference(tensor, tensor.location, tensor.offset, tensor.length, tensor.base_dir)


def _names(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.{infix}data") for infix in ("", "1.", "2.")]


def _choose(path: Path, partial: Path) -> Path:
    """Choose the file of the new weights: the old model's data file only if the contents agree."""
    content = path.read_bytes() if path.is_file() and path.stat().st_size else b""
    used = [name for name in _names(path) if name.name.encode() in content]
    same = (u for u in used if u.is_file() and filecmp.cmp(partial, u, shallow=False))
    free = (name for name in _names(path) if name not in used)
    return next(same, None) or next(free, _names(path)[0])


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until no other process is replacing a model in a directory."""
    try:
        import fcntl
    except ImportError:  # not available on Windows, where the last of two writers wins
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems do not support locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
