"""Serialize models for runtimes: as bytes if they fit, else as files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.guards import is_endless
from onnx_expand.model import save, to_proto
from onnx_expand.runtimes.base import Source

__all__ = ["content_of", "discard"]

_INLINE_LIMIT = (1 << 31) - (1 << 24)


def content_of(source: Source) -> tuple[str | bytes, Path | None]:
    """Return bytes or a path for a runtime, and the temporary directory of the file, if any.

    Raises:
        UnsupportedError: Loading the model would exhaust the memory.
    """
    if isinstance(source, Path):
        return os.fspath(source), None
    if not _needs_file(source):
        proto = to_proto(source)
        if is_endless(proto):
            raise UnsupportedError(
                "a runtime would run out of memory: a list of integers that may be a shape is "
                "longer than any shape"
            )
        return proto.SerializeToString(), None
    directory = Path(tempfile.mkdtemp(prefix="onnx-expand-"))
    try:
        save(source, directory / "model.onnx")
    except BaseException:
        discard(directory)
        raise
    return os.fspath(directory / "model.onnx"), directory


def _needs_file(model: ir.Model) -> bool:
    # Bytes can neither refer to external data nor exceed 2 GiB, the limit of protobuf.
    total = 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                return True
            total += tensor.nbytes if tensor is not None else 0
    return total > _INLINE_LIMIT


def discard(directory: Path | None) -> None:
    """Remove a temporary directory, if there is one."""
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
