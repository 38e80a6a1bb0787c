"""Read and write a model's weights as safetensors files, by the names of its initializers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from onnx_expand.errors import ModelError
from onnx_expand.model import read, replacing
from onnx_expand.plugins import optional
from onnx_expand.train.tensors import DTYPES, from_torch, to_tensor

__all__ = ["load_weights", "require_safetensors", "save_weights"]

_SHOWN = 3


def require_safetensors() -> Any:
    """Import and return the safetensors library.

    Raises:
        UnsupportedError: It is not installed.
    """
    missing = "weights need safetensors: pip install 'onnx-expand[safetensors]'"
    return optional("safetensors.torch", missing)


def load_weights(model: ir.Model, path: Path) -> tuple[ir.Model, str]:
    """Return a copy of a model with the tensors of a file, and a summary in one line.

    Initializers that the file lacks do not change. Values are cast to the types of the model.

    Raises:
        ModelError: The file cannot be read, has a tensor that the model lacks or has in another
            shape or kind, or has none of the model's tensors.
        UnsupportedError: safetensors is not installed.
    """
    library = require_safetensors()
    try:
        found = library.load_file(path)
    except Exception as error:
        # The library raises its own exceptions for damaged files, and OSError for others.
        raise ModelError(f"{path}: cannot be read as safetensors: {error}") from error
    copy = read(model)
    own = {name: v for name, v in copy.graph.initializers.items() if v.const_value is not None}
    unknown = [name for name in found if name not in own]
    if unknown or not found:
        what = f"'{unknown[0]}'" if unknown else "nothing"
        raise ModelError(
            f"{path}: contains {what}; the initializers of the model are {_listed(own)}"
        )
    for name, tensor in found.items():
        value = own[name]
        assert value.const_value is not None
        value.const_value = _fitting(value.const_value, tensor, f"{path}: '{name}'", name)
    rest = [name for name in own if name not in found]
    left = f"; not in it: {_listed(rest)}" if rest else ""
    return copy, f"{path}: {len(found)} of {len(own)} initializers are taken from it{left}"


def _fitting(
    old: ir.TensorProtocol, new: torch.Tensor, label: str, name: str
) -> ir.TensorProtocol:
    shape = old.shape.numpy()
    if tuple(new.shape) != tuple(shape):
        raise ModelError(f"{label} is {list(new.shape)}, the model's is {list(shape)}")
    dtype = DTYPES.get(old.dtype)
    if dtype is None or dtype.is_floating_point != new.is_floating_point():
        raise ModelError(f"{label} is {new.dtype}, the model's is {old.dtype}")
    return ir.tensor(from_torch(new, ir.DataType(old.dtype)), ir.DataType(old.dtype), name=name)


def save_weights(model: ir.Model, path: Path) -> None:
    """Write the initializers of a model whose types torch supports.

    Raises:
        UnsupportedError: safetensors is not installed.
        UsageError: The file cannot be written.
    """
    library = require_safetensors()
    tensors = {
        name: to_tensor(value.const_value, name)
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype in DTYPES
    }
    with replacing(path) as partial:
        library.save_file(tensors, partial, {"format": "pt"})


def _listed(names: Mapping[str, Any] | list[str]) -> str:
    shown = ", ".join([*names][:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
