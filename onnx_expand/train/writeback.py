"""Write trained weights back into the model that they came from."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.model import visit
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.tensors import DTYPES, from_torch

__all__ = ["write_back"]

Model = TypeVar("Model")


def write_back(
    module: torch.nn.Module, model: Model, output: str | os.PathLike[str] | None = None
) -> Model:
    """Return a copy of a model whose initializers have the values of a module's tensors.

    Nodes, names, order, metadata and element types do not change. Initializers with equal values
    stay the same byte for byte.

    Args:
        module: The trained result of `to_torch` for the model; or any module whose `state_dict`
            has the initializers under their names.
        model: The model: a path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`,
            which is not modified.
        output: For a path, the file to write; by default `<stem>.trained.onnx` beside it.

    Returns:
        The same kind as `model`; for a path, the path that was written.

    Raises:
        UnsupportedError: An initializer has no counterpart in the module, a different shape
            there, or a value there that its element type cannot represent.
        UsageError: `output` is given for a model that is not a path, or cannot be written.
        ModelError: The model is invalid.
    """
    guest = visit(model, output, suffix="trained")
    state = _tensors(module)
    for name, value in guest.model.graph.initializers.items():
        old = value.const_value
        if old is None or old.dtype not in DTYPES:
            continue
        if name not in state:
            raise UnsupportedError(
                f"{guest.label}: the module has no tensor for the initializer '{name}'"
            )
        new = _replacement(old, state[name], f"{guest.label}: '{name}'")
        if new is not None:
            value.const_value = new
    for node in guest.model.graph:
        name = (node.outputs[0].name or "") if node.outputs else ""
        if node.op_type != "Constant" or name not in state:
            continue
        old = ir.convenience.get_const_tensor(node.outputs[0])
        if old is None:
            continue
        new = _replacement(old, state[name], f"{guest.label}: '{name}'")
        if new is not None:
            # It may have been a list or a number; a tensor can represent either.
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", new)
    result: Model = guest.leave(guest.model)
    return result


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's tensors by the names of the initializers."""
    # Unwrap modules of torch.compile and of parallel training.
    while not isinstance(module, OnnxModule):
        inner = getattr(module, "_orig_mod", getattr(module, "module", None))
        if not isinstance(inner, torch.nn.Module):
            return module.state_dict()
        module = inner
    state = module.state_dict()
    return {name: state[key] for name, key in module.initializers.items()}


def _replacement(
    old: ir.TensorProtocol, tensor: torch.Tensor, label: str
) -> ir.TensorProtocol | None:
    """Return the new tensor in the type of the old one, or None if they are equal bit for bit."""
    shape = tuple(old.shape.numpy())
    if shape != tuple(tensor.shape):
        raise UnsupportedError(
            f"{label} has shape {list(shape)} in the model and {list(tensor.shape)} in the module"
        )
    array: Any = from_torch(tensor, old.dtype)
    if array.tobytes() == np.ascontiguousarray(old.numpy()).tobytes():
        return None
    if tensor.is_floating_point() and bool(torch.isfinite(tensor).all()):
        limit = torch.finfo(DTYPES[old.dtype]).max
        if float(tensor.detach().abs().max()) > limit:
            raise UnsupportedError(f"{label} overflows {old.dtype}; its largest value is {limit}")
    new = ir.Tensor(np.array(array), dtype=old.dtype, name=old.name, doc_string=old.doc_string)
    new.metadata_props.update(old.metadata_props)
    return new
