"""Small models at the crossings of op, opset, type, place, border, storage, scope and extents.

`crossing(seed)` draws one. The seed alone decides the op, so that consecutive seeds go through all
of them; each op is drawn at the opsets that have different versions of it. The op stands behind,
before or beside layers; its constants, and theirs, are stored in one of ten ways; the nodes belong
to the main graph, a branch, a loop or a function; and extents are static, symbolic or unknown.
Models run at several sizes, where possible with one or two empty axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx

# Importing these registers their ops.
from tests.support.crossing import layers, moves
from tests.support.crossing.cell import Array, Cell, NoNodeError
from tests.support.crossing.scopes import finished
from tests.support.crossing.table import SUBJECTS
from tests.support.judge import Source

__all__ = ["OPS", "as_float", "crossed", "crossing", "layers", "moves"]

OPS = tuple(sorted(SUBJECTS))
"""The ops at the crossings."""

_NEAR = "Conv Conv Gemm MatMul BatchNormalization Pad AveragePool Mul Mul Add Add Relu Transpose"
_NEIGHBOURS = tuple(SUBJECTS[op] for op in (*_NEAR.split(), "ConvTranspose", "Reshape"))
_TRIES = 400


def crossing(seed: int) -> tuple[onnx.ModelProto, list[dict[str, Array]]]:
    """Draw a model around the op of a seed, with inputs of `as_float(model)` at several sizes."""
    rng = np.random.default_rng([seed, 77])
    for _ in range(_TRIES):
        cell = Cell(rng, OPS[seed % len(OPS)])
        try:
            model = finished(_grown(cell))
        except NoNodeError:
            continue
        return model, list(_feeds(cell, model))
    raise AssertionError(f"no node of {OPS[seed % len(OPS)]} fits any of {_TRIES} tensors")


def crossed(seed: int) -> Source:
    """Draw a model, with its outputs."""
    model, feeds = crossing(seed)
    rough = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
    return Source(model, (), seed, feeds, as_float, 2.0**16 if rough else 1.0)


def _grown(cell: Cell) -> Cell:
    """Place the subject among its neighbours."""
    for _ in range(cell.pick(0, 1, 1, 2)):
        _neighbour(cell)
    before = cell.current
    SUBJECTS[cell.subject](cell)
    for _ in range(cell.pick(0, 1, 1, 2)):
        _neighbour(cell)
    if cell.chance(0.25):
        _beside(cell, before)
    if cell.chance(0.15):
        cell.outputs.append(cell.pick(before, *cell.shapes))
    return cell


def _neighbour(cell: Cell) -> None:
    for _ in range(8):
        try:
            return cell.pick(*_NEIGHBOURS)(cell)  # type: ignore[no-any-return]
        except NoNodeError:
            continue
    raise NoNodeError


def _beside(cell: Cell, start: str) -> None:
    """Join the result with another branch of the value that the subject reads."""
    end = cell.current
    cell.current = start
    _neighbour(cell)
    other, shape = cell.current, cell.shape
    cell.current = end
    if shape == cell.shape and cell.chance(0.7):
        cell.add(cell.pick("Add", "Sub", "Mul"), other)
    elif shape[:1] == cell.shape[:1] and shape[2:] == cell.shape[2:] and len(shape) > 1:
        cell.add("Concat", other, axis=1)
    else:
        cell.outputs.append(other)


def _feeds(cell: Cell, model: onnx.ModelProto) -> Iterator[dict[str, Array]]:
    """Draw inputs at the sizes that a model may have, some with empty axes.

    Initializers that are inputs get other values than their own in every second run.
    """
    changes: list[dict[int, int]] = [{}, dict.fromkeys(cell.free, 1)]
    changes += [{i: cell.x[i] + 3} for i in cell.free] + [{i: 0} for i in cell.free]
    changes += [{i: 0, j: 0} for i, j in itertools.combinations(cell.free, 2)]
    for number, change in enumerate(changes):
        sizes = [change.get(i, size) for i, size in enumerate(cell.x)]
        feeds = {"x": _drawn(cell.rng, sizes, cell.dtype)}
        for port in model.graph.input[1:]:
            if port.name == "flag":
                feeds[port.name] = np.array(bool(number % 2))
            elif number % 2:
                own = cell.held[port.name]
                feeds[port.name] = np.asarray(own * own.dtype.type(1.5)).astype(own.dtype)
        yield {n: a.astype(np.float32) if a.dtype in _DTYPES else a for n, a in feeds.items()}


def _drawn(rng: np.random.Generator, sizes: list[int], dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu":
        return rng.integers(-9, 9, sizes).astype(dtype)
    return rng.standard_normal(sizes).astype(dtype)


_OTHER = {onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
_DTYPES = (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64))


def as_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes in float32 what one of bfloat16 or float64 computes.

    onnxruntime has few kernels of these types.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    _retype(found)
    return found


def _retype(message: Any) -> None:
    """Replace the types in a message and all that it holds."""
    if isinstance(message, onnx.TensorProto):
        if message.data_type in _OTHER:
            array = onnx.numpy_helper.to_array(message).astype(np.float32)
            message.CopyFrom(onnx.numpy_helper.from_array(array, message.name))
        return
    if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type in _OTHER:
        message.elem_type = onnx.TensorProto.FLOAT
    if isinstance(message, onnx.AttributeProto) and message.name in {"to", "dtype"}:
        message.i = onnx.TensorProto.FLOAT if message.i in _OTHER else message.i
    for _, value in message.ListFields():
        for part in value if hasattr(value, "__len__") else [value]:
            if hasattr(part, "ListFields"):
                _retype(part)
