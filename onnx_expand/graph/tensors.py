"""The numbers of tensors, in memory of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["first_bytes", "read_tensor", "same_bytes"]

_BLOCK = 1 << 22  # bytes that are compared at a time


def read_tensor(tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """The numbers of a tensor.

    Those that lie in a file are copied, and the file is left as it was found: as long as anything
    sees into it, whoever owns the model cannot write it again.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    is_open = tensor.raw is not None
    array = np.array(tensor.numpy())
    if not is_open:
        tensor.release()
    return array


def same_bytes(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Whether two tensors of one type and shape hold the same numbers, bit by bit.

    Large ones that lie in files are read block by block, and never held whole.
    """
    if first_bytes(a) != first_bytes(b):
        return False
    return all(x == y for x, y in zip(_blocks(a), _blocks(b), strict=True))


def first_bytes(tensor: ir.TensorProtocol) -> bytes:
    """The first few bytes of a tensor, by which most that differ can be told apart."""
    if isinstance(tensor, ir.ExternalTensor):
        with open(tensor.path, "rb") as stream:
            stream.seek(tensor.offset or 0)
            return stream.read(min(_FIRST, tensor.nbytes))
    return np.asarray(tensor.numpy()).reshape(-1)[:_FIRST].tobytes()[:_FIRST]


_FIRST = 64


def _blocks(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    if isinstance(tensor, ir.ExternalTensor):
        size = tensor.nbytes
        with open(tensor.path, "rb") as stream:
            stream.seek(tensor.offset or 0)
            for start in range(0, size, _BLOCK):
                yield stream.read(min(_BLOCK, size - start))
        return
    whole = memoryview(tensor.tobytes())
    for start in range(0, len(whole), _BLOCK):
        yield bytes(whole[start : start + _BLOCK])
