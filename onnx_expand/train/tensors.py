"""Convert tensors between ONNX and torch, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from onnx_expand.errors import UnsupportedError

__all__ = ["DTYPES", "from_torch", "to_tensor"]

DTYPES: dict[int, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
}


def to_tensor(tensor: ir.TensorProtocol, label: str) -> torch.Tensor:
    """Return a torch tensor with an ONNX tensor's values and type, without sharing memory.

    Raises:
        UnsupportedError: torch has no such element type.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise UnsupportedError(f"'{label}': torch cannot train with elements of {tensor.dtype}")
    array = np.array(tensor.numpy(), order="C", copy=True)
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def from_torch(tensor: torch.Tensor, dtype: ir.DataType) -> npt.NDArray[Any]:
    """Return a numpy array with a torch tensor's values, cast to an ONNX element type.

    The array may share memory with the tensor.
    """
    plain = tensor.detach().to("cpu", DTYPES[dtype]).contiguous()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.int16).numpy().view(dtype.numpy())
    array: npt.NDArray[Any] = plain.numpy()
    return array
