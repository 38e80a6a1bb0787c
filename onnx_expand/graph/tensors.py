"""Read and compare the contents of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.model import is_external

__all__ = ["first_bytes", "read_tensor", "same_bytes"]

_BLOCK = 1 << 22  # bytes per comparison


def read_tensor(tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """Return the contents of a tensor as an array that maps no file.

    External data is copied, and its file is left open or closed as it was: while a file is mapped,
    the owner of the model cannot overwrite it.
    """
    if not is_external(tensor):
        return np.asarray(tensor.numpy())
    is_open = tensor.raw is not None
    array = np.array(tensor.numpy())
    if not is_open:
        tensor.release()
    return array


def same_bytes(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Return whether two tensors of one type and shape are bitwise equal.

    Large external tensors are read block by block and never loaded whole.
    """
    if first_bytes(a) != first_bytes(b):
        return False
    return all(x == y for x, y in zip(_blocks(a), _blocks(b), strict=True))


def first_bytes(tensor: ir.TensorProtocol) -> bytes:
    """Return the first few bytes of a tensor, which distinguish most different tensors."""
    if is_external(tensor):
        with open(tensor.path, "rb") as stream:
            stream.seek(tensor.offset or 0)
            return stream.read(min(_FIRST, tensor.nbytes))
    return np.asarray(tensor.numpy()).reshape(-1)[:_FIRST].tobytes()[:_FIRST]


_FIRST = 64


def _blocks(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    if is_external(tensor):
        size = tensor.nbytes
        with open(tensor.path, "rb") as stream:
            stream.seek(tensor.offset or 0)
            for start in range(0, size, _BLOCK):
                yield stream.read(min(_BLOCK, size - start))
        return
    whole = memoryview(tensor.tobytes())
    for start in range(0, len(whole), _BLOCK):
        yield bytes(whole[start : start + _BLOCK])
